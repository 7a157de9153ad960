"""Why an object is loaded: the answer of `emu why`, about a process that Python
holds in the middle of its life.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from emu.analysis import why
from emu.analysis.frames import readable
from emu.analysis.names import GoneError, NotFoundError, find_objects, gone_text
from emu.analysis.reasons import ReasonFinder as Asked
from emu.analysis.reasons import is_kept
from emu.analysis.why_text import details, headline, moment_lines
from emu.api.events import table
from emu.api.views import Table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from emu.analysis.history import History
    from emu.analysis.why_data import Generation, Reason, Remedy, ThreadState
    from emu.api.engine import Engine
    from emu.rtld.link_map import LinkMap

_DTORS = ("tls-destructors", "nodelete-destructors")


class Reasons(Table["Reason"]):
    """The reasons why an object is loaded, as a sequence (`reasons` is the tuple); empty where it is not.

    `loaded`: it is there; `gone`: it was. `kept`: a dlclose that collects now would leave it there; an object
    that nothing holds any more stays until the next such dlclose, and has the one reason `never-collected`.
    `remedies` is the shortest list of changes that would let it go, `unknown` what is not known since its
    category of events is not traced, in words. Where several namespaces have the object, all are told of.
    `repr` is the whole answer.
    """

    head = ("reason", "who, where, since when")

    def __init__(
        self, name: str, lives: Sequence[Generation], *, kept: bool, absent: str = "", gone: bool = False,
        unknown: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.reasons = tuple(reason for life in lives for reason in life.moments[0].reasons)
        super().__init__(self.reasons)
        self.name, self.kept, self.gone, self.unknown = name, kept, gone, tuple(unknown)
        self._lives, self._absent = lives, absent

    @property
    def loaded(self) -> bool:
        """Whether the object is there."""
        return bool(self._lives)

    @property
    def remedies(self) -> tuple[Remedy, ...]:
        """What would let the object go: all of these."""
        return tuple(remedy for life in self._lives for remedy in life.moments[0].remedies)

    def row(self, item: Reason) -> tuple[str, ...]:
        """Return the cells of a reason."""
        return headline(item, ""), "\n".join(line.strip() for line in details(item))

    def __repr__(self) -> str:
        text = readable("\n".join(self._lines()))
        return text.replace(os.getcwd().rstrip("/") + "/", "")

    def _lines(self) -> Iterator[str]:
        if self._absent:
            yield self._absent
        for life in self._lives:
            where = f" in namespace {life.namespace}" if life.namespace else ""
            now = life.moments[0]
            waits = any(reason.code == "never-collected" for reason in now.reasons)
            yield f"{life.name}{where} {'is loaded for now' if waits else 'stays loaded'}:"
            yield from (line[2:] for line in moment_lines(now, life.name))
        yield from (f"  not known: {text}" for text in self.unknown)

    def _repr_html_(self) -> str:
        if self._absent:
            return table((self._absent,), ())
        remedies = [(remedy.text,) for remedy in self.remedies]
        unknown = [(text,) for text in self.unknown]
        return (
            super()._repr_html_()
            + (table(("to let it go",), remedies) if remedies else "")
            + (table(("not known",), unknown) if unknown else "")
        )


class _Asked(Asked):
    """The reasons of a process whose threads Python drives."""

    def __init__(self, engine: Engine, history: History) -> None:
        super().__init__(engine.process, engine.contract.rtld, history)
        self._engine = engine

    def ask_thread(self, number: int) -> ThreadState:
        """Find out what a thread does now: one that Python drives waits for
        Python, unless it is in a call.
        """
        state = super().ask_thread(number)
        stations = (*self._engine.stations, *self._engine.workers.values())
        if any(s.task is not None and s.task.tid == number and not s.busy for s in stations):
            return replace(state, state="waiting", what="for Python", place="", backtrace=())
        return state


def reasons(
    engine: Engine, history: History, traced: Sequence[str], name: str, map_: LinkMap | None = None
) -> Reasons:
    """Return why `map_` is loaded (None: whatever is called `name`), with what `history` has seen by way of
    the categories `traced`.
    """
    asked = _Asked(engine, history)
    rtld = asked.rtld
    try:
        maps = (
            find_objects(rtld, name)
            if map_ is None
            else [map_]
            if rtld.by_address.get(map_.address) is map_
            else []
        )
    except NotFoundError as error:
        return Reasons(name, (), kept=False, absent=str(error), gone=isinstance(error, GoneError))
    if map_ is not None and not maps:
        was = map_.map_start, map_.display_name
        gone = next((d for d in reversed(rtld.index.departed) if (d.start, d.name) == was), None)
        absent = gone_text(name, gone) if gone is not None else f"{name} has gone"
        return Reasons(name, (), kept=False, absent=absent, gone=True)
    lives = why.now(asked, name, maps).generations
    found = [reason for life in lives for reason in life.moments[0].reasons]
    kept = any(is_kept(rtld, one) for one in maps)
    return Reasons(name, lives, kept=kept, unknown=_unknown(found, traced))


def _unknown(found: Sequence[Reason], traced: Sequence[str]) -> list[str]:
    """Return what the reasons leave open for want of events, with the way to have them."""
    missing: dict[str, list[str]] = {}
    for reason in found:
        for category, what in _wanting(reason):
            if category not in traced and what not in missing.setdefault(category, []):
                missing[category].append(what)
    wanted = ", ".join(f'"{category}"' for category in (*traced, *(c for c in missing if missing[c])))
    return [
        f"{' and '.join(whats)}, since {category} is not traced: say Process(trace=[{wanted}])"
        for category, whats in missing.items()
        if whats
    ]


def _wanting(reason: Reason) -> Iterator[tuple[str, str]]:
    """Yield the categories that tell more of a reason, with what they tell."""
    for link in reason.chain:
        if link.kind == "bound":
            yield "dl", "who bound to what, and when"
            yield "bindings", "all bindings and their relocations"
    match reason.code:
        case "open-count" | "nodelete-open":
            yield "dl", "who opened it, and when"
        case "nodelete" | "nodelete-unique":
            yield "dl", "who made it NODELETE, and when"
        case "nodelete-reference":
            yield "bindings", "all bindings and their relocations"
        case "nodelete-file":
            yield "libs", "when it was loaded"
        case "never-collected":
            yield "dl", "what kept it until when"
            yield "dtors", "whether a destructor kept it"
        case _ if reason.code in _DTORS:
            yield "dtors", "where and when the objects were built"
