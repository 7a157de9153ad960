"""Shared by the tests of `emu.elf`: an object with a bit of everything, and the readers in one call."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

from emu.elf import constants as c
from emu.elf.builder import ElfBuilder
from emu.elf.dynamic import Dynamic
from emu.elf.eh_frame import FrameEntry
from emu.elf.header import Ehdr, Phdr, check_loadable, parse_ehdr, parse_phdrs
from emu.elf.image import FileImage
from emu.elf.symtab import SymbolTable
from emu.elf.versions import VersionDef, VersionNeed, version_defs, version_needs

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

RETURN_42 = b"\xb8\x2a\x00\x00\x00\xc3"  # mov $42, %eax; ret
LIBSTDCXX = "/usr/lib/x86_64-linux-gnu/libstdc++.so.6"
LIBC = "/lib/x86_64-linux-gnu/libc.so.6"
REAL_OBJECTS = (LIBSTDCXX, LIBC, "/lib64/ld-linux-x86-64.so.2", "/bin/ls")


class Object(NamedTuple):
    """Everything that the readers say about an object."""

    ehdr: Ehdr
    phdrs: list[Phdr]
    image: FileImage
    dynamic: Dynamic
    table: SymbolTable
    defs: list[VersionDef]
    needs: list[VersionNeed]


def read_object(data: bytes, name: str, *, open_exec: bool = False) -> Object:
    """Read all of an object, as a loader would."""
    ehdr = parse_ehdr(data, name)
    phdrs = parse_phdrs(data, ehdr, name)
    check_loadable(ehdr, phdrs, name, open_exec=open_exec)
    image = FileImage(data, phdrs, name)
    segment = next(phdr for phdr in phdrs if phdr.type == c.PT_DYNAMIC)
    dynamic = Dynamic(image.read(segment.vaddr, segment.filesz), name)
    table = SymbolTable(image, phdrs, dynamic, name)
    defs = list(version_defs(image, dynamic, table.strings, name))
    needs = list(version_needs(image, dynamic, table.strings, name))
    return Object(ehdr, phdrs, image, dynamic, table, defs, needs)


def rich_builder() -> ElfBuilder:
    """Return a builder of a DSO that uses everything that the builder can write."""
    b = ElfBuilder(soname=b"librich.so", hash_style="both")
    b.needed = [b"libc.so.6"]
    b.flags = c.DF_BIND_NOW
    b.need_version(b"libc.so.6", b"GLIBC_ABI_DT_RELR")  # glibc refuses DT_RELR beside libc without it
    answer = b.text(RETURN_42)
    # sub $8,%rsp; call *slot(%rip); add $8,%rsp; ret
    getpid = b.undefined(b"getpid", version=b"GLIBC_2.2.5", file=b"libc.so.6", type_=c.STT_FUNC)
    slot = b.data(bytes(8))
    pid = _call_through(b, slot)
    b.rela(c.R_X86_64_JUMP_SLOT, slot, getpid, plt=True)
    ran = b.data(bytes(8))
    b.define(b"ran", ran, size=8, type_=c.STT_OBJECT)
    constructor = _increment(b, ran)
    b.init_array = [constructor]
    first = b.define(b"answer", answer, size=6, version=b"RICH_1", default=False)
    b.version(b"RICH_2", (b"RICH_1",))
    b.define(b"answer", b.text(b"\xb8\x2b\x00\x00\x00\xc3"), size=6, version=b"RICH_2")
    b.define(b"pid", pid, size=14)
    pointer = b.data(bytes(8))
    b.rela(c.R_X86_64_64, pointer, first)
    b.define(b"pointer", pointer, size=8, type_=c.STT_OBJECT)
    table = b.data(bytes(8 * 200))
    for index in range(0, 200, 3):
        b.relr(table + 8 * index, answer)
    b.define(b"table", table, size=1600, type_=c.STT_OBJECT)
    b.define(b"zeroes", b.bss(5000), size=5000, type_=c.STT_OBJECT)
    b.define(b"tls_one", b.tls(b"\x01\0\0\0", 4), size=4, type_=c.STT_TLS)
    b.define(b"tls_zero", b.tbss(8), size=8, type_=c.STT_TLS)
    b.note(b"GNU", c.NT_GNU_BUILD_ID, bytes(range(20)))
    b.gnu_property(c.GNU_PROPERTY_X86_ISA_1_NEEDED, c.GNU_PROPERTY_X86_ISA_1_BASELINE)
    b.frames = [FrameEntry(answer, 6), FrameEntry(pid, 14, bytes([0x44, 0x0E, 16]))]
    return b


def _call_through(b: ElfBuilder, slot: int) -> int:
    code_at = b.text(b"\x48\x83\xec\x08")
    after = code_at + 4 + 6
    b.text(b"\xff\x15" + (slot - after).to_bytes(4, "little", signed=True) + b"\x48\x83\xc4\x08\xc3", 1)
    return code_at


def _increment(b: ElfBuilder, target: int) -> int:
    code_at = b.text(b"")
    after = code_at + 7  # incq displacement(%rip) is seven bytes
    return b.text(b"\x48\xff\x05" + (target - after).to_bytes(4, "little", signed=True) + b"\xc3")


def dlopen_errors(paths: Sequence[Path]) -> list[str]:
    """Return what the native ld.so says to each file, "" when it loads it, with the path shown as P."""
    code = (
        "import ctypes, sys\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n        ctypes.CDLL(path)\n        print('')\n"
        "    except OSError as error:\n        print(str(error).replace(path, 'P'))\n"
    )
    command = [sys.executable, "-S", "-c", code, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.split("\n")[:-1]
