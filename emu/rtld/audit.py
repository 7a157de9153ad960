"""Auditing: what the linker tells auditors (rtld-audit(7)), and what they may change.

An auditor is an object in a namespace of its own, whose `la_` functions are called as the loading goes on.
Each object has a cookie for each auditor, in guest memory right behind its link map; the auditor may write
there what it likes. `la_objopen` returns for each object whether the auditor wants to hear of bindings to it
and from it.

Source: glibc elf/dl-audit.c.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import TYPE_CHECKING

from emu.core.effects import CallGuest, Effect
from emu.core.events import AuditorChoseFile
from emu.rtld.search_attempt import LA_SER_CONFIG, LA_SER_DEFAULT, LA_SER_LIBPATH, LA_SER_ORIG, LA_SER_RUNPATH

if TYPE_CHECKING:
    from emu.rtld.given import Work
    from emu.rtld.link_map import LinkMap
    from emu.rtld.rtld import Rtld
    from emu.rtld.scope import Namespace
    from emu.rtld.search_view import MapView

LA_ACT_CONSISTENT, LA_ACT_ADD, LA_ACT_DELETE = 0, 1, 2
LA_FLG_BINDTO, LA_FLG_BINDFROM = 1, 2
LA_SYMB_NOPLTENTER, LA_SYMB_NOPLTEXIT, LA_SYMB_DLSYM, LA_SYMB_ALTVALUE = 1, 2, 8, 16
_SOURCES = {
    LA_SER_ORIG: "LA_SER_ORIG",
    LA_SER_LIBPATH: "LA_SER_LIBPATH",
    LA_SER_RUNPATH: "LA_SER_RUNPATH",
    LA_SER_CONFIG: "LA_SER_CONFIG",
    LA_SER_DEFAULT: "LA_SER_DEFAULT",
}
RTLD_AUDIT = 0x08000000
"""Internal mode bit: what is opened is an auditor."""
INTERFACE = (
    "la_activity", "la_objsearch", "la_objopen", "la_preinit", "la_symbind64", "la_x86_64_gnu_pltenter", "la_x86_64_gnu_pltexit", "la_objclose",
)  # fmt: skip
"""The functions of an auditor, in the order in which ld.so looks for them."""


class Auditor:
    """An auditor that takes part.

    `functions` are the addresses of those of its `la_` functions that are there; `index` is its number.
    """

    __slots__ = ("functions", "index", "map")

    def __init__(self, index: int, map_: LinkMap, functions: dict[str, int]) -> None:
        self.index, self.map, self.functions = index, map_, functions


def head_is_auditing(rtld: Rtld, ns: int) -> bool:
    """Whether a namespace is an auditor's: ld.so looks at its first object."""
    maps = rtld.namespaces[ns].maps
    return bool(maps) and maps[0].auditing


def _interested(rtld: Rtld, function: str) -> list[tuple[int, Auditor]]:
    return [
        (auditor.functions[function], auditor) for auditor in rtld.auditors if function in auditor.functions
    ]


def activity(rtld: Rtld, namespace: Namespace, action: int) -> Work:
    """Tell that objects are about to be added to or removed from a namespace, or that
    its list is consistent again.
    """
    if rtld.auditors and namespace.maps and not namespace.maps[0].auditing:
        yield from activity_map(rtld, namespace.maps[0], action)


def activity_map(rtld: Rtld, head: LinkMap, action: int) -> Work:
    """As `activity`, for the namespace that begins with `head`."""
    for function, auditor in _interested(rtld, "la_activity"):
        yield CallGuest(function, (rtld.mirror.audit_cookie(head, auditor.index), action))


def objopen(rtld: Rtld, map_: LinkMap) -> Work:
    """Tell of a new object, and learn which bindings the auditors want to hear of."""
    for function, auditor in _interested(rtld, "la_objopen"):
        cookie = rtld.mirror.audit_cookie(map_, auditor.index)
        if not rtld.rules.second_audit_interface:
            rtld.memory.write_u64(cookie, map_.address)  # in the second it is there from the beginning
        flags = (yield CallGuest(function, (map_.address, map_.ns, cookie))) & 0xFFFFFFFF
        map_.bind_flags[auditor.index] = flags
        map_.audit_any_plt |= flags != 0
        rtld.mirror.audit(map_)


def objclose(rtld: Rtld, map_: LinkMap) -> Work:
    """Tell that an object's destructors have run."""
    if not rtld.auditors or head_is_auditing(rtld, map_.ns):
        return
    for function, auditor in _interested(rtld, "la_objclose"):
        yield CallGuest(function, (rtld.mirror.audit_cookie(map_, auditor.index),))


def preinit(rtld: Rtld, map_: LinkMap) -> Work:
    """Tell that constructors have run and `main` is next."""
    for function, auditor in _interested(rtld, "la_preinit"):
        yield CallGuest(function, (rtld.mirror.audit_cookie(map_, auditor.index),))


def objsearch(rtld: Rtld, name: str, view: MapView, code: int) -> Generator[Effect, int, str | None]:
    """Let the auditors say what is to be looked for or opened in place of `name`; None: nothing.

    What an auditor itself needs is none of their business.
    """
    map_: LinkMap = view  # type: ignore[assignment]  # the search knows link maps by what it needs of them
    interested = _interested(rtld, "la_objsearch")
    if map_.auditing or not interested:
        return name
    address = rtld.guest_string(name)
    for function, auditor in interested:
        cookie = rtld.mirror.audit_cookie(map_, auditor.index)
        address = yield CallGuest(function, (address, cookie, code))
        chosen = os.fsdecode(rtld.memory.read_cstr(address)) if address else None
        if chosen != name and rtld.bus.libs:
            source = _SOURCES.get(code, str(code))
            rtld.bus.emit(
                AuditorChoseFile(auditor.map.display_name, name, chosen or "", source, map_.display_name)
            )
        if chosen is None:
            return None
        name = chosen
    return name
