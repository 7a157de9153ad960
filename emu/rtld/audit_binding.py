"""Auditing of bindings: la_symbind64 for each that an auditor wants to hear of, la_x86_64_gnu_pltenter and
pltexit for each call through a PLT slot.

An auditor hears of a binding where it has asked for it at both ends (LA_FLG_BINDFROM, LA_FLG_BINDTO), of a
dlsym where it has at either; it may return another address. Two bits for each auditor say which calls it does
not want to hear of; the two lowest sum them up.

Source: glibc elf/dl-audit.c:_dl_audit_symbind, _dl_audit_symbind_alt, _dl_audit_pltenter, _dl_audit_pltexit.
"""

from __future__ import annotations

import struct
from collections.abc import Generator
from typing import TYPE_CHECKING

from emu.core.effects import CallGuest, Effect
from emu.core.events import AuditorChoseAddress
from emu.elf import constants as c
from emu.rtld.audit import (
    LA_FLG_BINDFROM,
    LA_FLG_BINDTO,
    LA_SYMB_ALTVALUE,
    LA_SYMB_DLSYM,
    LA_SYMB_NOPLTENTER,
    LA_SYMB_NOPLTEXIT,
)
from emu.rtld.scope import DL_NNS

if TYPE_CHECKING:
    from emu.rtld.audit import Auditor
    from emu.rtld.found import Found
    from emu.rtld.given import Work
    from emu.rtld.link_map import LinkMap
    from emu.rtld.rtld import Rtld

SYMBIND, PLTENTER, PLTEXIT = "la_symbind64", "la_x86_64_gnu_pltenter", "la_x86_64_gnu_pltexit"
_HEARD_NOTHING = LA_SYMB_NOPLTENTER | LA_SYMB_NOPLTEXIT
_SYM = struct.Struct("<IBBHQQ")
_RELOC_RESULT_SIZE = 32
_NO_FRAME = -1
_M32 = 0xFFFFFFFF


class RelocResult:
    """What is known of a PLT slot under auditing:
    where it leads, what it is bound to, what each auditor wants to hear of its calls.

    It is `done` once the address holds; with LD_BIND_NOT it never does.
    """

    __slots__ = ("address", "done", "enterexit", "flags", "found")

    def __init__(self) -> None:
        self.address = self.flags = 0
        self.done = False
        self.enterexit = (1 << DL_NNS) - 1
        self.found: Found | None = None


def wishes(rtld: Rtld) -> tuple[bool, bool]:
    """Return whether any auditor wants to hear of calls, and whether any wants to hear of bindings."""
    known = [auditor.functions for auditor in rtld.auditors]
    return any(PLTENTER in f or PLTEXIT in f for f in known), any(SYMBIND in f for f in known)


