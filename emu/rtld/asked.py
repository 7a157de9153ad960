"""A look-up by dlsym or dlvsym, as it is told of: with all that it takes to ask again.

Source: glibc elf/dl-sym.c:do_sym.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.core.record import NamedTuple

if TYPE_CHECKING:
    from emu.rtld.found import Found
    from emu.rtld.link_map import LinkMap
    from emu.rtld.scope import Scope
    from emu.rtld.version import Version

RTLD_DEFAULT, RTLD_NEXT = 0, (1 << 64) - 1


class SymbolAsked(NamedTuple):
    """The look-up of `name` for `map`: the object that counts as the caller, or the one that a handle is of.

    `skip` is the object behind which an RTLD_NEXT begins; `caller` the return address of dlsym (0: unknown,
    libc asks for itself).
    """

    name: bytes
    map: LinkMap
    scopes: tuple[Scope, ...]
    version: Version | None
    flags: int
    skip: LinkMap | None
    handle: str
    caller: int
    found: Found | None
