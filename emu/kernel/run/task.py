"""What each thread of the guest has for itself, as the kernel sees it."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from emu.core.record import NamedTuple
from emu.kernel.run.bpf import UNBOUND

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.kernel.run.block import Awaited, Block, BlockingCall
    from emu.kernel.run.call import PendingCall
    from emu.kernel.run.signal_info import SignalInfo
    from emu.machine.engine import Context


class Woken(Enum):
    """Why a wait is over: what was waited for has come, the deadline has, or a signal."""

    WOKEN = 0
    TIMED_OUT = 1
    SIGNALLED = 2


WOKEN, TIMED_OUT, SIGNALLED = Woken


class AltStack(NamedTuple):
    """An alternate signal stack (sigaltstack):
    base, SS_* flags as they were given, size in bytes (0: none).
    """

    sp: int = 0
    flags: int = 0
    size: int = 0


class Task:
    """One thread, as the kernel sees it.

    - `tid`, `pid`, `name`: its id, that of its process, its name
    - `mask`, `awaited`: bit N-1 for a blocked signal N; those that sigtimedwait has unblocked for its wait
    - `saved_mask`: what a handler's frame restores after rt_sigsuspend, ppoll and pselect6, None outside of
      them
    - `pending`, `signalled`: signals sent to this thread, oldest first; whether it is to look for one to
      handle
    - `altstack`: its alternate signal stack
    - `robust_list`, `clear_child_tid`, `rseq`: what it registered: head and length; address; address, length
      and signature
    - `interrupted`, `restart_always`: the number of the system call that a signal has ended; whether it
      begins again in any case
    - `call`: the system call in progress
    - `block`, `woken`: what it waits for; why the latest wait is over
    - `held`: the files that stay open for the wait, even if their numbers are closed
    - `again`, `resumed`: begins the call anew where it waits; whether that was done and the wait is over
    - `cpu`, `cpu_since`: the CPU time used up to a time of the process's CPU clock, when it was last chosen
      to run
    - `policy`, `priority`, `nice`: what was asked for (SCHED_*): who runs is the schedule's to say
    - `affinity`: the processors that it may run on, a mask (-1: all)
    - `tracer`, `trace_status`: the process that has attached to it (0: none), and the wait status that this
      has not heard of yet
    - `memory_policy`: MPOL_* and nodes
    - `seccomp`: the mode and the filters that it has bound itself by
    - `stopped`: whether its process is (SIGSTOP): then it does not run, whatever else it could do
    - `context`: the registers, while another task runs
    """

    __slots__ = (
        "tid", "pid", "name", "mask", "awaited", "saved_mask", "pending", "signalled", "altstack", "robust_list",
        "clear_child_tid", "rseq", "interrupted", "restart_always", "call", "block", "woken", "held", "again", "resumed",
        "cpu", "cpu_since", "context", "policy", "priority", "nice", "affinity", "tracer", "trace_status", "memory_policy", "seccomp", "stopped",
    )  # fmt: skip

    def __init__(self, tid: int, name: str = "", pid: int = 0) -> None:
        self.tid = tid
        self.pid = pid or tid
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
        self.woken: Woken = WOKEN
        self.held: tuple[Awaited, ...] = ()
        self.again: Callable[[], BlockingCall] | None = None
        self.resumed = self.stopped = False
        self.cpu = self.cpu_since = 0
        self.policy = self.priority = self.nice = 0
        self.affinity = -1
        self.tracer = self.trace_status = 0
        self.memory_policy = (0, 0)
        self.seccomp = UNBOUND
        self.context: Context | None = None
