"""Restartable sequences: one that is interrupted begins anew at its abort handler.

The thread's registered area points to a descriptor while the thread is in a sequence: version, flags, start,
length, abort address. All threads run on one CPU, so it is preemption that makes them needed.

Source: Linux kernel/rseq.c:rseq_ip_fixup, include/uapi/linux/rseq.h.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from emu.core.errors import MemoryFault
from emu.kernel.abi import SI_KERNEL, SIGSEGV
from emu.kernel.run.signal_info import SignalInfo
from emu.machine import regs

if TYPE_CHECKING:
    from emu.kernel.run.signals import Signals
    from emu.kernel.run.task import Task
    from emu.machine.arena import Arena
    from emu.machine.engine import Cpu

_CS = 8
"""Where the area has the pointer to the descriptor."""
_DESCRIPTOR = struct.Struct("<IIQQQ")


def interrupt(t: Task, cpu: Cpu, arena: Arena, signals: Signals) -> None:
    """Another task or a signal handler is to run:
    if the running task is in a sequence, let it go on at the abort handler.

    A broken descriptor is a SIGSEGV, as on Linux.
    """
    area, _, signature = t.rseq
    if not area:
        return
    try:
        at = arena.read_u64(area + _CS)
        if not at:
            return
        version, flags, start, length, abort = _DESCRIPTOR.unpack(arena.copy_in(at, _DESCRIPTOR.size))
        inside = cpu.get(regs.RIP) - start
        if 0 <= inside < length:
            if version or flags or int.from_bytes(arena.copy_in(abort - 4, 4), "little") != signature:
                raise MemoryFault(at, "read")
            cpu.set(regs.RIP, abort)
        arena.copy_out(area + _CS, bytes(8))
    except MemoryFault:
        signals.send(SignalInfo(SIGSEGV, SI_KERNEL), t)
