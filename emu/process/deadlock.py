"""The report of a deadlock: each thread, for what it waits and who holds that, and how it got there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.core.errors import EmuError, MemoryFault
from emu.kernel import abi
from emu.kernel.run.futex import FUTEX_TID_MASK
from emu.process.backtrace import render

if TYPE_CHECKING:
    from emu.kernel.run.task import Task
    from emu.process.backtrace import FrameInfo
    from emu.process.process import Process

_OWNER = 8
"""Where a pthread_mutex_t has its owner's thread id, counted from its futex.

Source: glibc sysdeps/nptl/bits/struct_mutex.h.
"""
_EMU = "[emu]"
NOT_COPIED = "fork copies only the thread that calls it"
HAS_FORKED = "which took it before it forked"
HAS_ENDED = "which has ended"
_LOADER_LOCKS = {
    "_dl_load_lock": "the dynamic loader's lock",
    "_dl_load_write_lock": "the dynamic loader's lock on its list of objects",
    "_dl_load_tls_lock": "the dynamic loader's lock on TLS",
}
_LOADERS = frozenset(
    (
        "call_init",
        "call_fini",
        "_dl_open",
        "dl_open_worker",
        "_dl_close",
        "_dl_fini",
        "_dl_start_user",
        "_dl_init",
    )
)
"""Functions of the loader in whose frames it calls constructors and destructors."""


class DeadlockError(EmuError):
    """All threads wait, and nothing can end that."""


def report(process: Process) -> str:
    """Return the lines about all threads, with a backtrace each. The run is over."""
    processes = list(process.tree.processes.values())
    active = process.tree.running
    running = active.kernel.scheduler.current
    if running.tid in active.kernel.tasks:
        running.context = active.cpu.save(running.context)
    count = sum(len(one.kernel.tasks) for one in processes)
    what = "the only thread waits" if count == 1 else f"all {count} threads wait"
    if len(processes) > 1:
        what = f"all {count} threads of {len(processes)} processes wait"
    lines = [f"{process.config.program}: deadlock: {what}, and nothing can end that"]
    for one in processes:
        lines += _of_process(one, f"process {one.kernel.pid}: " if len(processes) > 1 else "")
    return "\n".join(lines)


def awaited(process: Process, task: Task) -> str:
    """Return what a thread waits for, and who must act for that."""
    frames = {other.tid: process.backtrace(other) for other in process.kernel.tasks.values()}
    return waits_for(process, task) + _holder(process, task, frames)


def _of_process(process: Process, prefix: str) -> list[str]:
    """Return the lines about the threads of one process; it looks at their registers in the CPU."""
    here = process.cpu.save()
    tasks = list(process.kernel.tasks.values())
    frames = {task.tid: process.backtrace(task) for task in tasks}
    lines = []
    for task in tasks:
        lines.append(
            f"  {prefix}thread {task.tid} ({task.name}) waits {waits_for(process, task)}{_holder(process, task, frames)}"
        )
        lines.append(render(frames[task.tid], everything=process.config.all_frames))
    process.cpu.restore(here)
    return lines


def _name(process: Process, tid: int, futex: int) -> str:
    """Return a thread in words. In a child memory that fork copied may have the id of one of the parent: the
    one that forked, which goes on under another id, one that lived, which does not, or one that had ended.
    Of memory that processes share it may be another's.

    Source: fork(2), vfork(2).
    """
    task = process.kernel.tasks.get(tid)
    if task is not None:
        return f"thread {tid} ({task.name})"
    area = process.space.find(futex)
    family = process.kernel.family
    shares = family.vfork is not None or (area is not None and area.shared)
    if tid in family.copied and family.pid in process.kernel.tasks and not shares:
        return f"thread {tid}, {HAS_FORKED}: the child's thread is {family.pid}"
    if tid in family.left and not shares:
        of = family.left[tid]
        whose = "the parent process" if of == family.parent else f"process {of}"
        return f"thread {tid}, which is one of {whose}: {NOT_COPIED}"
    for other in process.tree.processes.values():
        if tid in other.kernel.tasks:
            return f"thread {tid} ({other.kernel.tasks[tid].name}) of process {other.kernel.pid}"
    return f"thread {tid}, {HAS_ENDED}"


def waits_for(process: Process, task: Task) -> str:
    """Return what a thread waits for: one of the loader's locks, a variable by its
    name, or as the kernel knows it.
    """
    block = task.block
    if task.stopped:
        return f"for SIGCONT: {abi.signal_name(process.kernel.signals.stopped)} has stopped it"
    if block is None or not block.futex:
        return block.what if block is not None else ""
    if name := _loader_lock(process, block.futex):
        return f"for {_LOADER_LOCKS[name]} ({name})"
    variable = process.symbols.variable(block.futex)
    place = process.symbols.place(block.futex)
    return f"{block.what} ({variable} in {place[0]})" if variable and place is not None else block.what


def _loader_lock(process: Process, futex: int) -> str:
    locks = process.rtld.locks if process.rtld is not None else {}
    return next((name for name, address in locks.items() if address == futex), "")


def _holder(process: Process, task: Task, frames: dict[int, list[FrameInfo]]) -> str:
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
    known = range(abi.PID, kernel.system.next_id)
    if word & FUTEX_TID_MASK in known:  # a robust or PI mutex
        return f", held by {_name(process, word & FUTEX_TID_MASK, block.futex)}"
    if word in (1, 2) and owner in known:
        doing = _doing(process, owner, frames) if _loader_lock(process, block.futex) else ""
        return f", held by {_name(process, owner, block.futex)}{doing}"
    return ""


def _doing(process: Process, tid: int, frames: dict[int, list[FrameInfo]]) -> str:
    """Return what a thread has the loader do that holds its lock, and the guest's
    function that the loader waits for.
    """
    rtld = process.rtld
    working = rtld.working.get(tid) if rtld is not None else None
    if rtld is None or not working:
        return ""
    what, caller = working[0]
    place = f" ({rtld.describe_caller(caller)})" if caller else ""
    called = _called(frames.get(tid, []))
    task = process.kernel.tasks.get(tid)
    waits = (
        f", and that waits {waits_for(process, task)}{_holder(process, task, {})}"
        if called and task is not None and task.block is not None
        else ""
    )
    inside = f", which runs {called}{waits}" if called else ""
    return f" in {what}{place}{inside}"


def _called(frames: list[FrameInfo]) -> str:
    """Return the function that the outermost call by the loader is in: a constructor or destructor."""
    outermost = max(
        (n for n, f in enumerate(frames) if f.object == _EMU and f.function in _LOADERS), default=0
    )
    first = next(
        (n for n, f in enumerate(frames) if f.object == _EMU and f.function in _LOADERS and n <= outermost), 0
    )
    if first == 0:
        return ""
    frame = frames[first - 1]
    source = f" ({frame.file}:{frame.line})" if frame.file else ""
    return f"{frame.function or '??'}{source} of {frame.object}"
