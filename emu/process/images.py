"""What the kernel has mapped, as the linker is told of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.elf import constants as c
from emu.elf.header import parse_ehdr, parse_phdrs
from emu.glibc.contract import StartInfo
from emu.rtld.given import MappedObject

if TYPE_CHECKING:
    from emu.kernel.exec import ExecImage, Loaded
    from emu.machine.address_space import AddressSpace


def mapped(image: ExecImage) -> MappedObject:
    """Return the program or its interpreter."""
    return MappedObject(
        image.path, image.bias, image.entry, image.phdr, list(image.phdrs), (image.file.dev, image.file.ino)
    )


def map_of_vdso(space: AddressSpace, base: int) -> MappedObject:
    """Return the vDSO."""
    area = space.find(base)
    assert area is not None
    data = space.arena.read(base, area.end - base)
    ehdr = parse_ehdr(data, "linux-vdso.so.1")
    phdrs = parse_phdrs(data, ehdr, "linux-vdso.so.1")
    low = next(p.vaddr for p in phdrs if p.type == c.PT_LOAD)
    return MappedObject("linux-vdso.so.1", base - low, base + ehdr.entry, base + ehdr.phoff, phdrs, (0, 0))


def start_info(loaded: Loaded) -> StartInfo:
    """Return where the stack has what the program was given."""
    argc = len(loaded.argv)
    argv = loaded.stack_pointer + 8
    envp = argv + 8 * (argc + 1)
    auxv = envp + 8 * (len(loaded.envp) + 1)
    return StartInfo(loaded.stack_pointer, dict(loaded.auxv), auxv, argc, argv, envp)
