"""What libc's dlopen, dlclose and dlinfo reach of ld.so: hosted entries over the run-time linker.

Libc's own functions stay what they are; these are the pointers in `_rtld_global_ro` and the private symbols
that they call.

Source: glibc dlfcn/, elf/dl-open.c, elf/dl-close.c, elf/dl-lookup.c, elf/dl-load.c:_dl_rtld_di_serinfo.
"""

from __future__ import annotations

import os
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING

from emu.core.effects import Hosted
from emu.glibc.call import HostedCall
from emu.rtld.close import dl_close
from emu.rtld.open import dl_open

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.glibc.contract import Contract
    from emu.rtld.rtld import Rtld

_M64 = (1 << 64) - 1


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def open_(contract: Contract, call: HostedCall) -> Hosted:
    """`_dl_open(file, mode, caller, nsid, argc, argv, env)`:
    the link map, or NULL for RTLD_NOLOAD; errors leave by a jump.
    """
    arena = contract.arena
    file = os.fsdecode(arena.read_cstr(call.args[0]))
    args = (call.args[4] & 0xFFFFFFFF, call.args[5], arena.read_u64(call.rsp + 8))
    mode = call.args[1] & 0xFFFFFFFF
    caller = contract.caller(call.args[2])
    with _working(contract.rtld, f"dlopen of {file}", caller):
        return (yield from dl_open(contract.rtld, file, mode, caller, _signed(call.args[3]), args))


def close(contract: Contract, call: HostedCall) -> Hosted:
    """`_dl_close(map)`."""
    if call.args[0] not in contract.rtld.by_address:
        for member, size in (("l_nodelete_active", 1), ("l_direct_opencount", 4)):  # as ld.so reads them
            contract.arena.copy_in(call.args[0] + contract.layout.offset("link_map", member), size)
    caller = contract.close_caller()
    map_ = contract.rtld.by_address.get(call.args[0])
    with _working(
        contract.rtld, f"dlclose of {map_.display_name if map_ is not None else 'nothing'}", caller
    ):
        yield from dl_close(contract.rtld, call.args[0], caller)
    return 0


@contextmanager
def _working(rtld: Rtld, what: str, caller: int) -> Iterator[None]:
    """Keep what the running thread has the linker do: whoever waits for its lock wants to know."""
    mine = rtld.working.setdefault(rtld.bus.task, [])
    mine.append((what, caller))
    try:
        yield
    finally:
        mine.remove((what, caller))


def di_serinfo(contract: Contract, call: HostedCall) -> int:
    """`_dl_rtld_di_serinfo(loader, Dl_serinfo *, counting)`:
    the directories that a search for `loader` goes through.

    `Dl_serinfo` is its size, the number of paths, then a pointer and flags for each, and behind them the
    strings.
    """
    arena, rtld = contract.arena, contract.rtld
    map_ = rtld.departed.get(call.args[0]) or contract.link_map(call.args[0])
    info, counting = call.args[1], call.args[2] & 0xFF
    paths = [os.fsencode(path) for path in rtld.search.listing(map_, rtld.namespaces[0].main, map_.ns == 0)]
    if counting:
        # ld.so counts a directory's name with its trailing slash, and at least two bytes.
        size = 16 + 16 * len(paths) + sum(max(2, len(path) + 1) for path in paths)
        arena.write(info, struct.pack("<QI", size, len(paths)))
        return 0
    # The caller says how many there are, and is believed.
    at = info + 16 + 16 * int.from_bytes(arena.read(info + 8, 4), "little")
    for number, path in enumerate(paths):
        arena.write_u64(info + 16 + 16 * number, at)
        arena.write(at, path + b"\0")
        arena.write(info + 16 + 16 * number + 8, bytes(4))
        at += len(path) + 1
    return 0
