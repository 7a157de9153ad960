"""The report of a deadlock: each thread, where it waits, for what, and who holds it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.core.errors import EmuError, MemoryFault
from emu.kernel.futex import FUTEX_TID_MASK
from emu.machine import regs

if TYPE_CHECKING:
    from emu.kernel.task import Task
    from emu.process.process import Process

_OWNER = 8
"""Where a pthread_mutex_t has its owner's thread id, counted from its futex. Source: glibc sysdeps/nptl/bits/struct_mutex.h."""
_DEPTH = 512
"""Words of a stack that are looked at for the caller of a wait."""


class DeadlockError(EmuError):
    """All threads wait, and nothing can end that."""


def report(process: Process) -> str:
    """Return the lines about all threads. The registers are then those of the last: the run is over."""
    kernel = process.kernel
    running = kernel.scheduler.current
    if running.tid in kernel.tasks:
        running.context = process.cpu.save(running.context)
    tasks = list(kernel.tasks.values())
    what = "the only thread waits" if len(tasks) == 1 else f"all {len(tasks)} threads wait"
    lines = [f"{process.config.program}: deadlock: {what}, and nothing can end that"]
    for task in tasks:
        if task.context is not None:
            process.cpu.restore(task.context)
        waits = task.block.what if task.block is not None else ""
        lines.append(f"  thread {task.tid} ({task.name}) waits {waits}{_holder(process, task)}")
        lines.append(f"    at {process.symbols.where(process.cpu.get(regs.RIP))}")
        if caller := _caller(process):
            lines.append(f"    from {caller}")
    return "\n".join(lines)


def _name(process: Process, tid: int) -> str:
    task = process.kernel.tasks.get(tid)
    return f"thread {tid} ({task.name})" if task is not None else f"thread {tid}, which has ended"


def _holder(process: Process, task: Task) -> str:
    """Return who must act for the wait to end, as far as the words at the futex tell."""
    kernel, block = process.kernel, task.block
    if block is None or not block.futex:
        return ""
    for other in kernel.tasks.values():
        if other.clear_child_tid == block.futex:
            return f", for the end of thread {other.tid} ({other.name})"
    try:
        word = kernel.arena.read_u32(block.futex)
        owner = kernel.arena.read_u32(block.futex + _OWNER)
    except MemoryFault:
        return ""
    known = range(process.task.tid, kernel.next_tid)
    if word & FUTEX_TID_MASK in known:  # a robust or PI mutex
        return f", held by {_name(process, word & FUTEX_TID_MASK)}"
    if word in (1, 2) and owner in known:
        return f", held by {_name(process, owner)}"
    return ""


def _caller(process: Process) -> str:
    """Return the nearest return address on the stack that lies in neither libc nor its kin."""
    top = process.cpu.get(regs.RSP) & -8
    for index in range(_DEPTH):
        try:
            word = process.arena.read_u64(top + 8 * index)
            place = process.symbols.place(word)
            if place is None or _is_libc(place[0]) or not _follows_call(process.arena.read(word - 7, 7)):
                continue
        except MemoryFault:
            if not process.arena.check(top + 8 * index, 8, 0):
                return ""
            continue
        return process.symbols.where(word - 1)
    return ""


def _is_libc(name: str) -> bool:
    base = name.rsplit("/", 1)[-1]
    return base.startswith(("libc.so", "libc-", "libpthread", "ld-linux", "linux-vdso", "libstdc++"))


def _follows_call(before: bytes) -> bool:
    """Whether the seven bytes before an address end in a call instruction."""
    return before[2] == 0xE8 or any(
        before[-size] == 0xFF and before[1 - size] >> 3 & 7 == 2 for size in (2, 3, 6, 7)
    )
