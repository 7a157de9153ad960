"""The reduction, on toy programs whose every run can be made in no time:
it must see the outcomes that exhaustive search sees.
"""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from emu.exploration.choosers import Guided
from emu.exploration.data import GivenUp, Outcome, Ran
from emu.exploration.order import Order
from emu.exploration.tree import ScheduleTree
from emu.process.steps import Point, Step
from emu.process.visible import Operation


class Act(NamedTuple):
    """A toy thread reads a variable into its only register, or writes the register's successor there, or
    waits until it is not 0.
    """

    kind: str
    variable: int

    @property
    def operation(self) -> Operation:
        """What others notice of it."""
        thing = (self.variable,)
        return (
            Operation(self.kind, 1, (), thing) if self.kind == "write" else Operation(self.kind, 1, thing, ())
        )


Toy = tuple[tuple[Act, ...], ...]


def _run(toy: Toy, chooser: Guided) -> Ran:
    """Run a toy program; its outcome is the variables and the registers, or who is stuck where."""
    at, registers, variables = [0] * len(toy), [0] * len(toy), [0] * 3
    steps: list[Step] = []
    current = 0
    while True:
        pending = {}
        for tid, thread in enumerate(toy, 1):
            if at[tid - 1] < len(thread):
                act = thread[at[tid - 1]]
                if act.kind != "wait" or variables[act.variable]:
                    pending[tid] = act.operation
        if not pending:
            break
        order = sorted(pending, key=lambda tid: (tid != current, tid))
        point = Point(len(steps), tuple(order), pending, current if current in pending else 0)
        try:
            tid = chooser.choose(point)
        except GivenUp:
            return Ran(tuple(steps), None, ())
        act = toy[tid - 1][at[tid - 1]]
        step = Step(tid, act.operation, point)
        steps.append(step)
        chooser.made(step)
        at[tid - 1] += 1
        current = tid
        if act.kind == "write":
            variables[act.variable] = registers[tid - 1] + 1
        else:
            registers[tid - 1] = variables[act.variable]
    return Ran(tuple(steps), Outcome("exit", False, 0, f"{variables} {registers} {at}", b""), ())


def _outcomes(
    toy: Toy, *, reduce: bool, preemptions: int | None = None, depth: int | None = None
) -> tuple[set[str], int, int]:
    tree = ScheduleTree(reduce=reduce, preemptions=preemptions, depth=depth)
    seen, runs = set(), 0
    while taken := tree.take(5):
        for request, item in taken:
            ran = _run(toy, request.chooser())  # type: ignore[arg-type]
            tree.add(item, ran)
            runs += 1
            if ran.outcome is not None:
                seen.add(ran.outcome.text)
    return seen, runs, tree.pruned


_acts = st.builds(Act, st.sampled_from(["read", "write", "wait"]), st.integers(0, 2))
_toys = st.lists(st.lists(_acts, min_size=1, max_size=3).map(tuple), min_size=2, max_size=3).map(tuple)


@settings(max_examples=150, deadline=None)
@given(_toys)
def test_the_reduction_sees_every_outcome(toy: Toy) -> None:
    every, all_runs, _ = _outcomes(toy, reduce=False)
    reduced, runs, _ = _outcomes(toy, reduce=True)
    assert reduced == every
    assert runs <= all_runs


@settings(max_examples=60, deadline=None)
@given(_toys, st.integers(0, 2))
def test_the_reduction_sees_every_outcome_within_a_bound(toy: Toy, preemptions: int) -> None:
    every, _, _ = _outcomes(toy, reduce=False, preemptions=preemptions)
    reduced, _, _ = _outcomes(toy, reduce=True, preemptions=preemptions)
    assert reduced == every


def test_independent_threads_are_run_once() -> None:
    toy = tuple((Act("write", variable),) * 2 for variable in range(3))
    assert _outcomes(toy, reduce=True)[1:] == (1, 0)
    assert _outcomes(toy, reduce=False)[1] == 90


def test_two_writers_and_a_reader() -> None:
    toy = ((Act("write", 0),), (Act("write", 0),), (Act("read", 0),))
    _, runs, _ = _outcomes(toy, reduce=True)
    assert runs == 6


def test_a_guided_run_that_cannot_be_repeated_says_so() -> None:
    ran = _run(((Act("write", 0),), (Act("write", 1),)), Guided((1, 2), {}))
    assert [step.tid for step in ran.steps] == [1, 2]
    order = Order(ran.steps)
    assert order.races == []
    assert not order.happens_before(0, 1)


def test_beyond_the_depth_nothing_else_is_tried() -> None:
    toy = tuple((Act("write", 0),) * 3 for _ in range(2))
    assert _outcomes(toy, reduce=False)[1] == 20
    assert _outcomes(toy, reduce=False, depth=0)[1] == 1
    assert _outcomes(toy, reduce=False, depth=1)[1] == 2
    assert _outcomes(toy, reduce=False, depth=2)[1] == 4
