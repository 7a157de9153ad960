"""What the rules of `emu check` share: places kept for later, findings in the making, what is left behind by an unloading."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from emu.analysis.check_data import ERROR, RULES, Finding, Related
from emu.analysis.frames import call_frames

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from emu.analysis.frames import CallFrame
    from emu.process import Process
    from emu.process.backtrace import Captured
    from emu.rtld.address_index import Departed
    from emu.rtld.link_map import LinkMap


class Place(NamedTuple):
    """Where something happened: the thread, its frames with functions and lines still unread, and the number of the event that told of it last."""

    thread: int
    frames: tuple[Captured, ...]
    event: int = 0


NOWHERE = Place(0, ())


class Dangling(NamedTuple):
    """A pointer to code that is gone, kept by who will call it: `what` it is, and the places that led to it."""

    rule: str
    what: str
    key: tuple[object, ...]
    related: tuple[tuple[str, Place], ...]
    objects: tuple[str, ...]


class Found(NamedTuple):
    """A finding, and the numbers of the events at which it and each of its related places were noticed."""

    finding: Finding
    event: int
    related: tuple[int, ...]


@dataclass(slots=True)
class _Draft:
    rule: str
    severity: str
    message: str
    place: Place
    related: tuple[tuple[str, Place], ...]
    objects: tuple[str, ...]
    event: int


@dataclass(slots=True)
class Notes:
    """The shared memory of one checked run. `unloaded` has the place of the dlclose that took an object, by its range; `last_close` that of
    the last dlclose of an object, by name and namespace.
    """

    process: Process
    rules: frozenset[str]
    drafts: dict[tuple[object, ...], _Draft] = field(default_factory=dict)
    dangling: dict[int, Dangling] = field(default_factory=dict)
    unloaded: dict[tuple[int, int], Place] = field(default_factory=dict)
    last_close: dict[tuple[str, int], Place] = field(default_factory=dict)

    def here(self) -> Place:
        """Return the place where the running thread is: in a hosted function, in a hook, or at a fault."""
        process = self.process
        task = process.runner.task.tid if process.runner is not None else 0
        return Place(task, tuple(process.capture()), self.now())

    def now(self) -> int:
        """Return the number of the last event."""
        return self.process.bus.upcoming - 1

    def report(
        self,
        rule: str,
        message: str,
        place: Place = NOWHERE,
        related: Sequence[tuple[str, Place]] = (),
        objects: Sequence[str] = (),
        *,
        key: tuple[object, ...] = (),
        severity: str = "",
    ) -> None:
        """Note a finding. A later one with the same key takes the place of the first; without a key the message is the key."""
        if rule not in self.rules:
            return
        draft = _Draft(
            rule, severity or RULES[rule].severity, message, place,
            tuple((t, p) for t, p in related if p.frames), tuple(dict.fromkeys(objects)), place.event or self.now(),
        )  # fmt: skip
        self.drafts[(rule, *key) if key else (rule, message)] = draft

    def leave_behind(self, address: int, dangling: Dangling, place: Place) -> None:
        """Note a pointer to code that is going, held by who will call it: a finding now, and the name of the fault if it comes to that."""
        self.dangling[address] = dangling
        gone = dangling.objects[0]
        elsewhere = [(title, where) for title, where in dangling.related if where != place]
        self.report(
            dangling.rule, f"{dangling.what} is left behind by the unloading of {gone}", place, elsewhere,
            dangling.objects, key=dangling.key,
        )  # fmt: skip

    def crashed(self, dangling: Dangling, message: str, place: Place) -> None:
        """The dangling pointer was called: the finding becomes an error, in its own place in time."""
        self.drafts.pop((dangling.rule, *dangling.key), None)
        self.report(
            dangling.rule,
            message,
            place,
            dangling.related,
            dangling.objects,
            key=dangling.key,
            severity=ERROR,
        )

    def findings(self) -> list[Found]:
        """Return the findings in the order of their discovery, every line read."""
        return [
            Found(
                Finding(
                    d.rule, d.severity, d.message, d.place.thread, self.frames(d.place),
                    tuple(Related(title, place.thread, self.frames(place)) for title, place in d.related), d.objects,
                ),
                d.event, tuple(place.event for _, place in d.related),
            )
            for d in self.drafts.values()
        ]  # fmt: skip

    def frames(self, place: Place) -> tuple[CallFrame, ...]:
        """Return the frames of a place without the loader's own."""
        return call_frames(f for f in self.process.resolve(place.frames) if f.object != "[emu]")

    def closed_by(self, name: str) -> list[tuple[str, Place]]:
        """Return the place of the last dlclose of an object, as a related place, if there was one."""
        return [("closed by", place) for (closed, _), place in self.last_close.items() if closed == name]

    # -- the state ----------------------------------------------------------------------------------------------------------

    def maps(self) -> Iterator[LinkMap]:
        """Yield every loaded object, without the stand-ins for ld.so."""
        assert self.process.rtld is not None
        for namespace in self.process.rtld.namespaces:
            yield from (map_ for map_ in namespace.maps if map_.real is map_)

    def map_named(self, name: str, ns: int) -> LinkMap | None:
        """Return the loaded object of a namespace under the name that events give it."""
        return next((map_ for map_ in self.maps() if map_.ns == ns and map_.display_name == name), None)

    def function_in(self, gone: Departed, address: int) -> str:
        """Return the function at an address of an object that is going or gone, object+offset if it has no name."""
        symbols = self.process.symbols
        function = symbols.code(symbols.file(gone.path, gone.file_id), address - gone.addr)[-1][0]
        return function.partition("+0x")[0] or f"{gone.name}+{address - gone.addr:#x}"


def base(path: str) -> str:
    """Return the file name of an object."""
    return os.path.basename(path) or path
