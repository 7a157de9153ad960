"""A test that is run under every schedule that matters: `@pytest.mark.emu(explore=200)`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.testing.schedules import ScheduledRun

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.api import Process
    from emu.exploration.choosers import Request
    from emu.exploration.telling import Teller
    from emu.kernel.run.policy import Policy
    from emu.process.steps import Step, Stepper


class ExploredRun(ScheduledRun):
    """One run of a search; `count` is the most that there may be."""

    remembers = False  # all steps of a run are the search's

    def __init__(self, request: Request, number: int, count: int) -> None:
        super().__init__(number=number, count=count)
        self._request = request
        self._stepper: Stepper | None = None
        self._teller: Teller | None = None
        self.choices = 1

    def policy(self) -> Policy:
        """Return a policy that knows nothing of this run, which is no part of a process's state."""
        from emu.kernel.run.policy import RoundRobin

        return RoundRobin()

    def begin(self, process: Process) -> None:
        """Direct the threads of a process. Raises ValueError at a second one."""
        from emu.exploration.functions import direct
        from emu.exploration.telling import Teller

        if self._stepper is not None:
            raise ValueError("explore is for tests with one guest process")
        self._teller = Teller(process.inner, self._request.chooser())
        self._stepper = direct(process, self._teller)

    def steps(self) -> tuple[Step, ...]:
        """Return the steps that were made."""
        return tuple(self._stepper.steps) if self._stepper is not None else ()

    def note(self) -> str:
        """Return who lost the CPU where."""
        from emu.exploration.answer import preemption_text

        preemptions = self._teller.preemptions if self._teller is not None else []
        told = "; ".join(map(preemption_text, preemptions)) or "without any preemption"
        return f"emu: fails in run {self.number} of the search: {told}"


def search(most: int) -> Iterator[ExploredRun]:
    """Yield runs to be made, one after the other, until every order was tried, one
    has failed, or there were so many.
    """
    from emu.exploration.data import Outcome, Ran
    from emu.exploration.tree import ScheduleTree

    tree = ScheduleTree(reduce=True, preemptions=None)
    for number in range(1, most + 1):
        taken = tree.take(1)
        if not taken:
            return
        request, item = taken[0]
        run = ExploredRun(request, number, most)
        yield run
        if run.failed:
            return
        outcome = None if run.given_up else Outcome("exit", False, 0, "", b"")
        tree.add(item, Ran(run.steps(), outcome, ()))
