"""`emu why` over all processes of a run: of those that had the library to do with, one is told of."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from emu.analysis.follow import Follow
from emu.analysis.names import NotFoundError
from emu.analysis.why import Why
from emu.kernel.abi import signal_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.analysis.follow import Followed, FollowedEnd
    from emu.analysis.why_data import WhyAnswer
    from emu.process import Process

_SIGNAL = 128


class TreeWhy:
    """Watches the processes of a run for one library, `whom` of `emu.analysis.follow`, from before the
    first's `load` on.
    """

    def __init__(self, process: Process, library: str, whom: str) -> None:
        self._library, self._whom = library, whom
        self._answers: list[WhyAnswer] = []
        self._follow = Follow(process, self._begin(process), whom, self._begin, self._over)

    @property
    def first(self) -> Why:
        """Who watches what the first process runs now."""
        return self._follow.first

    def _begin(self, process: Process) -> Why:
        return Why(process, self._library)

    def answer(self, ended: str) -> WhyAnswer:
        """Return the answer about the process that has the library: one of the name that is followed, the
        first, or another.

        Raises NotFoundError for a library that was never anywhere, and that no open failed of.
        """
        failed: NotFoundError | None = None
        answers = []
        try:
            answers.append(self._follow.first.answer(ended))
        except NotFoundError as error:
            failed = error
        answers += self._answers
        chosen = next(self._ordered(answers), None)
        if chosen is None:
            assert failed is not None
            raise failed
        rest = {answer.process for answer in answers} - {chosen.process}
        return replace(chosen, others=tuple(sorted(rest)))

    def _ordered(self, answers: list[WhyAnswer]) -> Iterator[WhyAnswer]:
        """Yield answers as they are wanted: those in which it was there before those in which it is
        perhaps meant.
        """
        named = [answer for answer in answers if answer.program.rpartition("/")[2] == self._whom]
        for group in (named, answers):
            yield from (answer for answer in group if answer.generations)
        yield from answers

    def _over(self, entry: Followed[Why], process: Process, ending: FollowedEnd) -> bool:
        """Keep the answer of a process that is over."""
        status = ending.status
        if status is None:
            ended = ending.text or "it executes another program"
        else:
            ended = f"exit code {status}"
            if status > _SIGNAL and ending.text:
                ended += f", {signal_name(status - _SIGNAL)}"
        with suppress(NotFoundError):
            answer = entry.observer.answer(ended)
            self._answers.append(
                replace(answer, program=entry.program, process=entry.number, parent=entry.parent)
            )
        return False