def audit_slots(rtld: Rtld, map_: LinkMap) -> Work:
    """From now on auditors are asked about the PLT slots of an object.

    Their memory comes from the guest's calloc, which may be the program's own.
    """
    map_.reloc_results = {}
    calloc = rtld.allocator.get(b"calloc")
    if calloc is not None:
        _, size = map_.dynamic.table(c.DT_JMPREL)
        map_.reloc_result = yield CallGuest(calloc, (_RELOC_RESULT_SIZE, size // 24))
        rtld.mirror.audit(map_)


def forget_slots(rtld: Rtld, map_: LinkMap) -> Work:
    """Give that memory back: the object goes."""
    if map_.reloc_result:
        yield CallGuest(rtld.allocator[b"free"], (map_.reloc_result,))


class _Symbol:
    """The symbol that auditors are shown: the definition, with the address that it amounts to for its value;
    in guest memory, as the flags are.
    """

    def __init__(self, rtld: Rtld, found: Found, value: int) -> None:
        self._rtld = rtld
        map_, self.index = found.map, found.number
        name, *_ = map_.symtab.entry(self.index)
        self.address = rtld.heap.allocate(48, 16)
        self.flags_at, self.frame_at = self.address + 24, self.address + 32
        rtld.memory.write(
            self.address, _SYM.pack(name, found.info, found.other, found.shndx, value, found.size)
        )
        strings = map_.dynamic.get(c.DT_STRTAB) or 0
        self.name_at = map_.addr + strings + name
        self.name = map_.symtab.strings.at(name)

    @property
    def value(self) -> int:
        """The symbol's value now: an auditor may have written another one."""
        return self._rtld.memory.read_u64(self.address + 8)

    @value.setter
    def value(self, value: int) -> None:
        self._rtld.memory.write_u64(self.address + 8, value)

    @property
    def flags(self) -> int:
        """The LA_SYMB_* flags, as the auditor that was asked last has left them."""
        return int.from_bytes(self._rtld.memory.read(self.flags_at, 4), "little")

    @flags.setter
    def flags(self, flags: int) -> None:
        self._rtld.memory.write(self.flags_at, (flags & _M32).to_bytes(4, "little"))

    def free(self) -> None:
        """Give the guest's copy of the symbol back."""
        self._rtld.heap.free(self.address)


def _tell(
    rtld: Rtld, auditor: Auditor, map_: LinkMap, found: Found, before: int, after: int, how: str
) -> None:
    if rtld.bus.bindings:
        name = found.name.decode(errors="replace")
        target, origin = found.map.display_name, map_.display_name
        rtld.bus.emit(AuditorChoseAddress(auditor.map.display_name, origin, name, target, before, after, how))


def _cookies(rtld: Rtld, auditor: Auditor, map_: LinkMap, target: LinkMap) -> tuple[int, int]:
    cookie = rtld.mirror.audit_cookie
    return cookie(map_, auditor.index), cookie(target, auditor.index)


def symbind(
    rtld: Rtld, map_: LinkMap, found: Found, value: int, result: RelocResult | None
) -> Generator[Effect, int, int]:
    """Tell of a binding of `map_`; return the address that holds.

    `result` is None where a slot is bound for good: its calls cannot be heard of.
    """
    target = found.map
    if result is not None:
        result.found = found
    if not (map_.audit_any_plt or target.audit_any_plt):
        return value  # nobody wants to hear of the calls, either: so the bits are set from the beginning
    symbol = _Symbol(rtld, found, value)
    flags, enterexit = 0, _HEARD_NOTHING
    for number, auditor in enumerate(rtld.auditors, 1):
        if not (
            map_.bind_flags.get(auditor.index, 0) & LA_FLG_BINDFROM
            and target.bind_flags.get(auditor.index, 0) & LA_FLG_BINDTO
        ):
            enterexit |= _HEARD_NOTHING << 2 * number
            continue
        if (function := auditor.functions.get(SYMBIND)) is not None:
            flags |= _HEARD_NOTHING if result is None else 0
            symbol.flags = flags
            arguments = (
                symbol.index,
                *_cookies(rtld, auditor, map_, target),
                symbol.flags_at,
                symbol.name_at,
            )
            chosen = yield CallGuest(function, (symbol.address, *arguments))
            flags = symbol.flags
            if chosen != symbol.value:
                _tell(rtld, auditor, map_, found, symbol.value, chosen, SYMBIND)
                flags |= LA_SYMB_ALTVALUE
                symbol.value = chosen
        enterexit &= flags & _HEARD_NOTHING
        enterexit |= (flags & _HEARD_NOTHING) << 2 * number
    if result is not None:
        result.enterexit, result.flags = enterexit & _M32, flags
    value = symbol.value if flags & LA_SYMB_ALTVALUE else value
    symbol.free()
    return value


def symbind_dlsym(rtld: Rtld, map_: LinkMap, found: Found, value: int) -> Generator[Effect, int, int]:
    """Tell of a dlsym by `map_`; return the address that it gets.

    The list of auditors goes on only past one that was asked: after one that does not want to hear, it is
    asked again in the name of the next.
    """
    target = found.map
    if not (map_.audit_any_plt or target.audit_any_plt):
        return value
    symbol = _Symbol(rtld, found, value)
    changed = 0
    asked = iter(rtld.auditors)
    auditor = next(asked, None)
    for index in range(len(rtld.auditors)):
        function = auditor.functions.get(SYMBIND) if auditor is not None else None
        wanted = (
            map_.bind_flags.get(index, 0) & LA_FLG_BINDFROM or target.bind_flags.get(index, 0) & LA_FLG_BINDTO
        )
        if auditor is not None and function is not None and wanted:
            symbol.flags = changed | LA_SYMB_DLSYM
            cookies = rtld.mirror.audit_cookie(map_, index), rtld.mirror.audit_cookie(target, index)
            chosen = yield CallGuest(
                function, (symbol.address, symbol.index, *cookies, symbol.flags_at, symbol.name_at)
            )
            if chosen != symbol.value:
                _tell(rtld, auditor, map_, found, symbol.value, chosen, SYMBIND)
                changed = LA_SYMB_ALTVALUE
                symbol.value = chosen
            auditor = next(asked, None)
    value = symbol.value
    symbol.free()
    return value


def pltenter(
    rtld: Rtld, map_: LinkMap, result: RelocResult, value: int, regs: int, framesize_at: int
) -> Generator[Effect, int, int]:
    """Tell of a call through a PLT slot, with its registers at `regs`; return where it goes.

    What lies at `framesize_at` becomes the number of bytes of arguments on the stack if anybody wants to hear
    of the return, else -1.
    """
    framesize = _NO_FRAME
    if result.found is not None and not result.enterexit & LA_SYMB_NOPLTENTER:
        target = result.found.map
        symbol = _Symbol(rtld, result.found, value)
        symbol.flags = result.flags
        for number, auditor in enumerate(rtld.auditors, 1):
            function = auditor.functions.get(PLTENTER)
            if function is None or result.enterexit & LA_SYMB_NOPLTENTER << 2 * number:
                continue
            rtld.memory.write_u64(symbol.frame_at, _NO_FRAME & (1 << 64) - 1)
            arguments = (symbol.index, *_cookies(rtld, auditor, map_, target), regs, symbol.flags_at)
            chosen = yield CallGuest(function, (symbol.address, *arguments, symbol.name_at, symbol.frame_at))
            if chosen != symbol.value:
                _tell(rtld, auditor, map_, result.found, symbol.value, chosen, PLTENTER)
                symbol.flags |= LA_SYMB_ALTVALUE
                symbol.value = chosen
            result.enterexit |= (symbol.flags & _HEARD_NOTHING) << 2 * number
            wanted = rtld.memory.read_u64(symbol.frame_at)
            wanted -= (wanted >> 63) << 64
            if (
                not result.enterexit & LA_SYMB_NOPLTEXIT << 2 * number
                and wanted != _NO_FRAME
                and framesize != -2
            ):
                framesize = wanted if framesize == _NO_FRAME else max(wanted, framesize)
        value = symbol.value
        symbol.free()
    rtld.memory.write_u64(framesize_at, framesize & (1 << 64) - 1)
    return value


def pltexit(rtld: Rtld, map_: LinkMap, result: RelocResult, inregs: int, outregs: int) -> Work:
    """Tell of the return of a call through a PLT slot.

    The bits that are looked at are those of ld.so, which shifts them to the other side: an auditor but the
    first always hears of it.
    """
    if result.found is None:
        return
    symbol = _Symbol(rtld, result.found, result.address)
    for auditor in rtld.auditors:
        function = auditor.functions.get(PLTEXIT)
        if function is None or result.enterexit & LA_SYMB_NOPLTEXIT >> 2 * auditor.index:
            continue
        arguments = (symbol.index, *_cookies(rtld, auditor, map_, result.found.map), inregs, outregs)
        yield CallGuest(function, (symbol.address, *arguments, symbol.name_at))
    symbol.free()
