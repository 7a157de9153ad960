"""Binding: from a reference of an object to the definition that serves it, at
relocation or on the first call of a PLT slot.

Source: glibc elf/dl-runtime.c:_dl_fixup, elf/dl-reloc.c:resolve_map.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from emu.core.dl_events import FirstCallFailed
from emu.core.effects import CallGuest, Effect
from emu.core.errors import ElfError, LoaderError
from emu.core.events import Binding
from emu.core.ldso_events import ErrorSignalled
from emu.elf import constants as c
from emu.elf.relocations import iter_rela, reloc_name
from emu.rtld.audit_binding import RelocResult, pltenter, symbind
from emu.rtld.dependency import ADD_DEPENDENCY
from emu.rtld.failure import Undefined
from emu.rtld.found import Found, symbol_of
from emu.rtld.lookup import CLASS_PLT, Query, lookup_symbol
from emu.rtld.match import ZEROED

if TYPE_CHECKING:
    from emu.rtld.link_map import LinkMap
    from emu.rtld.rtld import Rtld
    from emu.rtld.scope import Scope
    from emu.rtld.version import Version

_OCCASION = "symbol lookup error"
_ENDBR64, _PUSH = b"\xf3\x0f\x1e\xfa", b"\x68"


def undefined(rtld: Rtld, map_: LinkMap, name: bytes, version: Version | None, index: int = 0) -> LoaderError:
    """Return the error for a reference (symbol `index` of `map_`, if any) that nothing
    satisfies, and tell of it.
    """
    text = f"undefined symbol: {name.decode(errors='surrogateescape')}"
    if version is not None:
        text += f", version {version.name.decode(errors='surrogateescape')}"
    if rtld.bus.ldso:
        continued = rtld.receive is not None
        rtld.bus.emit(ErrorSignalled(map_.display_name, _OCCASION, text, continued))
    error = LoaderError(map_.name or rtld.program, text, occasion=_OCCASION)
    error.fact = Undefined(map_, index, name, version)
    return error


def scopes_of(rtld: Rtld, map_: LinkMap) -> list[Scope]:
    """Return the scopes in which references of `map_` are looked up; ld.so's own are in the program's."""
    main = rtld.namespaces[0].main
    return map_.scopes if map_ is not rtld.ld_so or main is None else main.scopes


def bind(rtld: Rtld, map_: LinkMap, symbol: int, type_class: int, flags: int = 0) -> Found | None:
    """Look symbol number `symbol` of `map_` up in its scopes;
    return what it binds to, None for a weak one that nobody defines.

    What is bound to is kept as long as `map_` is there (`flags` tell whether it is being relocated). Raises
    LoaderError "undefined symbol".
    """
    st_name, info, _, _, _, _ = map_.symtab.entry(symbol)
    name = map_.symtab.strings.at(st_name)
    version = reference_version(map_, symbol)
    query = Query(name, map_, symbol, version, type_class, flags | ADD_DEPENDENCY)
    found = lookup_symbol(rtld, query, scopes_of(rtld, map_))
    if found is None and info >> 4 != c.STB_WEAK and not rtld.accept_undefined:
        error = undefined(rtld, map_, name, version, symbol)
        if rtld.receive is None:
            raise error
        rtld.receive(error)
    return found


def fixup(rtld: Rtld, map_: LinkMap, index: int) -> Generator[Effect, int, int]:
    """Bind PLT slot `index` of `map_` and return the function's address. Raises LoaderError."""
    offset, value, _ = yield from _bind_slot(rtld, map_, index)
    if not rtld.bind_not:
        rtld.memory.write_u64(map_.addr + offset, value)
    return value


def profile_fixup(
    rtld: Rtld, map_: LinkMap, index: int, regs: int, framesize_at: int
) -> Generator[Effect, int, int]:
    """As `fixup`, where auditors want to hear of calls: the slot stays as it is,
    so that the next call gets here, too. See `pltenter`.

    Source: glibc elf/dl-runtime.c:_dl_profile_fixup.
    """
    result = (map_.reloc_results or {}).get(index)
    if result is not None and result.done:
        value = result.address
    else:
        _, value, result = yield from _bind_slot(rtld, map_, index)
    if result is None:  # a resolver calls while the object is being relocated, or there is no definition
        rtld.memory.write_u64(framesize_at, (1 << 64) - 1)
        return value
    return (yield from pltenter(rtld, map_, result, value, regs, framesize_at))


