"""Policies, schedules as data, and the scheduler over a kernel without a CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import pytest

from emu.kernel.idle import Deadlock, next_task
from emu.kernel.run.block import Block
from emu.kernel.run.clock import NEVER, Clock
from emu.kernel.run.policy import (
    BEGINNING,
    SLICE,
    Decision,
    Random,
    Recording,
    Replay,
    RoundRobin,
    ScheduleError,
)
from emu.kernel.run.scheduler import Scheduler
from emu.kernel.run.task import SIGNALLED, TIMED_OUT, WOKEN, Task

if TYPE_CHECKING:
    from emu.kernel.kernel import System

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


class _Host:
    """Nothing comes from the host."""

    stops = speaks = False


class _Timers:
    next_expiry = next_while_idle = NEVER

    def idle(self, nanoseconds: int) -> None:
        """There is none."""


class _Process:
    def __init__(self, count: int) -> None:
        self.tasks = {tid: Task(tid) for tid in range(1, count + 1)}
        self.timers = _Timers()


class _System:
    """As much of a system with one process as the scheduler asks for."""

    def __init__(self, count: int) -> None:
        self.clock = Clock()
        self.host = _Host()
        self.processes = {1: _Process(count)}
        self.tasks = self.processes[1].tasks
        self.scheduler = Scheduler(self.clock)
        self.scheduler.current = self.tasks[1]

    def pass_time(self) -> None:
        self.scheduler.expire()
        self.clock.alarm = self.scheduler.next_deadline

    def run(self) -> tuple[int, int]:
        """Pick, and let the task run that was picked."""
        task, blocks, _ = next_task(cast("System", self))
        self.scheduler.current = task
        return task.tid, blocks

    def block(self, tid: int, deadline: int | None = None, ready: Callable[[], object] | None = None) -> None:
        self.scheduler.block(self.tasks[tid], Block("in a test", deadline, ready))


def test_tasks_take_turns() -> None:
    system = _System(3)
    for tid in (2, 3):
        system.scheduler.add(system.tasks[tid])
    order = []
    for _ in range(6):
        system.scheduler.ready.append(system.scheduler.current)
        order.append(system.run()[0])
    assert order == [2, 3, 1, 2, 3, 1]
    assert not system.scheduler.lone


def test_company_makes_a_decision_due_only_for_one_that_ran_alone() -> None:
    system = _System(3)
    system.scheduler.add(system.tasks[2])
    assert system.scheduler.due == "woken"
    system.scheduler.ready.insert(0, system.tasks[1])
    assert system.run() == (1, SLICE)
    system.scheduler.add(system.tasks[3])
    assert system.scheduler.due == ""


def test_time_jumps_to_the_first_deadline_when_nobody_can_run() -> None:
    system = _System(2)
    system.block(1, deadline=500)
    system.block(2, deadline=200)
    assert system.run()[0] == 2
    assert system.clock.now == 200
    assert system.tasks[2].woken == TIMED_OUT
    system.block(2)
    assert system.run()[0] == 1
    assert system.clock.now == 500


def test_a_wait_that_was_ended_has_no_deadline_left() -> None:
    system = _System(2)
    system.block(1, deadline=500)
    system.scheduler.wake(system.tasks[1])
    assert system.scheduler.next_deadline == NEVER
    assert system.run()[0] == 1
    for _ in range(1000):  # and leaves nothing behind
        system.block(1, deadline=10**9)
        system.scheduler.wake(system.tasks[1])
        system.run()
    assert len(system.scheduler._deadlines) < 100


def test_what_was_waited_for_is_a_better_reason_than_a_signal() -> None:
    system = _System(1)
    task = system.tasks[1]
    task.call = object()  # type: ignore[assignment]
    system.block(1)
    system.scheduler.wake(task, SIGNALLED)
    system.scheduler.wake(task, TIMED_OUT)
    assert task.woken == SIGNALLED
    system.scheduler.wake(task)
    assert task.woken == WOKEN
    assert system.scheduler.ready == [task]


def test_readiness_is_asked_at_each_choice() -> None:
    system = _System(2)
    state = {"ready": False}
    system.block(2, ready=lambda: state["ready"])
    system.scheduler.yield_cpu()
    assert system.scheduler.due == "yielded"
    system.scheduler.ready.append(system.tasks[1])
    assert system.run()[0] == 1
    state["ready"] = True
    system.scheduler.ready.append(system.tasks[1])
    assert system.run()[0] == 1
    assert [task.tid for task in system.scheduler.ready] == [2]


def test_nobody_to_run_and_nothing_to_come_is_a_deadlock() -> None:
    system = _System(2)
    system.block(1)
    system.block(2)
    with pytest.raises(Deadlock):
        system.run()
