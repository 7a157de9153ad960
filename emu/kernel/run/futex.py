"""Futexes: who waits on which word of memory.

Pure bookkeeping; the system call is in `emu.kernel.syscalls.futex`.

A key names a word: (0, address) for the process's own, (1, address) for one that is shared but lies in
anonymous memory, (device, inode, offset) for one in a shared mapping of a file, whatever its address. Waiters
are woken in the order of their arrival.

A word of a PI futex holds its owner's thread id and two flags. Its waiters get the lock handed over, one
after the other.

Source: futex(2); Linux kernel/futex/: waitwake.c, requeue.c, pi.c; Documentation/locking/pi-futex.rst.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emu.kernel.run.task import Task

FUTEX_WAITERS, FUTEX_OWNER_DIED, FUTEX_TID_MASK = 0x8000_0000, 0x4000_0000, 0x3FFF_FFFF
BITSET_MATCH_ANY = 0xFFFF_FFFF

Key = tuple[int, ...]


class WakeOp(IntEnum):
    """FUTEX_OP_*: what FUTEX_WAKE_OP makes of its second word and an operand."""

    SET = 0
    ADD = 1
    OR = 2
    ANDN = 3
    XOR = 4


class WakeComparison(IntEnum):
    """FUTEX_OP_CMP_*: how it compares what the word was."""

    EQ = 0
    NE = 1
    LT = 2
    LE = 3
    GT = 4
    GE = 5


class Waiter:
    """A task in a queue.

    `address` is where it knows the word, `queued` tells that nobody has woken it, `pi` that it waits for a
    lock to be handed over. `target` is the PI futex that a FUTEX_WAIT_REQUEUE_PI is to be requeued to.
    """

    __slots__ = ("address", "bitset", "key", "pi", "queued", "target", "task")

    def __init__(
        self, task: Task, key: Key, address: int, bitset: int = BITSET_MATCH_ANY, pi: bool = False
    ) -> None:
        self.task, self.key, self.address, self.bitset, self.pi = task, key, address, bitset, pi
        self.queued = True
        self.target: Key | None = None


class Futexes:
    """All queues of waiters, by key. `woken` of the methods' results are tasks that the caller must wake."""

    __slots__ = ("_queues",)

    def __init__(self) -> None:
        self._queues: dict[Key, list[Waiter]] = {}

    def add(self, waiter: Waiter) -> None:
        """Put a waiter at the end of its queue."""
        self._queues.setdefault(waiter.key, []).append(waiter)

    def remove(self, waiter: Waiter) -> None:
        """Take a waiter out, if nobody has yet."""
        if not waiter.queued:
            return
        waiter.queued = False
        queue = self._queues[waiter.key]
        queue.remove(waiter)
        if not queue:
            del self._queues[waiter.key]

    def waiters(self, key: Key) -> list[Waiter]:
        """Return those that wait on a word, in order."""
        return list(self._queues.get(key, ()))

    def wake(self, key: Key, count: int, bitset: int = BITSET_MATCH_ANY) -> list[Task]:
        """Take up to `count` waiters (at least one) whose bitset has a bit of `bitset`; return their tasks.

        Raises ValueError where one waits for a lock: those are not woken, but handed the lock.
        """
        woken: list[Task] = []
        for waiter in self._queues.get(key, [])[:]:
            if waiter.pi or waiter.target is not None:
                raise ValueError("a waiter of a PI futex")
            if waiter.bitset & bitset:
                self.remove(waiter)
                woken.append(waiter.task)
                if len(woken) >= count:
                    break
        return woken

    def requeue(self, waiter: Waiter, key: Key, address: int) -> None:
        """Let a waiter wait on another word."""
        if waiter.key == key:
            return
        self.remove(waiter)
        waiter.key, waiter.address, waiter.queued = key, address, True
        self.add(waiter)

    def pi_queues(self) -> list[tuple[Key, int]]:
        """Return (key, an address) of every PI futex that somebody waits for."""
        return [(key, queue[0].address) for key, queue in self._queues.items() if queue[0].pi]


def wake_operation(encoded: int, old: int) -> tuple[int, bool]:
    """Return the new value of FUTEX_WAKE_OP's second word and whether its
    comparison with the `old` one holds.

    Raises ValueError for an operation or comparison that does not exist.
    """
    operation, comparison = encoded >> 28 & 7, encoded >> 24 & 15
    operand, against = _signed12(encoded >> 12), _signed12(encoded)
    if encoded >> 28 & 8:
        operand = 1 << (operand & 31)
    value = old - (1 << 32) if old & 0x8000_0000 else old
    match operation:
        case WakeOp.SET:
            new = operand
        case WakeOp.ADD:
            new = old + operand
        case WakeOp.OR:
            new = old | operand
        case WakeOp.ANDN:
            new = old & ~operand
        case WakeOp.XOR:
            new = old ^ operand
        case _:
            raise ValueError(operation)
    match comparison:
        case WakeComparison.EQ:
            holds = value == against
        case WakeComparison.NE:
            holds = value != against
        case WakeComparison.LT:
            holds = value < against
        case WakeComparison.LE:
            holds = value <= against
        case WakeComparison.GT:
            holds = value > against
        case WakeComparison.GE:
            holds = value >= against
        case _:
            raise ValueError(comparison)
    return new & 0xFFFF_FFFF, holds


def _signed12(value: int) -> int:
    value &= 0xFFF
    return value - 0x1000 if value & 0x800 else value
