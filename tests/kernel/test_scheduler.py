"""Policies, schedules as data, and the scheduler over a kernel without a CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import pytest

from emu.kernel.clock import NEVER, Clock
from emu.kernel.policy import (
    BEGINNING,
    SLICE,
    Decision,
    Random,
    Recording,
    Replay,
    RoundRobin,
    ScheduleError,
)
from emu.kernel.scheduler import Deadlock, Scheduler
from emu.kernel.task import SIGNALLED, TIMED_OUT, WOKEN, Task
from emu.kernel.waiting import Block

if TYPE_CHECKING:
    from emu.kernel.kernel import Kernel

# -- policies ------------------------------------------------------------------------------------------------


def test_round_robin_takes_the_first() -> None:
    assert RoundRobin().choose([3, 1, 2]) == Decision(3, SLICE)


@pytest.mark.parametrize("period", [2, 7, 100, 250, 1000, SLICE // 2, SLICE])
def test_round_robin_falls_into_step_with_no_loop(period: int) -> None:
    policy, at = RoundRobin(), 0
    places = set()
    for _ in range(64):
        at += policy.choose([1, 2]).blocks
        places.add(at % period * 8 // period)
    assert len(places) == min(period, 8)  # every part of the loop is preempted


def test_random_depends_on_its_seed_alone() -> None:
    def draw(seed: int) -> list[Decision]:
        policy = Random(seed)
        return [policy.choose([1, 2, 3]) for _ in range(200)]

    assert draw(5) == draw(5) != draw(6)
    assert {decision.task for decision in draw(5)} == {1, 2, 3}
    lengths = sorted(decision.blocks for decision in draw(5))
    assert lengths[0] >= 1
    assert lengths[-1] > 50 * lengths[20]  # slices of very different lengths


def test_a_recorded_schedule_replays() -> None:
    lines: list[str] = []
    policy = Recording(Random(1), lines.append)
    decisions = [policy.choose([1, 2, 3]) for _ in range(20)]
    assert lines[0] == BEGINNING
    replay = Replay([line + "\n" for line in lines], "file")
    assert [replay.choose([1, 2, 3]) for _ in range(20)] == decisions
    replay.finish()


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ([], "line 1: a schedule begins with"),
        (["{}"], "line 1: a schedule begins with"),
        ([BEGINNING, "task 1"], "line 2: not a JSON object"),
        ([BEGINNING, "[]"], "line 2: a decision has the members task and blocks"),
        ([BEGINNING, '{"task":1}'], "line 2: a decision has"),
        ([BEGINNING, '{"task":1,"blocks":5}', '{"task":1,"blocks":0}'], "line 3: task and blocks are whole"),
        ([BEGINNING, '{"task":true,"blocks":1}'], "line 2: task and blocks are whole"),
    ],
)
def test_what_is_no_schedule_is_refused(lines: list[str], complaint: str) -> None:
    with pytest.raises(ScheduleError, match=complaint):
        Replay(lines, "file")


def test_a_schedule_of_another_program_is_refused() -> None:
    replay = Replay([BEGINNING, '{"task":7,"blocks":5}'], "file")
    with pytest.raises(ScheduleError, match="line 2: task 7 cannot run now, only 1, 2"):
        replay.choose([1, 2])
    with pytest.raises(ScheduleError, match="line 2: the program ended 1 decisions early"):
        replay.finish()
    assert replay.choose([7]) == Decision(7, 5)
    with pytest.raises(ScheduleError, match="line 3: the schedule ends here"):
        replay.choose([7])


# -- the scheduler -------------------------------------------------------------------------------------------


class _Signals:
    host_stops = False

    def take_from_host(self) -> None:
        """Nothing comes from the host."""


class _Timers:
    next_expiry = next_while_idle = NEVER

    def idle(self, nanoseconds: int) -> None:
        """There is none."""


class _Kernel:
    """As much of a kernel as the scheduler asks for."""

    def __init__(self, count: int) -> None:
        self.clock = Clock()
        self.signals, self.timers = _Signals(), _Timers()
        self.tasks = {tid: Task(tid) for tid in range(1, count + 1)}
        self.scheduler = Scheduler(cast("Kernel", self))
        self.scheduler.current = self.tasks[1]

    def pass_time(self) -> None:
        self.scheduler.expire()
        self.clock.alarm = self.scheduler.next_deadline

    def run(self) -> tuple[int, int]:
        """Pick, and let the task run that was picked."""
        task, blocks = self.scheduler.pick()
        self.scheduler.current = task
        return task.tid, blocks

    def block(self, tid: int, deadline: int | None = None, ready: Callable[[], object] | None = None) -> None:
        self.scheduler.block(self.tasks[tid], Block("in a test", deadline, ready))


def test_tasks_take_turns() -> None:
    kernel = _Kernel(3)
    for tid in (2, 3):
        kernel.scheduler.add(kernel.tasks[tid])
    order = []
    for _ in range(6):
        kernel.scheduler.ready.append(kernel.scheduler.current)
        order.append(kernel.run()[0])
    assert order == [2, 3, 1, 2, 3, 1]
    assert not kernel.scheduler.lone


def test_company_makes_a_decision_due_only_for_one_that_ran_alone() -> None:
    kernel = _Kernel(3)
    kernel.scheduler.add(kernel.tasks[2])
    assert kernel.scheduler.due == "woken"
    kernel.scheduler.ready.insert(0, kernel.tasks[1])
    assert kernel.run() == (1, SLICE)
    kernel.scheduler.add(kernel.tasks[3])
    assert kernel.scheduler.due == ""


def test_time_jumps_to_the_first_deadline_when_nobody_can_run() -> None:
    kernel = _Kernel(2)
    kernel.block(1, deadline=500)
    kernel.block(2, deadline=200)
    assert kernel.run()[0] == 2
    assert kernel.clock.now == 200
    assert kernel.tasks[2].woken == TIMED_OUT
    kernel.block(2)
    assert kernel.run()[0] == 1
    assert kernel.clock.now == 500


def test_a_wait_that_was_ended_has_no_deadline_left() -> None:
    kernel = _Kernel(2)
    kernel.block(1, deadline=500)
    kernel.scheduler.wake(kernel.tasks[1])
    assert kernel.scheduler.next_deadline == NEVER
    assert kernel.run()[0] == 1
    for _ in range(1000):  # and leaves nothing behind
        kernel.block(1, deadline=10**9)
        kernel.scheduler.wake(kernel.tasks[1])
        kernel.run()
    assert len(kernel.scheduler._deadlines) < 100


def test_what_was_waited_for_is_a_better_reason_than_a_signal() -> None:
    kernel = _Kernel(1)
    task = kernel.tasks[1]
    task.call = object()  # type: ignore[assignment]
    kernel.block(1)
    kernel.scheduler.wake(task, SIGNALLED)
    kernel.scheduler.wake(task, TIMED_OUT)
    assert task.woken == SIGNALLED
    kernel.scheduler.wake(task)
    assert task.woken == WOKEN
    assert kernel.scheduler.ready == [task]


def test_readiness_is_asked_at_each_choice() -> None:
    kernel = _Kernel(2)
    state = {"ready": False}
    kernel.block(2, ready=lambda: state["ready"])
    kernel.scheduler.yield_cpu()
    assert kernel.scheduler.due == "yielded"
    kernel.scheduler.ready.append(kernel.tasks[1])
    assert kernel.run()[0] == 1
    state["ready"] = True
    kernel.scheduler.ready.append(kernel.tasks[1])
    assert kernel.run()[0] == 1
    assert [task.tid for task in kernel.scheduler.ready] == [2]


def test_nobody_to_run_and_nothing_to_come_is_a_deadlock() -> None:
    kernel = _Kernel(2)
    kernel.block(1)
    kernel.block(2)
    with pytest.raises(Deadlock):
        kernel.run()
