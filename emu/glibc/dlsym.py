"""dlsym and dlvsym: libc finds out on whose behalf and in which scopes, and asks the linker.

What they ask reaches the linker without the address of the call, which a watch on their first instructions
keeps.
Source: glibc elf/dl-sym.c, dlfcn/dlsym.c, elf/dl-lookup.c.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from emu.core.effects import Hosted
from emu.core.errors import MemoryFault
from emu.core.events import Binding
from emu.core.record import NamedTuple
from emu.elf import constants as c
from emu.glibc.call import HostedCall
from emu.rtld.asked import RTLD_DEFAULT, RTLD_NEXT, SymbolAsked
from emu.rtld.dependency import ADD_DEPENDENCY
from emu.rtld.lookup import Query, lookup_symbol
from emu.rtld.runtime import undefined
from emu.rtld.version import Version

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.glibc.contract import Contract
    from emu.rtld.link_map import LinkMap
    from emu.rtld.scope import Scope


class DlsymCall(NamedTuple):
    """A dlsym that has been entered: the return address, the handle, and where the name lies (which tells its
    look-up from libc's own).
    """

    caller: int
    handle: int
    name: int


def lookup_symbol_x(contract: Contract, call: HostedCall) -> int | Hosted:
    """`_dl_lookup_symbol_x(name, undef_map, ref, scopes, version, type_class,
    flags, skip_map)` for libc's dlsym and iconv.

    Returns the defining link map and stores the guest address of its symbol at `ref`.
    """
    arena, rtld = contract.arena, contract.rtld
    name = arena.read_cstr(call.args[0])
    version = _version(contract, call.args[4])
    closed = rtld.departed.get(call.args[1])
    if closed is not None:  # ld.so looks into what is left of its scope, and finds nothing there
        arena.write_u64(call.args[2], 0)
        return contract.errors.signal(undefined(rtld, closed, name, version))
    undef_map = contract.link_map(call.args[1])
    scopes = [contract.scope_at(address) for address in _pointers(contract, call.args[3])]
    flags = arena.read_u64(call.rsp + 8) & 0xFFFFFFFF
    skip = rtld.by_address.get(arena.read_u64(call.rsp + 16))
    if skip is not None and not scopes:
        raise MemoryFault(
            0, "read"
        )  # RTLD_NEXT by ld.so itself, which has no scope: ld.so follows the null pointer
    reference = arena.read_u64(call.args[2])
    query = Query(name, undef_map, 0, version, call.args[5] & 0xFFFFFFFF, flags, skip)
    found = lookup_symbol(rtld, query, scopes)
    if rtld.bus.bindings:
        entered = _entered(contract, call.args[0])
        handle = _handle(contract, entered, undef_map, flags, skip)
        known = tuple(_as_known(scope, undef_map) for scope in scopes)
        caller = entered.caller if entered is not None else 0
        _tell(contract, SymbolAsked(name, undef_map, known, version, flags, skip, handle, caller, found))
    if found is None:
        arena.write_u64(call.args[2], 0)
        weak = reference and arena.read(reference + 4, 1)[0] >> 4 == c.STB_WEAK
        if weak or rtld.accept_undefined:
            return 0
        return contract.errors.signal(undefined(rtld, undef_map, name, version))
    symtab = found.map.dynamic.get(c.DT_SYMTAB)
    assert symtab is not None
    arena.write_u64(call.args[2], found.map.addr + symtab + 24 * found.number)
    return found.map.address


def _entered(contract: Contract, name: int) -> DlsymCall | None:
    """Return the call of dlsym that the running thread is in, if this look-up is its."""
    thread = contract.thread_pointer()
    entered = contract.dlsym_calls.get(thread)
    if entered is None or entered.name != name:
        return None
    del contract.dlsym_calls[thread]
    return entered


def _handle(
    contract: Contract, entered: DlsymCall | None, undef_map: LinkMap, flags: int, skip: LinkMap | None
) -> str:
    """Return what dlsym was given as its handle, for people."""
    if skip is not None:
        return "RTLD_NEXT"
    if entered is None:
        return "RTLD_DEFAULT" if flags & ADD_DEPENDENCY else undef_map.display_name
    if entered.handle in (RTLD_DEFAULT, RTLD_NEXT):
        return "RTLD_DEFAULT" if entered.handle == RTLD_DEFAULT else "RTLD_NEXT"
    map_ = contract.rtld.by_address.get(entered.handle)
    return map_.display_name if map_ is not None else f"{entered.handle:#x}"


def _as_known(scope: Scope, undef_map: LinkMap) -> Scope:
    """Return the linker's own scope of which `scope` was read from the guest: that one knows its owner."""
    root = undef_map
    while root.loader is not None:
        root = root.loader
    for known in (*undef_map.scopes, undef_map.local_scope, root.local_scope):
        if known.maps == scope.maps:
            return known
    return scope


def _tell(contract: Contract, asked: SymbolAsked) -> None:
    """Tell of the look-up, whatever came of it."""
    rtld, found = contract.rtld, asked.found
    target, address = "", 0
    if found is not None:
        target, address = found.map.display_name, found.address
    version = asked.version.name.decode(errors="replace") if asked.version is not None else ""
    caller = rtld.describe_caller(asked.caller) if asked.caller else ""
    event = Binding(
        asked.map.display_name, asked.name.decode(errors="replace"), version, target, address, 0, "dlsym", False, asked.handle, caller,
    )  # fmt: skip
    rtld.tell_asked(event, asked)


def _pointers(contract: Contract, address: int) -> Iterator[int]:
    while value := contract.arena.read_u64(address):
        yield value
        address += 8


def _version(contract: Contract, address: int) -> Version | None:
    if not address:
        return None
    name, hash_, hidden = struct.unpack("<QIi", contract.arena.read(address, 16))
    return Version(contract.arena.read_cstr(name), hash_, bool(hidden), b"")
