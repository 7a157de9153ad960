"""Errors of the linker as ld.so words them."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from emu.core.errors import ElfError, EmuError, LinkError, LoaderError, MemoryFault
from emu.core.text import printable
from emu.rtld.error import strerror
from emu.rtld.given import VersionErrors

if TYPE_CHECKING:
    from emu.process.config import RunConfig


def link_error(name: str, error: BaseException) -> EmuError:
    """Return the error as ld.so words it, as one line for each thing that is wrong.

    Source: glibc elf/dl-error-skeleton.c:fatal_error.
    """
    if isinstance(error, VersionErrors):
        lines = [printable(f"{name}: {e.object_name}: {e.text}") for e in error.errors]
        last = link_error(name, error.last) if error.last is not None else None
        code = last.exit_code if last is not None else error.exit_code
        if last is not None:
            lines.append(str(last))
        return LinkError("\n".join(lines), code, error)
    if isinstance(error, ElfError):
        line = f"{name}: error while loading shared libraries: {error.object_name}: {error.reason}"
        return LinkError(printable(line), cause=error)
    if isinstance(error, LoaderError):
        occasion = error.occasion or "error while loading shared libraries"
        text = error.text + (f": {strerror(error.errno)}" if error.errno else "")
        where = f"{error.object_name}: " if error.object_name else ""
        return LinkError(printable(f"{name}: {occasion}: {where}{text}"), cause=error)
    assert isinstance(error, EmuError)
    return error


def died_of(fault: MemoryFault) -> str:
    """Return what is said where ld.so would die by SIGSEGV of what a file says."""
    return f"what the files say leads ld.so to a {fault.access} of {fault.address:#x}, where nothing is: it dies of that (SIGSEGV)"


def no_room(config: RunConfig, error: OSError) -> EmuError:
    """Return what ends a program that has no room to start."""
    limit = config.max_memory
    if error.errno != errno.ENOMEM or limit is None:
        return EmuError(f"{config.program}: {error.strerror or error}")
    return EmuError(f"{config.program}: no memory to start it: --max-memory is {limit} bytes")
