"""Thread-local storage of every thread for a report:
as it is at the end of the run, or was when the thread ended.

Source: psABI 3.4.6 and "ELF Handling for Thread-Local Storage" (variant II); glibc sysdeps/x86_64/nptl/tls.h
(tcbhead_t, dtv_t).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emu.core.errors import MemoryFault
from emu.machine import regs
from emu.rtld.tls import UNALLOCATED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.core.events import Record
    from emu.core.task_events import ThreadExited
    from emu.core.tls_events import TlsBlockAllocated
    from emu.kernel.run.task import Task
    from emu.process import Process
    from emu.rtld.link_map import LinkMap
    from emu.rtld.tls import Tls

MAX_BLOCKS = 10_000
"""So many blocks of all threads together are shown; how many threads more there were is told."""


class ThreadStorage:
    """Follows the threads of one process."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._threads: list[dict[str, Any]] = []
        self._left_out = self._shown = 0
        self._allocated: dict[int, dict[int, int]] = {}

    def inherit(self, forker: int, thread: int) -> None:
        """These are a child's threads from here on: one, called otherwise."""
        self._threads.clear()
        self._left_out = self._shown = 0
        self._allocated = {thread: self._allocated.get(forker, {})}

    def allocated(self, record: Record) -> None:
        """A block was allocated on first use: keep the number of the event."""
        event: TlsBlockAllocated = record.event
        if not event.static:
            self._allocated.setdefault(record.task, {})[event.module] = record.sequence

    def exited(self, record: Record) -> None:
        """The running thread ends: the last moment at which its storage can be looked at."""
        event: ThreadExited = record.event
        if event.thread == record.task:
            self._look(event.thread, event.name, self._process.thread_pointer(), record.sequence)

    def data(self) -> dict[str, Any]:
        """Return the static area's layout and the threads, the main one first;
        those that are there are looked at now.
        """
        kernel = self._process.kernel
        for task in kernel.tasks.values():
            self._look(task.tid, task.name, self._pointer(task), None)
        self._threads.sort(key=lambda thread: bool(thread["thread"] != kernel.tasks.leader.tid))
        rtld = self._process.rtld
        if rtld is None:
            return {"threads": [], "left_out": 0, "layout": {}}
        tls = rtld.tls
        layout = {
            "used": tls.static_used, "size": tls.static_size, "align": tls.static_align, "surplus": tls.surplus, "tcb": tls.tcb_size,
            "generation": tls.generation,
        }  # fmt: skip
        return {"threads": self._threads, "left_out": self._left_out, "layout": layout}

    def _pointer(self, task: Task) -> int:
        """Return the thread pointer of a thread, running or not."""
        process = self._process
        if task is process.kernel.scheduler.current or task.context is None:
            return process.thread_pointer()
        batch = process.cpu.batch((regs.FS_BASE,))
        batch.read_saved(task.context)
        return batch.values[0]

    def _look(self, thread: int, name: str, pointer: int, ended: int | None) -> None:
        rtld = self._process.rtld
        if rtld is None or not pointer:
            return
        if self._shown >= MAX_BLOCKS:
            self._left_out += 1
            return
        said: dict[str, Any] = {"thread": thread, "name": name, "ended": ended, "pointer": hex(pointer)}
        memory = self._process.arena
        try:
            dtv = memory.read_u64(pointer + 8)
            length = memory.read_u64(dtv - 16)
            said |= {"dtv": hex(dtv), "length": length, "generation": memory.read_u64(dtv)}
            said["blocks"] = list(self._blocks(rtld.tls, thread, pointer, dtv, length))
        except MemoryFault:
            said |= {"dtv": "not readable", "length": 0, "generation": 0, "blocks": []}
        self._threads.append(said)
        self._shown += len(said["blocks"])

    def _blocks(self, tls: Tls, thread: int, pointer: int, dtv: int, length: int) -> Iterator[list[Any]]:
        """Yield module, object, size, alignment, static offset (0: dynamic), the block's address, what the
        DTV entry says, the event of a lazy allocation.
        """
        memory, lazily = self._process.arena, self._allocated.get(thread, {})
        length = min(length, len(tls.slots))  # the guest's number
        for module in range(1, max(length, tls.max_dtv_idx) + 1):
            map_: LinkMap | None = tls.slots[module].map if module < len(tls.slots) else None
            value = memory.read_u64(dtv + 16 * module) if module <= length else UNALLOCATED
            if map_ is None:
                if value not in (0, UNALLOCATED):
                    yield [module, "", 0, 0, 0, hex(value), "of a module that is gone", lazily.get(module)]
                continue
            static = max(map_.tls_offset, 0)
            known = value not in (0, UNALLOCATED)
            block = pointer - static if static else value if known else 0
            entry = "set" if known else "unallocated" if module <= length else "beyond its end"
            yield [
                module, map_.display_name, map_.tls_blocksize, map_.tls_align, static, hex(block) if block else None, entry,
                None if static else lazily.get(module),
            ]  # fmt: skip
