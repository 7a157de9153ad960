"""What `emu why` answers, as data.

`code` and `outcome` fields are for programs and stay; texts are for people and may change.
"""

from __future__ import annotations

from dataclasses import dataclass

from emu.analysis.data import Address, Proposal
from emu.analysis.frames import CallFrame
from emu.analysis.opens.data import FailedOpen
from emu.analysis.stamp import Stamp


@dataclass(frozen=True, slots=True)
class OpenCall:
    """A dlopen without its dlclose.

    `closed` is a dlclose that did not count, because the object was NODELETE by then; null if there was none.
    """

    flags: str
    opened: Stamp
    closed: Stamp | None


@dataclass(frozen=True, slots=True)
class ThreadState:
    """A thread.

    `state`: running, ready, waiting (`what` completes "waits ..."; `place` and
    `backtrace` are where) or ended.
    """

    thread: int
    name: str
    state: str
    what: str
    place: str
    backtrace: tuple[CallFrame, ...]


@dataclass(frozen=True, slots=True)
class PendingDestructor:
    """A thread_local object whose destructor has not run (or, if `running`, has not returned).

    `type` is the object's, from the name of `function`, empty if that is no destructor; `source` the line of
    the function. `registered` is null where that was not watched.
    """

    type: str
    function: str
    source: str
    address: Address
    running: bool
    thread: ThreadState
    registered: Stamp | None


@dataclass(frozen=True, slots=True)
class BoundSymbol:
    """A binding that made something stay: the demangled `symbol`, the `relocation` and `slot` that it filled
    (null for dlsym, "" unseen), by `origin`.
    """

    symbol: str
    demangled: str
    origin: str
    relocation: str
    slot: Address | None
    bound: Stamp | None


@dataclass(frozen=True, slots=True)
class Link:
    """One step of a chain: `holder` keeps `held`.

    `kind`: needed (DT_NEEDED) or bound (a relocation dependency, with its bindings).
    """

    holder: str
    held: str
    kind: str
    bindings: tuple[BoundSymbol, ...]


@dataclass(frozen=True, slots=True)
class Reason:
    """Why the library stays: something about `object`,
    which is the library itself or keeps it by way of `chain`.

    `code`: start-up, open-count, nodelete-file (DF_1_NODELETE), nodelete-open (RTLD_NODELETE),
    nodelete-unique (STB_GNU_UNIQUE), nodelete-reference (bound to by an object of start-up),
    nodelete-destructors (the rule of glibc 2.18), nodelete (cause unseen), tls-destructors, never-collected
    (nothing holds it any more, but no dlclose collected since) or unfinished (a destructor that the dlclose
    runs has not returned; `since` is where it stands). `count` is the number of opens
    or destructors, whether seen or not. `since` is null where it was not seen.
    """

    code: str
    object: str
    namespace: int
    text: str
    count: int
    since: Stamp | None
    chain: tuple[Link, ...]
    opens: tuple[OpenCall, ...]
    destructors: tuple[PendingDestructor, ...]
    bindings: tuple[BoundSymbol, ...]

    @property
    def kind(self) -> str:
        """The code, by the name that the Python face has for such things."""
        return self.code

    def __str__(self) -> str:
        return f"{self.object} {self.text}"


@dataclass(frozen=True, slots=True)
class Remedy(Proposal):
    """One change of a shortest list that would let the library go: all of the list are needed.

    `code`: end-thread, touch-elsewhere, run-destructors, close, no-nodelete-flag, no-nodelete-file,
    no-unique, bind-elsewhere, not-at-start-up, collect or finish (a call in progress). `object` is the object
    concerned, `thread` the thread (0: none), `symbols` the mangled names.
    """

    thread: int
    symbols: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment that matters.

    `kind`: dlclose (of the library), other-dlclose (a collection), failed-open (the collection that undoes a
    dlopen of another object), program-end, or now (of a process that goes on).

    `closed` is the object that dlclose was called for; `close_outcome` what it came to
    (`emu.core.dl_events.CloseRequested`). `outcome`: went, stayed, or unfinished: that dlclose did not end.
    """

    kind: str
    closed: str
    close_outcome: str
    at: Stamp
    outcome: str
    reasons: tuple[Reason, ...]
    remedies: tuple[Remedy, ...]


@dataclass(frozen=True, slots=True)
class Generation:
    """The library from being mapped to being unmapped (`gone` null: it was there to the end);
    `number` counts from 1.

    `failed` is dlerror's text where the dlopen that mapped it failed, so that it was unmapped without ever
    being opened. `notes` are about opens that gave this object though their name leads to another file by
    now.
    """

    number: int
    name: str
    namespace: int
    path: str
    base: Address
    loaded: Stamp | None
    gone: Stamp | None
    moments: tuple[Moment, ...]
    failed: str
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WhyAnswer:
    """The whole answer. `ended` says how the run ended; `stayed` and `opened` are what the exit code tells.

    `failures` are the opens (and the start-up) that failed and have to do with the library: it was to be
    opened, was needed, or was what could not be used. `process` is the process that is told of, 0 for the
    first, `parent` who made it (0 for the first); `others` are more that had to do with it.
    """

    program: str
    library: str
    ended: str
    stayed: bool
    opened: bool
    generations: tuple[Generation, ...]
    failures: tuple[FailedOpen, ...]
    process: int = 0
    parent: int = 0
    others: tuple[int, ...] = ()
