"""The run of a program as a timeline: to any event and back, and into the hands of a debugger.

A run depends on nothing but its program and its configuration, so the same run can be made again, as often as
somebody wants to look.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from emu.api.errors import ArgumentError, Error
from emu.api.events import Event
from emu.core.events import EventBus
from emu.process import Process as Inner
from emu.process import Result

if TYPE_CHECKING:
    from emu.process import RunConfig
    from emu.process.backtrace import FrameInfo


class Timeline:
    """The run that `config` describes, once more and in silence:
    its output goes nowhere, and there is nothing on its standard input.

    It stands before its first instruction. The events that have numbers are those of `categories`.

    >>> import emu
    >>> with emu.Process("/bin/true", trace=["init"]) as p:
    ...     there = p.timeline.goto("init:1")
    ...     there.category
    'init'
    """

    def __init__(self, config: RunConfig, categories: Sequence[str]) -> None:
        from emu.gdb.target import EVENTS, Target  # wanted only where somebody goes back

        descriptor = os.open(os.devnull, os.O_RDWR)
        silent = config._replace(stdio=(descriptor, descriptor, descriptor), policy=None)
        self._target = Target(
            lambda _program, _args: Inner(silent, EventBus()), categories=categories or EVENTS
        )

    @property
    def events(self) -> list[Event]:
        """The events that are known: those of all places where the timeline has been."""
        return [Event(told.record) for told in self._target.catches.events]

    def goto(self, place: str | int | Event) -> Event:
        """Go to an event and return it: one that `events` has, a number from 1 on, "#N" or "CATEGORY:N"
        ("dtors:3" is the third of its category).

        An event that is still to come is run to. Raises Error if there is none.
        """
        target = self._target
        if isinstance(place, Event):
            known = [told.number for told in target.catches.events if told.record == place.record]
            if not known:
                raise ArgumentError(f"{place!r} is no event of this timeline")
            place = known[0]
        number = target.find_event(place if isinstance(place, str) else f"#{place}")
        return Event(target.catches.events[number - 1].record)

    def back(self) -> Event | None:
        """Go back to the event before the present place and return it;
        to the first instruction, and None, if there was none.
        """
        told = self._target.catches.told
        here = self._target.timeline.here
        while told:
            event = self._target.catches.events[told - 1]
            self._target.timeline.go(event.key)
            if self._target.timeline.here < here:
                return Event(event.record)
            told -= 1
        self._target.go_begin()
        return None

    def step_back(self) -> int:
        """Go back by one instruction of the thread that runs; return where that is."""
        self._target.back(self.task)
        return self._target.execution.key[1]

    @property
    def task(self) -> int:
        """The id of the thread that has the CPU."""
        return self._target.execution.task.tid

    def read(self, address: int, size: int) -> bytes:
        """Return bytes of the memory as it is here. Raises Error where nothing is mapped."""
        from emu.core.errors import MemoryFault

        try:
            return self._target.process.arena.read(address, size)
        except MemoryFault as fault:
            raise Error(f"nothing is mapped at {fault.address:#x} here") from None

    def backtrace(self) -> list[FrameInfo]:
        """Return the frames of the thread that runs, the innermost first."""
        return self._target.process.backtrace()

    def gdb(self, address: str | int) -> Result | None:
        """Serve debuggers at `address` ([HOST:]PORT or unix:PATH), from the present place on, until one ends
        the process or lets it go.

        Return how it ended, None if it was killed. Raises Error if there is no listening there.
        """
        from emu.gdb.listen import Listener
        from emu.gdb.server import serve

        target = self._target
        target.last = target.execution.standing()
        return serve(target, Listener(str(address)), lambda line: None)
