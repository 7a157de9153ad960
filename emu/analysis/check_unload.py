"""Rules about dlopen and dlclose: what an unloading leaves behind, what stays for
all that, handles that do not balance.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.analysis.check_notes import NOWHERE, Notes, Occasion
from emu.core.dl_events import (
    CloseRequested,
    Kept,
    NodeleteSet,
    Opened,
    OpenFailed,
    OpenRequested,
    Unloaded,
    Unloading,
)
from emu.core.record import NamedTuple
from emu.core.task_events import Fault
from emu.elf.demangle import demangle

if TYPE_CHECKING:
    from emu.analysis.check_dtors import Dtors
    from emu.analysis.check_threads import ThreadChecks
    from emu.core.events import Record
    from emu.rtld.address_index import Departed

Name = tuple[str, int]


class _Closed(NamedTuple):
    """A close that should have been the last: where, and why the object is still there as far as was told."""

    place: Occasion
    reasons: tuple[Kept, ...]


class UnloadChecks:
    """Follows opens and closes. Objects are known by name and namespace."""

    def __init__(self, notes: Notes, dtors: Dtors, threads: ThreadChecks) -> None:
        self._notes, self._dtors, self._threads = notes, dtors, threads
        self._opening: dict[int, list[Occasion]] = {}
        self._handles: dict[Name, list[Occasion]] = {}
        self._addresses: dict[Name, int] = {}
        self._closed: dict[Name, _Closed] = {}
        self._going: dict[Name, Occasion] = {}
        self._nodelete: dict[Name, tuple[NodeleteSet, Occasion]] = {}

    # -- opens -----------------------------------------------------------------------------------------------

    def open_requested(self, record: Record, _event: OpenRequested) -> None:
        """Keep the place of a dlopen until it is known what came of it;
        constructors may open more meanwhile.
        """
        self._opening.setdefault(record.task, []).append(self._notes.here())

    def open_failed(self, record: Record, _event: OpenFailed) -> None:
        """A dlopen failed."""
        if opening := self._opening.get(record.task):
            opening.pop()

    def opened(self, record: Record, event: Opened) -> None:
        """A handle came to be; an object that was to go has come back."""
        opening = self._opening.get(record.task)
        name = event.name, event.namespace
        self._handles.setdefault(name, []).append(opening.pop() if opening else NOWHERE)
        self._closed.pop(name, None)

    def nodelete_set(self, _record: Record, event: NodeleteSet) -> None:
        """Keep the place where an object became undeletable."""
        self._nodelete.setdefault((event.name, event.namespace), (event, self._notes.here()))

    # -- closes ----------------------------------------------------------------------------------------------

    def close_requested(self, _record: Record, event: CloseRequested) -> None:
        """A close: of nothing that is open, or perhaps the last."""
        notes, name, here = self._notes, (event.name, event.namespace), self._notes.here()
        if event.outcome == "not open":
            if self._notes.map_named(*name) is None:
                self._stale_handle(int(event.name, 16), here)
                return
            related = [("closed by", self._notes.last_close.get(name, NOWHERE))]
            notes.report(
                "handle-closed-twice", f"dlclose of {event.name}, which is not open", here, related, [event.name]
            )  # fmt: skip
            return
        if event.outcome == "failed open":
            return
        if handles := self._handles.get(name):
            handles.pop()
        self._notes.last_close[name] = here
        if event.outcome in ("collect", "later"):
            self._closed[name] = _Closed(here, ())
        elif event.outcome == "nodelete":
            reason = Kept(event.name, event.namespace, "nodelete", 1, (event.name,), ())
            self._closed[name] = _Closed(here, (reason,))

    def _stale_handle(self, address: int, here: Occasion) -> None:
        name = next((name for name, at in self._addresses.items() if at == address), None)
        if name is None:
            self._notes.report("handle-closed-twice", "dlclose of what is no handle", here)
            return
        related = [("closed by", self._notes.last_close.get(name, NOWHERE))]
        message = f"dlclose of a handle of {name[0]}, which was closed before and is unloaded"
        self._notes.report("handle-closed-twice", message, here, related, [name[0]])

    def kept(self, _record: Record, event: Kept) -> None:
        """A collection says why an object stays: the last word counts."""
        name = event.name, event.namespace
        closed = self._closed.get(name)
        if closed is not None:
            self._closed[name] = closed._replace(reasons=(event,))

    def unloading(self, _record: Record, event: Unloading) -> None:
        """An object is going to be unloaded: the last moment at which its
        own code has names in a backtrace.
        """
        self._going[event.name, event.namespace] = self._notes.here()

    def unloaded(self, _record: Record, event: Unloaded, gone: Departed) -> None:
        """An object is about to be unmapped."""
        name = event.name, event.namespace
        self._closed.pop(name, None)
        self._handles.pop(name, None)
        self._nodelete.pop(name, None)
        going = self._going.pop(name) if name in self._going else self._notes.here()
        self._notes.unloaded[gone.start, gone.end] = going

    # -- use -------------------------------------------------------------------------------------------------

    def fault(self, _record: Record, event: Fault) -> None:
        """A fault: at an address that an object had?"""
        notes, process = self._notes, self._notes.process
        if process.rtld is None:
            return  # a static program unloads nothing
        gone = process.rtld.index.find_departed(event.address)
        if gone is None or process.space.find(event.address) is not None:
            return
        here = notes.here()
        if event.handled:  # the frames begin in the handler
            signal = next((i for i, f in enumerate(here.frames) if f.frame.signal), -1)
            here = here._replace(frames=here.frames[signal + 1 :])
        dangling = notes.dangling.get(event.address) if event.access == "execute" else None
        if dangling is not None:
            notes.crashed(
                dangling, f"{dangling.what} is called, but {gone.name} is unloaded: {event.signal}", here
            )
            return
        if event.access == "execute" and self._threads.returned(gone, event.signal):
            return
        verb = {"read": "read of", "write": "write to", "execute": "jump to"}[event.access]
        code = event.access == "execute"
        name = (
            notes.function_in(gone, event.address)
            if code
            else process.symbols.departed_variable(event.address)
        )
        function = f" ({name})" if name else ""
        notes.report(
            "unloaded-use", f"{verb} {gone.name}+{event.address - gone.addr:#x}{function}, which is unloaded", here,
            [("unloaded by", notes.unloaded.get((gone.start, gone.end), NOWHERE))], [gone.name],
            key=(gone.name, event.pc if event.access != "execute" else event.address),
        )  # fmt: skip

    # -- the end ---------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Report what is still there though it was closed, and handles that were not."""
        for name, closed in self._closed.items():
            map_ = self._notes.map_named(*name)
            if map_ is not None and closed.reasons:
                self._stayed(name, closed.place, closed.reasons[0])
        for name, places in self._handles.items():
            for place in places:
                if place.frames and self._by_program(place):
                    message = f"a handle of {name[0]} is never closed"
                    self._notes.report(
                        "handle-leaked",
                        message,
                        NOWHERE,
                        [("opened by", place)],
                        [name[0]],
                        key=(name, place),
                    )

    def _by_program(self, place: Occasion) -> bool:
        """Whether the program asked, not libc for itself."""
        return any(f.function in ("dlopen", "dlmopen") for f in self._notes.process.resolve(place.frames))

    def _stayed(self, name: Name, place: Occasion, reason: Kept) -> None:
        notes, root = self._notes, reason.chain[0]
        through = f", which {_chain(reason)}" if len(reason.chain) > 1 else ""
        who = root if through else "it"
        related: list[tuple[str, Occasion]] = []
        rule = "dlclose-no-effect"
        if reason.root == "nodelete":
            event, where = self._nodelete.get((root, name[1]), (None, NOWHERE))
            why = f"{who} is NODELETE{_why(event)}{through}"
            related.append(("NODELETE since", where))
        elif reason.root == "tls-dtors":
            if self._dtors.pins(root):
                return  # dso-pinned-at-exit tells more
            count = (
                "a thread_local destructor"
                if reason.number == 1
                else f"{reason.number} thread_local destructors"
            )
            had = f"{count} of {root} had" if through else f"{count} had"
            why = f"{had} not run then{through}, and no later dlclose collected it"
            related += self._dtors.registered(root)
        else:
            rule, why = "dlclose-kept-by-others", f"{root} is {reason.root.replace('-count', '')}{through}"
        notes.report(rule, f"dlclose left {name[0]} loaded: {why}", place, related, [name[0], root], key=name)

    def note_address(self, name: Name, address: int) -> None:
        """Remember which handle an object has."""
        self._addresses[name] = address


def _chain(reason: Kept) -> str:
    steps = [
        f"{'needs' if edge == 'dependency' else 'refers to'} {target}"
        for target, edge in zip(reason.chain[1:], reason.edges, strict=True)
    ]
    return ", which ".join(steps)


def _why(event: NodeleteSet | None) -> str:
    if event is None:
        return ""
    if event.symbol:
        return f" ({event.why}: {event.by} bound to {demangle(event.symbol)})"
    return f" ({event.why})"
