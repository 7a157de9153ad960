"""A library in the place of a program: the empty program needs it, or opens and
closes it, and questions are asked as of any other.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

from emu.core.effects import CallGuest, Hosted
from emu.core.errors import ElfError, SysrootError
from emu.elf import constants as c
from emu.elf.header import parse_ehdr, parse_phdrs
from emu.glibc.host_program import build_host_program, host_program_for

if TYPE_CHECKING:
    from emu.elf.header import Ehdr
    from emu.glibc.call import HostedCall
    from emu.glibc.contract import Contract
    from emu.process.config import RunConfig
    from emu.process.process import Process

HOST = "emu-host"
_HEADERS = 1 << 16
_RTLD_NOW = 2
_FAILED = 1


def is_library(path: str, sysroot: str) -> bool:
    """Whether a guest path is a shared object that is no program:
    it has no interpreter, and is no static PIE.

    What cannot be read, or is no ELF file, is none: whoever runs it says why. Source: gABI "Program
    Interpreter"; psABI; DF_1_PIE.
    """
    return _library(path, sysroot) is not None


def starts_nowhere(path: str, sysroot: str) -> bool:
    """Whether a guest path is a library that names no first instruction: a run ends at once, natively, too.

    Source: gABI (e_entry).
    """
    ehdr = _library(path, sysroot)
    return ehdr is not None and not ehdr.entry


def _library(path: str, sysroot: str) -> Ehdr | None:
    """Return the header of a library, None if the guest path is none."""
    host = path if sysroot == "/" else _inside(sysroot, path)
    if not os.path.isfile(host):  # opening a FIFO would wait
        return None
    try:
        with open(host, "rb") as file:
            head = file.read(_HEADERS)
            ehdr = parse_ehdr(head, path)
            phdrs = parse_phdrs(head, ehdr, path)
            kinds = {phdr.type: phdr for phdr in phdrs}
            if ehdr.type != c.ET_DYN or c.PT_INTERP in kinds or c.PT_DYNAMIC not in kinds:
                return None
            found = kinds[c.PT_DYNAMIC]
            file.seek(found.offset)
            dynamic = file.read(min(found.filesz, _HEADERS))
    except (OSError, ElfError):
        return None
    entries = dict(struct.iter_unpack("<qQ", dynamic[: len(dynamic) // 16 * 16]))
    return None if entries.get(c.DT_FLAGS_1, 0) & c.DF_1_PIE else ehdr


def _inside(sysroot: str, path: str) -> str:
    """Return the host path of a guest path, with links followed as the guest would follow them."""
    from emu.sysroot.inside import resolve

    try:
        return resolve(os.path.realpath(sysroot), path)
    except SysrootError:  # links in a circle
        return ""


def needing(config: RunConfig) -> RunConfig:
    """Return the run of an empty program that needs the library."""
    host = host_program_for(config.sysroot, [os.fsencode(os.path.join(config.cwd, config.program))])
    return config._replace(program=HOST, argv0=HOST, image=host.image)


def opening(config: RunConfig) -> RunConfig:
    """Return the run of an empty program that opens the library, closes it, and ends."""
    return config._replace(
        program=HOST, argv0=HOST, image=host_program_for(config.sysroot).image, library=config.program
    )


def attach(process: Process) -> None:
    """Let the empty program's `main` open and close the library that is configured, if one is."""
    contract, loaded = process.contract, process.loaded
    assert contract is not None and loaded is not None

    def main(contract: Contract, _call: HostedCall) -> Hosted:
        if not process.config.library:
            return 0
        path = contract.rtld.heap.string(os.fsencode(process.config.library))
        handle = yield CallGuest(contract.guest_function(b"dlopen"), (path, _RTLD_NOW))
        if not handle:
            return _FAILED
        return (yield CallGuest(contract.guest_function(b"dlclose"), (handle,)))

    contract.plant(loaded.program.bias + build_host_program().main, main)
