"""Why does a library stay loaded?

The moments of a run that decide it, with every reason and what would let it go.

Nothing is decided here: at each moment the linker's own state is asked, at the very point where a collection
has marked what stays.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from emu.analysis.data import Address
from emu.analysis.history import History, Seen
from emu.analysis.names import NotFoundError, find_objects, has_part, missing, names_of, only_with
from emu.analysis.opens.watch import Opens
from emu.analysis.reasons import ReasonFinder, is_kept
from emu.analysis.remedies import remedies
from emu.analysis.unfinished import never_ended
from emu.analysis.why_data import Generation, Moment, Reason, WhyAnswer
from emu.core import dl_events as dl
from emu.core import events as ev

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from emu.analysis.opens.data import FailedOpen
    from emu.analysis.stamp import Stamp
    from emu.core.duplicate import Duplicate
    from emu.core.events import Record
    from emu.process import Process
    from emu.rtld.link_map import LinkMap


def why_loaded(process: Process, library: str, history: History | None = None) -> list[Reason]:
    """Return every reason why `library` (soname, file name or path) is loaded now;
    empty if a collection would take it.

    A `history`, watching since before the process was loaded, adds who, where and since when. Raises
    NotFoundError.
    """
    rtld = process.rtld
    if rtld is None:
        raise NotFoundError(f"{process.config.program} is statically linked: nothing is loaded")
    asked = ReasonFinder(process, rtld, history or History(process, frozenset()))
    found = [map_ for map_ in find_objects(rtld, library) if is_kept(rtld, map_)]
    return [reason for map_ in found for reason in asked.of(map_)]


def now(asked: ReasonFinder, library: str, maps: Iterable[LinkMap]) -> WhyAnswer:
    """Return the answer about objects of a process that goes on: one moment each, the present one."""
    process, history = asked.process, asked.history
    stamp = history.now()
    lives = []
    for number, map_ in enumerate(maps, 1):
        reasons = asked.of(map_)
        moment = Moment("now", "", "", stamp, "stayed", reasons, remedies(asked, map_, reasons))
        loaded = history.loaded(map_)
        lives.append(
            Generation(
                number, map_.display_name, map_.ns, map_.path, Address(map_.addr), loaded, None, (moment,), "", (),
            )
        )  # fmt: skip
    return WhyAnswer(
        process.config.program, library, "it goes on", bool(lives), bool(lives), tuple(lives), ()
    )


def only(answer: WhyAnswer, which: str | None) -> WhyAnswer:
    """Return the answer with its `last` moments, `all` of them, or (None) without
    those of other objects that bring no new reason.
    """
    if which == "all":
        return answer
    generations = []
    for life in answer.generations:
        moments = list(life.moments[-1:])
        if which is None:
            moments = []
            known: frozenset[Reason] = frozenset()
            for moment in life.moments:
                reasons = frozenset(moment.reasons)
                if (
                    moment.kind not in ("other-dlclose", "failed-open")
                    or moment.outcome == "went"
                    or not reasons <= known
                ):
                    moments.append(moment)
                known = reasons
        generations.append(replace(life, moments=tuple(moments)))
    return replace(answer, generations=tuple(generations))


def _stem(name: str) -> str:
    """Return libx.so of libx.so.1.2."""
    return re.sub(r"(\.so)[.0-9]+$", r"\1", os.path.basename(name))


class _LifeOfObject:
    """One generation of the library while it is there; `exact` if all of its name was asked for.

    `waiting` are its moments that a later collection decides, `failed` why its opening failed.
    """

    __slots__ = ("closing", "exact", "failed", "gone", "loaded", "map", "moments", "start", "waiting")

    def __init__(self, map_: LinkMap, loaded: Stamp | None, *, exact: bool) -> None:
        self.map, self.loaded, self.exact = map_, loaded, exact
        self.start = (map_.display_name, map_.ns, map_.path, map_.addr)
        self.gone: Stamp | None = None
        self.failed = ""
        self.moments: list[Moment] = []
        self.waiting: list[int] = []
        self.closing = 0


class Why:
    """Watches a process, from before its `load` on, for the moments of one library.

    `answer` tells what was seen.

    A part of the library's name is enough: until the end all objects with that part are watched, and then
    there must be one.
    """

    def __init__(self, process: Process, library: str) -> None:
        self.process, self.library = process, library
        self.history = History(process)
        self.opens = Opens(process, self.history)
        self._lives: list[_LifeOfObject] = []
        self._alive: dict[LinkMap, _LifeOfObject] = {}
        self._close: tuple[dl.CloseRequested, Seen] | None = None
        self._wanted = {library, os.path.abspath(library)}
        self._seen: set[str] = set()
        self._handlers: dict[type[Any], Callable[[Record], None]] = {
            ev.LibraryLoad: self._loaded,
            dl.Opened: self._look_again,
            dl.CloseRequested: self._closed,
            dl.Kept: self._collected,
            dl.Unloading: self._collected,
            dl.Unloaded: self._unloaded,
        }
        process.bus.subscribe(self._take, ("libs", "dl"), process.number)

    # -- children (see emu.analysis.follow) --------------------------------------------------------------

    def prepare(self, child: Process, copy: Duplicate) -> None:
        """All is copied."""

    def of_child(self, child: Process, copy: Duplicate) -> Why:
        """Return who watches a child, knowing all that has happened here."""
        twin = copy.of(self)
        twin.history.inherit(self.process, child)
        return twin

    def loaded(self) -> None:
        """The events have told."""

    # -- the answer --------------------------------------------------------------------------------------

    def answer(self, ended: str) -> WhyAnswer:
        """Return the answer after the run.

        Raises NotFoundError for a library that was never there and that no open failed of.
        """
        rtld = self.process.rtld
        if rtld is None:
            raise NotFoundError(f"{self.process.config.program} is statically linked: nothing is loaded")
        if rtld.started:
            self.opens.ended(ended)
            for namespace in rtld.namespaces:
                for map_ in namespace.maps:
                    self._look(map_)
        self.opens.preloads()
        self._choose()
        failures = tuple(one for one in self.opens.failures if self._concerns(one))
        if not self._lives and not failures:
            failures = tuple(one for one in self.opens.failures if self._nearly(one))
        if not self._lives and not failures:
            raise NotFoundError(self._never_there())
        for life in self._alive.values():
            if rtld.started and self._was_opened(life, failures) and not self._hangs(life, ended):
                self._end(life)
        last_close = max(
            (moment for life in self._lives for moment in life.moments if moment.kind == "dlclose"),
            key=lambda moment: moment.at.sequence,
            default=None,
        )
        kept = [life for life in self._alive.values() if self._was_opened(life, failures)]
        stayed = bool(kept) and (last_close is None or last_close.outcome != "went")
        opened = any(self._was_opened(life, failures) for life in self._lives)
        lives = tuple(
            Generation(
                number, *life.start[:3], Address(life.start[3]), life.loaded, life.gone, tuple(life.moments), life.failed,
                tuple(text for map_, text in self.opens.reopened if map_ is life.map),
            )
            for number, life in enumerate(self._lives, 1)
        )  # fmt: skip
        return WhyAnswer(self.process.config.program, self.library, ended, stayed, opened, lives, failures)

    def _choose(self) -> None:
        """Make the library that was meant out of a part of its name.

        Raises NotFoundError if several have it.
        """
        exact = [life for life in self._lives if life.exact]
        if not exact and not any(map(self._concerns, self.opens.failures)):
            failed = (name for one in self.opens.failures for name in (one.file, one.object))
            file = only_with(self.library, (*(life.start[0] for life in self._lives), *failed))
            if file is not None:
                self.library = file
                self._wanted = {file, os.path.abspath(file)}
                exact = [life for life in self._lives if os.path.basename(life.start[0]) == file]
        self._lives = exact
        self._alive = {map_: life for map_, life in self._alive.items() if life in exact}

    def _concerns(self, failure: FailedOpen) -> bool:
        """Whether a failed open has to do with the library:
        as what was to be opened, needed, or could not be used.
        """
        return bool(self._wanted & {*failure.names, *map(os.path.abspath, failure.names)}) or (
            failure.call in ("start-up", "first-call") and self.library == self.process.config.program
        )

    def _nearly(self, failure: FailedOpen) -> bool:
        """Whether a failure is perhaps the one that is meant:
        nothing started, or a file of the name was, with another number behind it.
        """
        stems = {_stem(name) for name in failure.names}
        return failure.call == "start-up" or _stem(self.library) in stems

    def _was_opened(self, life: _LifeOfObject, failures: Sequence[FailedOpen]) -> bool:
        """Whether the library got as far as being open: not where its dlopen failed, or never returned."""
        if life.failed or any(one.call == "start-up" for one in failures):
            return False
        since = life.loaded.sequence if life.loaded is not None else 0
        left = [one.at.sequence for one in failures if one.call == "left" and one.at is not None]
        return bool(life.moments[:-1]) or not any(at <= since for at in left)

    def _never_there(self) -> str:
        failed = {name for one in self.opens.failures for name in one.names}
        text = f"no object {self.library} was ever loaded"
        if self.opens.failures:
            asked = dict.fromkeys(one.file for one in self.opens.failures)
            text += f"; these opens failed: {', '.join(asked)}"
        text += self._not_needed()
        return missing(text, self.library, self._seen | failed, 0.4)

    def _not_needed(self) -> str:
        """Return what there is to say of a library that the program would find, and nobody has asked for."""
        from emu.analysis.opens.looking import Looking

        rtld = self.process.rtld
        main = rtld.namespaces[0].main if rtld is not None else None
        if rtld is None or main is None:
            return ""
        found, rule, _, _ = Looking(self.process, rtld).look(self.library, main)
        if not rule.startswith(("RUNPATH", "RPATH", "LD_LIBRARY_PATH")):
            return ""  # nowhere, or a library of the system that has no more to do with the program
        return (
            f"; {found} would be found by that name, but nothing that was loaded needs it (DT_NEEDED) and no dlopen asked for it: a link with"
            " --as-needed drops a library of which no symbol is used (-Wl,--no-as-needed before it keeps it)"
        )

    # -- which objects ---------------------------------------------------------------------------------------

    def _look(self, map_: LinkMap) -> None:
        """Take an object up if it is known by the name that is asked for."""
        rtld = self.process.rtld
        assert rtld is not None
        if map_.real is not map_ or (known := self._alive.get(map_)) is not None and known.exact:
            return
        names = {name for name in names_of(rtld, map_) if name}
        self._seen |= names
        exact = bool(names & self._wanted)
        if known is not None:
            known.exact = exact
        elif exact or has_part(self.library, map_.display_name):
            life = _LifeOfObject(map_, self.history.loaded(map_), exact=exact)
            self._lives.append(life)
            self._alive[map_] = life

    def _loaded(self, record: Record) -> None:
        event: ev.LibraryLoad = record.event
        rtld = self.process.rtld
        if rtld is not None and event.namespace < len(rtld.namespaces):
            for map_ in rtld.namespaces[event.namespace].maps:
                if map_.addr == event.base and map_.map_start == event.start:
                    self._look(map_)

    def _look_again(self, record: Record) -> None:
        """An object that was there may be known by another name now."""
        map_ = self.history.find(record.event.name, record.event.namespace)
        if map_ is not None:
            self._look(map_)

    # -- moments ---------------------------------------------------------------------------------------------

    def _take(self, record: Record) -> None:
        handler = self._handlers.get(type(record.event))
        if handler is not None:
            handler(record)

    def _closed(self, record: Record) -> None:
        event: dl.CloseRequested = record.event
        seen = self.history.seen(record)
        if event.outcome in ("collect", "failed open"):
            self._close = event, seen
            return
        map_ = self.history.find(event.name, event.namespace)
        life = self._alive.get(map_) if map_ is not None else None
        if life is None:
            return
        if event.outcome == "later":
            life.waiting.append(len(life.moments))
        self._add(life, "dlclose", event, seen, "stayed")

    def _collected(self, record: Record) -> None:
        """A collection has marked, and now tells what it found;
        what it decides is asked of the same marks.
        """
        assert self._close is not None
        event, seen = self._close
        for life in list(self._alive.values()):
            if life.map.ns != record.event.namespace or life.map.display_name != record.event.name:
                continue
            outcome = "stayed" if is_kept(self.process.rtld, life.map) else "went"  # type: ignore[arg-type]
            undone = event.outcome == "failed open"
            if undone and outcome == "went" and not life.map.init_called:
                life.failed = self.opens.failures[-1].error if self.opens.failures else "its dlopen failed"
                continue
            mine = (event.name, event.namespace) == (life.map.display_name, life.map.ns)
            for number in life.waiting:
                life.moments[number] = self._moment(life, "dlclose", None, life.moments[number], outcome)
            if life.closing == seen.sequence and life.moments:
                life.moments[-1] = self._moment(life, life.moments[-1].kind, None, life.moments[-1], outcome)
            elif not life.waiting:
                kind = "failed-open" if undone else "dlclose" if mine else "other-dlclose"
                self._add(life, kind, event, seen, outcome)
            life.closing, life.waiting = seen.sequence, []

    def _add(
        self, life: _LifeOfObject, kind: str, event: dl.CloseRequested, seen: Seen, outcome: str
    ) -> None:
        life.moments.append(self._moment(life, kind, (event, seen), None, outcome))

    def _moment(
        self,
        life: _LifeOfObject,
        kind: str,
        close: tuple[dl.CloseRequested, Seen] | None,
        before: Moment | None,
        outcome: str,
    ) -> Moment:
        """Return a moment as things are now; `before` is what was said of it until now."""
        if before is not None:
            closed, what, stamp = before.closed, before.close_outcome, before.at
        else:
            assert close is not None
            closed, what, stamp = close[0].name, close[0].outcome, close[1].stamp
        reasons, changes = self._ask(life.map) if outcome == "stayed" else ((), ())
        return Moment(kind, closed, what, stamp, outcome, reasons, changes)

    def _ask(self, map_: LinkMap) -> tuple[tuple[Reason, ...], Any]:
        rtld = self.process.rtld
        assert rtld is not None
        asked = ReasonFinder(self.process, rtld, self.history)
        found = asked.of(map_)
        return found, remedies(asked, map_, found)

    def _unloaded(self, record: Record) -> None:
        event: dl.Unloaded = record.event
        rtld = self.process.rtld
        assert rtld is not None
        for map_ in rtld.namespaces[event.namespace].maps:
            if (map_.map_start, map_.map_end) == (event.start, event.end) and map_.removed:
                if (life := self._alive.pop(map_, None)) is not None:
                    life.gone = self.history.seen(record).stamp
                self.history.forget(map_)
                return

    def _hangs(self, life: _LifeOfObject, ended: str) -> bool:
        """Whether the dlclose that was to take the object has never come to an end; that is said then."""
        hangs = [moment.outcome for moment in life.moments[-1:]] == ["went"]
        if hangs:
            life.moments[-1] = never_ended(self.process, self.history, life.moments[-1], life.start, ended)
        return hangs

    def _end(self, life: _LifeOfObject) -> None:
        reasons, changes = self._ask(life.map)
        life.moments.append(Moment("program-end", "", "", self.history.now(), "stayed", reasons, changes))
