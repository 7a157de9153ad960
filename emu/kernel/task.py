"""What each thread of the guest has for itself, as the kernel sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from emu.kernel.signals import SignalInfo


class AltStack(NamedTuple):
    """An alternate signal stack (sigaltstack): base, SS_* flags as they were given, size in bytes (0: none)."""

    sp: int = 0
    flags: int = 0
    size: int = 0


class Restart(NamedTuple):
    """A system call that a signal cut short and that goes on by itself if the handler has SA_RESTART."""

    number: int


class Task:
    """One thread: its id, name, signal state and the addresses that it registered with the kernel.

    `mask` has bit N-1 for a blocked signal N. `saved_mask` is what a handler's frame restores after
    rt_sigsuspend, ppoll and pselect6, None outside of them. `pending` are signals sent to this thread, oldest
    first.
    """

    __slots__ = (
        "tid", "name", "mask", "saved_mask", "pending", "altstack", "robust_list", "clear_child_tid", "rseq",
        "interrupted",
    )  # fmt: skip

    def __init__(self, tid: int, name: str = "") -> None:
        self.tid = tid
        self.name = name
        self.mask = 0
        self.saved_mask: int | None = None
        self.pending: list[SignalInfo] = []
        self.altstack = AltStack()
        self.robust_list = (0, 0)
        self.clear_child_tid = 0
        self.rseq = (0, 0, 0)
        self.interrupted: int | None = None
