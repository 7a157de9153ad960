"""What the end of a thread means for futexes: those that it holds, and who waits for its id to go.

Source: get_robust_list(2); Linux kernel/futex/core.c:exit_robust_list, handle_futex_death.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from typing import TYPE_CHECKING

from emu.core.errors import MemoryFault
from emu.core.task_events import ThreadJoined
from emu.kernel.run.futex import FUTEX_OWNER_DIED, FUTEX_TID_MASK, FUTEX_WAITERS
from emu.kernel.syscalls.futex import hand_over, key_of, load, private_key, store, wake

if TYPE_CHECKING:
    from emu.kernel.kernel import Kernel
    from emu.kernel.run.task import Task

_ROBUST_LIMIT = 2048


def release(k: Kernel, t: Task) -> None:
    """Do what a thread's end means for futexes:
    mark the robust ones that it holds, hand over PI futexes, tell who waits for its id to go.
    """
    if t.robust_list[0]:
        with suppress(MemoryFault, OSError):  # a broken list ends the walk, and is nobody's error
            _walk_robust_list(k, t, t.robust_list[0])
    for key, address in k.futexes.pi_queues():
        with suppress(MemoryFault):
            if load(k, address) & FUTEX_TID_MASK == t.tid:
                hand_over(k, key, address, FUTEX_OWNER_DIED)
    if t.clear_child_tid:
        try:
            store(k, t.clear_child_tid, 0)
            key = key_of(k, t.clear_child_tid, private=False)
            joiners = k.futexes.waiters(key)[:1]
            wake(k, key, 1)
        except (MemoryFault, OSError):
            return  # as Linux: there is nobody left to tell
        if joiners and k.bus.threads:
            k.bus.emit(ThreadJoined(t.tid, joiners[0].task.tid))


def _walk_robust_list(k: Kernel, t: Task, head: int) -> None:
    entry, offset, pending = struct.unpack("<QqQ", k.arena.copy_in(head, 24))
    for _ in range(_ROBUST_LIMIT):
        if entry & ~1 == head:
            break
        following = int.from_bytes(k.arena.copy_in(entry & ~1, 8), "little")
        if entry & ~1 != pending & ~1:
            _owner_died(k, t, (entry & ~1) + offset, pi=bool(entry & 1), pending=False)
        entry = following
    if pending & ~1:
        _owner_died(k, t, (pending & ~1) + offset, pi=bool(pending & 1), pending=True)


def _owner_died(k: Kernel, t: Task, address: int, *, pi: bool, pending: bool) -> None:
    key = key_of(k, address, private=False)
    word = load(k, address)
    if pending and not pi and not word:
        wake(k, key, 1)  # it may have died between unlocking and waking
        return
    if word & FUTEX_TID_MASK != t.tid:
        return
    if pi and (k.futexes.waiters(key) or k.futexes.waiters(private_key(k, address))):
        return  # the lock is handed over
    store(k, address, word & FUTEX_WAITERS | FUTEX_OWNER_DIED)
    if not pi and word & FUTEX_WAITERS:
        wake(k, key, 1)
