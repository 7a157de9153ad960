"""`emu.explore`: a Python function that drives a guest process, run under every schedule that matters."""

from __future__ import annotations

import traceback
import weakref
from typing import TYPE_CHECKING, Any

from emu.api.errors import ArgumentError
from emu.api.process import Process
from emu.core.record import NamedTuple
from emu.exploration.answer import preemption_text
from emu.exploration.choosers import Request, going_on
from emu.exploration.data import GivenUp, Outcome, Ran
from emu.exploration.minimise import minimise
from emu.exploration.search import Bound, Search, Strategy
from emu.exploration.telling import Teller
from emu.process.steps import EndlessLoopError, Stepper

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from emu.process.steps import Chooser, Point, Step

_STRATEGIES = ("dpor", "exhaustive", "pct", "random")
_steppers: weakref.WeakKeyDictionary[Process, Stepper] = weakref.WeakKeyDictionary()


class Explored(NamedTuple):
    """What `explore` came to when nothing failed:
    runs made, and whether every order was tried (`exhausted`), within the bound.
    """

    runs: int
    exhausted: bool


class _Straight:
    """Goes on without switches as far as that can be."""

    def choose(self, point: Point) -> int:
        """Return the thread that runs."""
        return going_on(point)

    def made(self, step: Step) -> None:
        """There is nothing to note."""


def direct(process: Process, chooser: Chooser) -> Stepper:
    """Let `chooser` say which of the guest's threads makes each next step of a process from now on;
    return what has the steps.
    """
    stepper = _steppers.get(process)
    if stepper is None:
        stepper = _steppers[process] = Stepper(process.inner, _Straight())
    process.inner.kernel.scheduler.decide_by(stepper)
    stepper.chooser = chooser
    stepper.begin()
    return stepper


class _Session:
    """Makes runs of `function` in one process, which goes back to its start before each."""

    def __init__(self, function: Callable[[Process], object], process: Process) -> None:
        self._function, self._process = function, process
        self._start = process.snapshot()
        self.error: BaseException | None = None

    def begin(self, requests: Sequence[Request]) -> _Session:
        """Have some runs made (see `emu.exploration.workers.Crew`)."""
        self._asked = list(requests)
        return self

    def results(self) -> list[Ran]:
        """Make them."""
        return [self.run(request.chooser()) for request in self._asked]

    def run(self, chooser: Chooser) -> Ran:
        """Make one run."""
        self._process.restore(self._start)
        stepper = direct(self._process, chooser)
        self.error = None
        outcome: Outcome | None = Outcome("exit", False, 0, "", b"")
        try:
            self._function(self._process)
        except GivenUp:
            outcome = None
        except EndlessLoopError as error:
            self.error = error
            outcome = Outcome("limit", True, 0, str(error), b"")
        except Exception as error:
            if isinstance(error.__context__, GivenUp):
                outcome = None  # a handler's clean-up met the end of a run that nobody wants more of
            else:
                self.error = error
                text = "".join(traceback.format_exception_only(error)).strip()
                outcome = Outcome("predicate", True, 0, f"{type(error).__name__}\n{text}", b"")
        return Ran(tuple(stepper.steps), outcome, stepper.schedule())


def explore(
    function: Callable[[Process], object],
    program: str | os.PathLike[str] | None = None,
    args: Sequence[str] = (),
    *,
    strategy: str = "dpor",
    runs: int | None = None,
    time: float | None = None,
    preemptions: int | None = None,
    seed: int = 0,
    **options: Any,
) -> Explored:
    """Call `function` again and again with a process that stands where it was made, its threads in another
    order each time, until it raises.

    `program`, `args` and `options` are those of `emu.Process`. `strategy` and the bounds are those of `emu
    explore`. Raises what the function raises under the schedule with the fewest preemptions that was found,
    with a note that tells them.

    >>> import emu
    >>> def check(p):
    ...     libc = p.dlopen("libc.so.6")
    ...     assert libc.abs(-3) == 3
    >>> emu.explore(check)
    Explored(runs=1, exhausted=True)
    """
    if strategy not in _STRATEGIES:
        raise ArgumentError(f"strategy={strategy!r}: choose from {', '.join(_STRATEGIES)}")
    if strategy in ("pct", "random") and runs is None and time is None:
        raise ArgumentError(f"strategy {strategy!r} has no end of its own: give runs or time")
    with Process(program, args, seed=seed, **options) as process:
        session = _Session(function, process)
        bound = Bound(runs, time, preemptions)
        found = Search(session, Strategy(strategy, seed), bound).run()
        for ran in found.failures:
            _fail(session, process, ran, found.made)
        process.restore(session._start)
        return Explored(found.made, found.ended == "exhausted")


def _fail(session: _Session, process: Process, ran: Ran, made: int) -> None:
    """Raise the error of a failing run, made short. Raises it."""
    short = minimise(ran, lambda request: session.run(request.chooser()))
    again = Request("guided", tuple(step.tid for step in short.steps))
    teller = Teller(process.inner, again.chooser())
    session.run(teller)
    error = session.error
    assert error is not None
    lines = [preemption_text(preemption) for preemption in teller.preemptions] or ["without any preemption"]
    error.add_note(f"emu: fails in run {made} of the search: " + "; ".join(lines))
    raise error
