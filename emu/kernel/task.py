"""What each thread of the guest has for itself, as the kernel sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.kernel.openfile import OpenFile
    from emu.kernel.signals import SignalInfo
    from emu.kernel.waiting import Block, BlockingCall, PendingCall
    from emu.machine.cpu import Context

WOKEN, TIMED_OUT, SIGNALLED = range(3)
"""Why a wait is over: what was waited for has come, the deadline has, or a signal."""


class AltStack(NamedTuple):
    """An alternate signal stack (sigaltstack): base, SS_* flags as they were given, size in bytes (0: none)."""

    sp: int = 0
    flags: int = 0
    size: int = 0


class Task:
    """One thread: its id, name, signal state and the addresses that it registered with the kernel.

    `mask` has bit N-1 for a blocked signal N, `awaited` those that sigtimedwait has unblocked for its wait.
    `saved_mask` is what a handler's frame restores after rt_sigsuspend, ppoll and pselect6, None outside of
    them. `pending` are signals sent to this thread, oldest first; `signalled` tells that it is to look for one
    to handle. `call` is a system call in progress; while it waits, `block` says for what, and afterwards
    `woken` why that is over; `held` are the files that stay open for it, even if their numbers are closed, `again` begins the call anew where
    it waits, and `resumed` tells that this was done and the wait is over. `cpu` is the CPU time used up to the time `cpu_since` (of the process's
    CPU clock), when the task was last chosen to run. `policy` (SCHED_*), `priority` and `nice` are what was
    asked for: who runs is the schedule's to say. `memory_policy` is MPOL_* and nodes. `context` holds the registers while another task runs.
    """

    __slots__ = (
        "tid", "name", "mask", "awaited", "saved_mask", "pending", "signalled", "altstack", "robust_list",
        "clear_child_tid", "rseq", "interrupted", "restart_always", "call", "block", "woken", "held", "again", "resumed",
        "cpu", "cpu_since", "context", "policy", "priority", "nice", "memory_policy",
    )  # fmt: skip

    def __init__(self, tid: int, name: str = "") -> None:
        self.tid = tid
        self.name = name
        self.mask = self.awaited = 0
        self.saved_mask: int | None = None
        self.pending: list[SignalInfo] = []
        self.signalled = False
        self.altstack = AltStack()
        self.robust_list = (0, 0)
        self.clear_child_tid = 0
        self.rseq = (0, 0, 0)
        self.interrupted: int | None = None
        self.restart_always = False
        self.call: PendingCall | None = None
        self.block: Block | None = None
        self.woken = WOKEN
        self.held: tuple[OpenFile, ...] = ()
        self.again: Callable[[], BlockingCall] | None = None
        self.resumed = False
        self.cpu = self.cpu_since = 0
        self.policy = self.priority = self.nice = 0
        self.memory_policy = (0, 0)
        self.context: Context | None = None
