"""RELRO: what is read-only once it is relocated. Source: glibc elf/dl-reloc.c:_dl_protect_relro."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from emu.core.errors import LoaderError
from emu.core.events import RelroProtected

if TYPE_CHECKING:
    from emu.rtld.link_map import LinkMap
    from emu.rtld.rtld import Rtld

_PAGE = 4096
_M64 = (1 << 64) - 1


def protect_relro(rtld: Rtld, map_: LinkMap) -> None:
    """Make the whole pages of the RELRO range read-only. Source: glibc elf/dl-reloc.c:_dl_protect_relro."""
    if map_.relro is None:
        return
    start = map_.relro[0] & -_PAGE & _M64
    end = (map_.relro[0] + map_.relro[1]) & -_PAGE & _M64
    if start != end:
        try:
            if start < map_.map_start & -_PAGE or not start < end <= -(-map_.map_end // _PAGE) * _PAGE:
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