def _bind_slot(
    rtld: Rtld, map_: LinkMap, index: int
) -> Generator[Effect, int, tuple[int, int, RelocResult | None]]:
    """Look up what a PLT slot leads to, and ask auditors unless they have said;
    return the slot's offset, the address, and what they said.
    """
    table, _ = map_.dynamic.table(c.DT_JMPREL)
    entry = rtld.memory.read(map_.addr + table + 24 * index, 24)
    offset, info = int.from_bytes(entry[:8], "little"), int.from_bytes(entry[8:16], "little")
    symbol, kind = info >> 32, info & 0xFFFFFFFF
    # Only here every visibility but the default one keeps a reference at home.
    at_home = map_.symtab.entry(symbol).other & 3
    try:
        found = symbol_of(map_, symbol) if at_home else bind(rtld, map_, symbol, CLASS_PLT)
    except LoaderError as error:
        rtld.unbound = error
        if rtld.bus.bindings:
            emit_binding(rtld, map_, symbol, None, kind, offset, True)
        name = map_.symtab.symbol_name(symbol).decode(errors="replace")
        rtld.bus.emit(FirstCallFailed(map_.display_name, map_.ns, name, error.text))
        raise
    yield from rtld.owed.settle()
    value = 0
    if found is not None:
        value = found.address
        if found.type == c.STT_GNU_IFUNC:
            value = yield CallGuest(value)
    if rtld.bus.bindings:
        emit_binding(rtld, map_, symbol, found, kind, offset, True)
    if map_.reloc_results is None or found is None:
        return offset, value, None
    result = map_.reloc_results.setdefault(index, RelocResult())
    if result.done:
        return offset, result.address, result
    value = yield from symbind(rtld, map_, found, value, result)
    if not rtld.bind_not:
        result.address, result.done = value, True
    return offset, value, result


def plt_slot(rtld: Rtld, map_: LinkMap, name: bytes) -> tuple[int, int] | None:
    """Return the index and the address of the PLT slot of `map_` for `name`, None if it has none."""
    entries = iter_rela(map_.table(rtld.memory, c.DT_JMPREL), map_.display_name)
    for index, (offset, info, _) in enumerate(entries):
        if info & 0xFFFFFFFF == c.R_X86_64_JUMP_SLOT and map_.symtab.symbol_name(info >> 32) == name:
            return index, map_.addr + offset
    return None


def plt_target(rtld: Rtld, map_: LinkMap, index: int, slot: int) -> Generator[Effect, int, int]:
    """Return what a call through a PLT slot reaches;
    the first call binds it, under auditing in the guest's own way: by the PLT.

    A slot that is not bound leads to its own entry in the PLT, which pushes its index. Source: psABI 5.2.3,
    figure 5.3.
    """
    address = rtld.memory.read_u64(slot)
    if map_.map_start <= address < map_.map_end:
        code = rtld.memory.read(address, 16).removeprefix(_ENDBR64)
        if code.startswith(_PUSH + index.to_bytes(4, "little")) and map_.reloc_results is None:
            return (yield from fixup(rtld, map_, index))
    return address


def emit_binding(
    rtld: Rtld, map_: LinkMap, symbol: int, found: Found | None, kind: int, offset: int, lazy: bool
) -> None:
    """Tell who bound what where, with the version that the reference asked for."""
    name = map_.symtab.symbol_name(symbol).decode(errors="replace")
    version = reference_version(map_, symbol)
    target, address = "", 0
    if found is not None:
        target, address = found.map.display_name, found.address
    text = version.name.decode(errors="replace") if version is not None else ""
    rtld.bus.emit(
        Binding(map_.display_name, name, text, target, address, map_.addr + offset, reloc_name(kind), lazy)
    )


def reference_version(map_: LinkMap, symbol: int) -> Version | None:
    """Return the version that a reference of `map_` asks for, or None."""
    if map_.symtab.versym is None:
        return None
    index = map_.symtab.version_index(symbol) & 0x7FFF
    if index and not map_.versions:
        raise ElfError(map_.display_name, f"symbol {symbol} has version {index}, but there are no versions")
    if index > len(map_.versions) + ZEROED:
        raise ElfError(map_.display_name, f"symbol {symbol} has version {index} of {len(map_.versions)}")
    version = map_.versions[index] if index < len(map_.versions) else None
    return version if version is None or version.hash else None
