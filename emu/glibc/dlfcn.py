"""What libc's dlopen, dlclose, dlsym and dlinfo reach of ld.so: hosted entries over the run-time linker.

Libc's own functions stay what they are; these are the pointers in `_rtld_global_ro` and the private symbols that they call.

Source: glibc dlfcn/, elf/dl-open.c, elf/dl-close.c, elf/dl-lookup.c, elf/dl-load.c:_dl_rtld_di_serinfo.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

from emu.core.effects import Hosted
from emu.core.errors import MemoryFault
from emu.core.events import Binding
from emu.elf import constants as c
from emu.glibc.call import Call
from emu.rtld.close import dl_close
from emu.rtld.lookup import lookup_symbol
from emu.rtld.open import dl_open
from emu.rtld.runtime import undefined
from emu.rtld.version import Version

if TYPE_CHECKING:
    from emu.glibc.contract import Contract

_M64 = (1 << 64) - 1


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def open_(contract: Contract, call: Call) -> Hosted:
    """`_dl_open(file, mode, caller, nsid, argc, argv, env)`: the link map, or NULL for RTLD_NOLOAD; errors leave by a jump."""
    arena = contract.arena
    file = os.fsdecode(arena.read_cstr(call.args[0]))
    args = (call.args[4] & 0xFFFFFFFF, call.args[5], arena.read_u64(call.rsp + 8))
    mode = call.args[1] & 0xFFFFFFFF
    caller = contract.caller(call.args[2])
    return (yield from dl_open(contract.rtld, file, mode, caller, _signed(call.args[3]), args))


def close(contract: Contract, call: Call) -> Hosted:
    """`_dl_close(map)`."""
    yield from dl_close(contract.rtld, call.args[0], contract.close_caller())
    return 0


def di_serinfo(contract: Contract, call: Call) -> int:
    """`_dl_rtld_di_serinfo(loader, Dl_serinfo *, counting)`: the directories that a search for `loader` goes through.

    `Dl_serinfo` is its size, the number of paths, then a pointer and flags for each, and behind them the strings.
    """
    arena, rtld = contract.arena, contract.rtld
    map_ = rtld.by_address[call.args[0]]
    info, counting = call.args[1], call.args[2] & 0xFF
    paths = [os.fsencode(path) for path in rtld.search.listing(map_, rtld.namespaces[0].main, map_.ns == 0)]
    if counting:
        # ld.so counts a directory's name with its trailing slash, and at least two bytes.
        size = 16 + 16 * len(paths) + sum(max(2, len(path) + 1) for path in paths)
        arena.write(info, struct.pack("<QI", size, len(paths)))
        return 0
    at = info + 16 + 16 * len(paths)
    for number, path in enumerate(paths):
        arena.write(info + 16 + 16 * number, struct.pack("<QI", at, 0))
        arena.write(at, path + b"\0")
        at += len(path) + 1
    return 0


def lookup_symbol_x(contract: Contract, call: Call) -> int | Hosted:
    """`_dl_lookup_symbol_x(name, undef_map, ref, scopes, version, type_class, flags, skip_map)` for libc's dlsym and iconv.

    Returns the defining link map and stores the guest address of its symbol at `ref`.
    """
    arena, rtld = contract.arena, contract.rtld
    name = arena.read_cstr(call.args[0])
    undef_map = rtld.by_address[call.args[1]]
    scopes = [contract.scope_at(address) for address in _pointers(contract, call.args[3])]
    version = _version(contract, call.args[4])
    flags = arena.read_u64(call.rsp + 8) & 0xFFFFFFFF
    skip = rtld.by_address.get(arena.read_u64(call.rsp + 16))
    if skip is not None and not scopes:
        raise MemoryFault(
            0, "read"
        )  # RTLD_NEXT by ld.so itself, which has no scope: ld.so follows the null pointer
    reference = arena.read_u64(call.args[2])
    found = lookup_symbol(
        rtld,
        name,
        undef_map,
        0,
        scopes,
        version,
        call.args[5] & 0xFFFFFFFF,
        flags=flags,
        skip_map=skip,
    )
    if found is None:
        arena.write_u64(call.args[2], 0)
        weak = reference and arena.read(reference + 4, 1)[0] >> 4 == c.STB_WEAK
        if weak or rtld.accept_undefined:
            return 0
        return contract.errors.signal(undefined(rtld, undef_map, name, version))
    if rtld.bus.bindings:
        text = version.name.decode(errors="replace") if version is not None else ""
        fields = found[0].symtab.fields(found[1])
        address = fields[4] + (0 if fields[3] == c.SHN_ABS else found[0].addr)
        rtld.bus.emit(
            Binding(
                undef_map.display_name, name.decode(errors="replace"), text, found[0].display_name, address, 0,
                "dlsym", False,
            )
        )  # fmt: skip
    symtab = found[0].dynamic.get(c.DT_SYMTAB)
    assert symtab is not None
    arena.write_u64(call.args[2], found[0].addr + symtab + 24 * found[1])
    return found[0].address


def _pointers(contract: Contract, address: int) -> list[int]:
    found = []
    while value := contract.arena.read_u64(address):
        found.append(value)
        address += 8
    return found


def _version(contract: Contract, address: int) -> Version | None:
    if not address:
        return None
    name, hash_, hidden = struct.unpack("<QIi", contract.arena.read(address, 16))
    return Version(contract.arena.read_cstr(name), hash_, bool(hidden), b"")
