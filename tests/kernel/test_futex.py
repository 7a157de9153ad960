"""Futex queues and FUTEX_WAKE_OP's arithmetic, without memory or tasks that run."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.kernel.run.futex import Futexes, Waiter, wake_operation
from emu.kernel.run.task import Task

WORD, OTHER = (0, 0x1000), (0, 0x2000)


def _queue(*bitsets: int) -> tuple[Futexes, list[Waiter]]:
    futexes = Futexes()
    waiters = [Waiter(Task(tid), WORD, WORD[1], bitset) for tid, bitset in enumerate(bitsets, 1)]
    for waiter in waiters:
        futexes.add(waiter)
    return futexes, waiters


def _tids(tasks: list[Task]) -> list[int]:
    return [task.tid for task in tasks]


def test_wakes_in_the_order_of_arrival() -> None:
    futexes, _ = _queue(1, 1, 1)
    assert _tids(futexes.wake(WORD, 2)) == [1, 2]
    assert _tids(futexes.wake(WORD, 9)) == [3]
    assert futexes.wake(WORD, 9) == []


def test_a_count_of_zero_wakes_one() -> None:
    assert _tids(_queue(1, 1)[0].wake(WORD, 0)) == [1]


def test_only_a_common_bit_wakes() -> None:
    futexes, _ = _queue(1, 2, 3)
    assert _tids(futexes.wake(WORD, 9, 2)) == [2, 3]
    assert futexes.wake(OTHER, 9) == []


def test_one_that_gave_up_is_not_woken() -> None:
    futexes, waiters = _queue(1, 1)
    futexes.remove(waiters[0])
    futexes.remove(waiters[0])
    assert _tids(futexes.wake(WORD, 9)) == [2]
    assert not waiters[1].queued


def test_requeued_waiters_go_behind_those_that_are_there() -> None:
    futexes, waiters = _queue(1, 1)
    futexes.add(Waiter(Task(9), OTHER, OTHER[1]))
    for waiter in waiters:
        futexes.requeue(waiter, OTHER, OTHER[1])
    assert futexes.waiters(WORD) == []
    assert _tids(futexes.wake(OTHER, 9)) == [9, 1, 2]


def test_a_waiter_for_a_lock_is_not_to_be_woken() -> None:
    futexes = Futexes()
    futexes.add(Waiter(Task(1), WORD, WORD[1], pi=True))
    with pytest.raises(ValueError, match="PI"):
        futexes.wake(WORD, 1)
    assert futexes.pi_queues() == [(WORD, WORD[1])]


def _encode(operation: int, operand: int, comparison: int, against: int) -> int:
    """FUTEX_OP of linux/futex.h."""
    return (operation & 15) << 28 | (comparison & 15) << 24 | (operand & 0xFFF) << 12 | against & 0xFFF


@pytest.mark.parametrize(
    ("operation", "operand", "old", "new"),
    [
        (0, -1, 7, 0xFFFF_FFFF),
        (1, 5, 0xFFFF_FFFF, 4),
        (2, 8, 1, 9),
        (3, 1, 7, 6),
        (4, -1, 0, 0xFFFF_FFFF),
        (8 | 2, 31, 0, 0x8000_0000),
    ],
)
def test_wake_operation(operation: int, operand: int, old: int, new: int) -> None:
    assert wake_operation(_encode(operation, operand, 0, 0), old)[0] == new


@given(st.integers(-0x8000_0000, 0x7FFF_FFFF), st.integers(-2048, 2047))
def test_comparisons_are_signed(old: int, against: int) -> None:
    held = [
        wake_operation(_encode(0, 0, comparison, against), old & 0xFFFF_FFFF)[1] for comparison in range(6)
    ]
    assert held == [
        old == against, old != against, old < against, old <= against, old > against, old >= against,
    ]  # fmt: skip


@pytest.mark.parametrize("encoded", [_encode(5, 0, 0, 0), _encode(0, 0, 6, 0)])
def test_an_unknown_operation_is_an_error(encoded: int) -> None:
    with pytest.raises(ValueError, match=r"5|6"):
        wake_operation(encoded, 0)
