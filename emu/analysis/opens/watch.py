"""Watches a run for opens that fail, and for those that never return.

`Opens.failures` are their stories, told when they happen.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from emu.analysis.frames import call_frames
from emu.analysis.opens.data import Cure, FailedOpen
from emu.analysis.opens.looking import Looking, base
from emu.analysis.opens.not_found import failed_dlsym, first_call
from emu.analysis.opens.other_names import other_name
from emu.analysis.opens.story import OpenAttempt, failed_open
from emu.analysis.unfinished import thrower
from emu.core import dl_events as dl
from emu.core.errors import EmuError, LinkError
from emu.core.events import Binding, InitStarted
from emu.core.record import NamedTuple
from emu.rtld.given import VersionErrors

if TYPE_CHECKING:
    from emu.analysis.history import History, Seen
    from emu.core.events import Record
    from emu.process import Process
    from emu.process.backtrace import FrameInfo
    from emu.rtld.link_map import LinkMap

_NEW_NAMESPACE, _CALLERS = -1, -2
_MOST_MISSING = 16
"""Symbols that dlsym does not find, of which is told: programs ask for what need not be there."""
_NO_THROW = (
    "dlopen is declared not to throw, so its caller ends in std::terminate, even inside of a try block"
)
"""Source: dlfcn.h (__THROWNL)."""


class _PendingOpen(NamedTuple):
    """A dlopen that has not returned."""

    event: dl.OpenRequested
    seen: Seen
    number: int


class Opens:
    """Watches one process from before its `load` on; a `history` tells when, who and where."""

    def __init__(self, process: Process, history: History) -> None:
        self.process, self.history = process, history
        self.failures: list[FailedOpen] = []
        self.reopened: list[tuple[LinkMap, str]] = []
        self._pending: dict[int, list[_PendingOpen]] = {}
        self._initialising: dict[int, str] = {}
        self._asked: dict[str, int] = {}
        self._missing: set[tuple[str, bytes]] = set()
        process.bus.subscribe(self._take, ("dl", "init", "bindings"), process.number)

    def _take(self, record: Record) -> None:
        event = record.event
        if isinstance(event, Binding):
            if not event.target:
                self._not_found(record)
            return
        if isinstance(event, dl.FirstCallFailed):
            self._first_call(record)
            return
        stack = self._pending.setdefault(record.task, [])
        if isinstance(event, dl.OpenRequested):
            number = self._asked[event.file] = self._asked.get(event.file, 0) + 1
            stack.append(_PendingOpen(event, self.history.seen(record), number))
        elif isinstance(event, InitStarted):
            self._initialising[record.task] = event.name
        elif isinstance(event, (dl.Opened, dl.OpenFailed)):
            pending = stack.pop() if stack else None
            if isinstance(event, dl.OpenFailed) and pending is not None:
                self._failed(event, pending)
            elif isinstance(event, dl.Opened) and event.already and pending is not None:
                self._opened_again(event, pending)

    def _first_call(self, record: Record) -> None:
        rtld = self.process.rtld
        if rtld is not None and (story := first_call(self.process, rtld, self.history.seen(record))):
            self.failures.append(story)

    def _not_found(self, record: Record) -> None:
        """Nothing of a name is there; where dlsym has asked an object by its handle, that is told once."""
        rtld = self.process.rtld
        if rtld is None:
            return
        asked = rtld.asked
        if asked is not None and asked.handle == asked.map.display_name:
            known = (asked.handle, asked.name)
            if known not in self._missing and len(self._missing) < _MOST_MISSING:
                self._missing.add(known)
                self.failures.append(failed_dlsym(self.process, rtld, asked, self.history.seen(record)))

    def _failed(self, event: dl.OpenFailed, pending: _PendingOpen) -> None:
        rtld = self.process.rtld
        assert rtld is not None
        failing = rtld.failing
        error = failing.error if failing is not None else None
        call = self._call(pending, event.namespace)
        failed = failed_open(self.process, rtld, call, event.text, error, failing)
        self.failures.append(replace(failed, number=pending.number))

    def _opened_again(self, event: dl.Opened, pending: _PendingOpen) -> None:
        """An open gave what was there under the name: note it where the name leads to another file by now."""
        rtld, map_ = self.process.rtld, self.history.find(event.name, event.namespace)
        if rtld is None or map_ is None or map_.file_id == (0, 0):
            return
        file = pending.event.file
        files = self.process.kernel.fs
        path = (rtld.search.expand(file, map_, rtld.namespaces[0].main) if "/" in file else map_.path) or file
        try:
            there = files.look_at(path)
            target = files.realpath(path)
        except OSError:
            return  # nothing is there any more
        if (there.dev, there.ino) == map_.file_id:
            absolute = Looking(self.process, rtld).absolute
            if text := other_name(file, path, target, map_, absolute):
                told = f'dlopen("{file}") at {pending.seen.stamp.place} gave this object: {text}'
                self.reopened.append((map_, told))
            return
        first = next(iter(self.history.opens.get(map_, ())), None)
        since = f", which was opened at {first.opened.stamp.place} by that name" if first is not None else ""
        place = pending.seen.stamp.place
        text = f'dlopen("{file}") at {place} gave this object{since}; the file there is another now ({base(target)})'
        self.reopened.append((map_, text))

    def _call(self, pending: _PendingOpen, namespace: int) -> OpenAttempt:
        asked, stamp = pending.event, pending.seen.stamp
        by_name = any(
            frame.function.partition("@")[0] in ("dlmopen", "__dlmopen") for frame in stamp.backtrace
        )
        call = "dlmopen" if by_name or asked.namespace == _NEW_NAMESPACE or asked.namespace > 0 else "dlopen"
        return OpenAttempt(
            call, asked.file, asked.flags, namespace, self._opener(stamp), stamp, stamp.backtrace
        )

    def _opener(self, stamp: object) -> str:
        from emu.analysis.frames import is_user

        frames = getattr(stamp, "backtrace", ())
        return next((frame.object for frame in frames if is_user(frame.object, frame.function)), "")

    def start_up(self, error: BaseException) -> None:
        """The program could not be linked at all: tell why, as things stand."""
        rtld = self.process.rtld
        cause = error.cause if isinstance(error, LinkError) else None
        if cause is None and isinstance(error, LinkError) and error.fact is not None:
            cause = error  # an assertion in ld.so that does not hold
        if rtld is None or cause is None:
            return
        program = self.process.config.program
        errors = cause.errors if isinstance(cause, VersionErrors) else [cause]
        for one in errors:
            call = OpenAttempt("start-up", program, "", 0, program, None, ())
            self.failures.append(failed_open(self.process, rtld, call, str(one), one))

    def preloads(self) -> None:
        """Tell of preloads and auditors that were refused: the program runs without them."""
        rtld = self.process.rtld
        program = self.process.config.program
        for name, source, error in rtld.refused if rtld is not None else ():
            assert rtld is not None
            if source == "LD_AUDIT":
                self.failures.append(_no_auditor(name, program, error))
                continue
            call = OpenAttempt("preload", name, source, 0, program, None, ())
            self.failures.append(failed_open(self.process, rtld, call, f"{error}: ignored", error))

    def ended(self, how: str) -> None:
        """The process has ended `how`: opens that have not returned never will."""
        for task, stack in self._pending.items():
            if not stack:
                continue
            pending = stack[-1]
            call = self._call(pending, max(pending.event.namespace, 0))
            of = self._initialising.get(task, "")
            asked = pending.event.file
            inside = f"while the constructors of {base(of)} ran" if of else "while it was loaded"
            mine = call_frames(self._frames(task))
            story = [f"it never returned: {inside}, the process ended ({how})"]
            cures: tuple[Cure, ...] = ()
            if thrown := thrower(mine):
                story += [f"{thrown} threw an exception, which must not leave a constructor: {_NO_THROW}"]
                text = "catch it in the constructor, and let a function of the library tell of it"
                cures = (Cure("catch", of or asked, text, "the open returns", False),)
            names = dict.fromkeys(name for name in (asked, base(asked), of, base(of)) if name)
            chain = (asked, of) if of and base(of) != base(asked) else (asked,)
            self.failures.append(
                FailedOpen(
                    "left", asked, call.flags, call.namespace, call.opener, call.at, how, "ended", of, "", chain, tuple(story), (), (), cures,
                    mine, tuple(names),
                )
            )  # fmt: skip

    def _frames(self, tid: int) -> list[FrameInfo]:
        """Return the frames in which a thread stands at the end; none where it has ended itself."""
        task = self.process.kernel.tasks.get(tid)
        if tid == self.process.bus.task or task is None:
            return self.process.backtrace() if tid == self.process.bus.task else []
        return self.process.backtrace(task)


def _no_auditor(name: str, program: str, error: EmuError) -> FailedOpen:
    """Return the story of an object that was to be an auditor and is none. Source: rtld-audit(7)."""
    story = f"{base(name)} defines no la_version, which the dynamic linker asks of an auditor first"
    text = f"define unsigned la_version(unsigned version) in {base(name)}, and return LAV_CURRENT (link.h)"
    cure = Cure("la-version", name, text, "it is an auditor", False)
    names = tuple(dict.fromkeys((name, base(name))))
    return FailedOpen(
        "preload", name, "LD_AUDIT", 0, program, None, f"{error}: ignored", "undefined-symbol", name, "la_version", (name,), (story,), (), (),
        (cure,), (), names,
    )  # fmt: skip
