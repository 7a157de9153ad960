"""Errors of the linker as ld.so words them."""

from __future__ import annotations

from emu.core.errors import ElfError, EmuError, LinkError, LoaderError
from emu.rtld.error import strerror
from emu.rtld.rtld import VersionErrors


def link_error(name: str, error: BaseException) -> EmuError:
    """Return the error as ld.so words it. Source: glibc elf/dl-error-skeleton.c:fatal_error."""
    if isinstance(error, VersionErrors):
        return LinkError("\n".join(f"{name}: {e.object_name}: {e.text}" for e in error.errors), 1)
    if isinstance(error, ElfError):
        return LinkError(f"{name}: error while loading shared libraries: {error.object_name}: {error.reason}")
    if isinstance(error, LoaderError):
        occasion = error.occasion or "error while loading shared libraries"
        text = error.text + (f": {strerror(error.errno)}" if error.errno else "")
        where = f"{error.object_name}: " if error.object_name else ""
        return LinkError(f"{name}: {occasion}: {where}{text}")
    assert isinstance(error, EmuError)
    return error
