"""RELRO: what is read-only once it is relocated. Source: glibc elf/dl-reloc.c:_dl_protect_relro."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from emu.core.errors import ElfError, LoaderError
from emu.core.events import RelroProtected
from emu.rtld.link_map import LT_LIBRARY

if TYPE_CHECKING:
    from emu.rtld.link_map import LinkMap
    from emu.rtld.rtld import Rtld

_PAGE = 4096
_M64 = (1 << 64) - 1


def protect_relro(rtld: Rtld, map_: LinkMap) -> None:
    """Make the whole pages of the RELRO range read-only.

    Raises LoaderError in ld.so's words, and ElfError for a library that starts with the program and whose
    range leads into what lies behind it. Source: glibc elf/dl-reloc.c:_dl_protect_relro.
    """
    if map_.relro is None:
        return
    start = map_.relro[0] & -_PAGE & _M64
    end = (map_.relro[0] + map_.relro[1]) & -_PAGE & _M64
    if start != end:
        last = -(-map_.map_end // _PAGE) * _PAGE
        if map_.type == LT_LIBRARY and start < last < end:
            raise ElfError(
                map_.display_name,
                f"its PT_GNU_RELRO goes {end - last:#x} bytes beyond its end: ld.so makes what happens to lie there read-only, too, and may die"
                " of it (SIGSEGV), or finds nothing there and cannot apply additional memory protection after relocation",
            )
        try:
            if start < map_.map_start & -_PAGE or not start < end <= last:
                raise OSError(errno.ENOMEM, "RELRO range outside the object")
            rtld.mappings.mprotect(start, end - start, 1)
        except OSError as error:
            raise LoaderError(
                map_.name,
                "cannot apply additional memory protection after relocation",
                error.errno or 0,
            ) from None
        if rtld.bus.reloc:
            rtld.bus.emit(RelroProtected(map_.display_name, start, end))
