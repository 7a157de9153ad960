"""Why is an object still there? What the linker's own marks say, with what is known of how it came to be so.

The objects that stay, and what each keeps, are asked of `emu.rtld.close`; here they are only named.
"""

from __future__ import annotations

import re
from collections import deque
from typing import TYPE_CHECKING

from emu.analysis.data import Address
from emu.analysis.frames import call_frames, listed, user_frame, where
from emu.analysis.why_data import BoundSymbol, Link, OpenCall, PendingDestructor, Reason, ThreadState
from emu.elf import constants as c
from emu.elf.demangle import demangle
from emu.rtld.close import held_by, mark, root_kinds
from emu.rtld.link_map import LT_EXECUTABLE, LT_LOADED

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from emu.analysis.history import BoundThen, History, Open
    from emu.analysis.stamp import Stamp
    from emu.process import Process
    from emu.rtld.link_map import LinkMap
    from emu.rtld.rtld import Rtld

_DESTRUCTOR = re.compile(r"^(.*)::~[^:]+\(\)$")
_RUST = re.compile(r"(?:drop_in_place|destroy)<(.*)>$")
_FLAG_RULE = "nodelete-flag"


class ReasonFinder:
    """The reasons of one process at one moment.

    What `history` has not watched leaves out who, where and when.
    """

    def __init__(self, process: Process, rtld: Rtld, history: History) -> None:
        self.process, self.rtld, self.history = process, rtld, history
        self._threads: dict[int, ThreadState] = {}

    def of(self, map_: LinkMap) -> tuple[Reason, ...]:
        """Return every reason of an object: its own, and those of each root
        that keeps it, the nearest first.
        """
        if map_.type != LT_LOADED:
            return tuple(self._own(map_, ()))
        reasons: list[Reason] = []
        for root, chain in self.roots(map_):
            reasons += self._own(root, tuple(self._links(chain)))
        return tuple(reasons) if reasons else (self._left_over(map_),)

    def roots(self, map_: LinkMap) -> Iterator[tuple[LinkMap, list[LinkMap]]]:
        """Yield each root that keeps an object, with the shortest chain from it, the object itself last."""
        above = holders(self.rtld, map_)
        for root, below in above.items():
            if root_kinds(self.rtld, root):
                chain = [root]
                while below is not None:
                    chain.append(below)
                    below = above[below]
                yield root, chain

    # -- chains ----------------------------------------------------------------------------------------------

    def _links(self, chain: list[LinkMap]) -> Iterator[Link]:
        for holder, held in zip(chain, chain[1:], strict=False):
            if held in (holder.initfini or ())[1:]:
                steps = _by_needed(holder, held)
                for above, below in zip(steps, steps[1:], strict=False):
                    yield Link(above.display_name, below.display_name, "needed", ())
            else:
                bindings = tuple(self.bound(holder, held))
                yield Link(holder.display_name, held.display_name, "bound", bindings)

    def bound(self, holder: LinkMap, held: LinkMap) -> Iterator[BoundSymbol]:
        """Yield the bindings of one object to another that it does not need;
        the first one made the dependency.
        """
        for one in self.history.bindings.get((holder, held), ()):
            yield _bound_symbol(holder, one)

    # -- the roots' own reasons ------------------------------------------------------------------------------

    def _own(self, root: LinkMap, chain: tuple[Link, ...]) -> Iterator[Reason]:
        for kind, count in root_kinds(self.rtld, root):
            if root.type == LT_EXECUTABLE and kind != "start-up":
                continue  # a program is there to its end, whatever its counts say
            if kind == "start-up":
                by = root.loader.display_name if root.loader is not None else ""
                what = (
                    f"is needed by {by}"
                    if by
                    else "is the program, or was preloaded or put there by the kernel"
                )
                yield self._reason("start-up", root, f"was there at start-up: it {what}", chain)
            elif kind == "open-count":
                yield self._opens(root, count, chain)
            elif kind == "nodelete":
                yield from self._nodelete(root, chain)
            else:
                yield self._destructors(root, count, chain)

    def _reason(
        self, code: str, root: LinkMap, text: str, chain: tuple[Link, ...], *, count: int = 1, since: Stamp | None = None,
        opens: tuple[OpenCall, ...] = (), destructors: tuple[PendingDestructor, ...] = (), bindings: Iterable[BoundSymbol] = (),
    ) -> Reason:  # fmt: skip
        return Reason(
            code, root.display_name, root.ns, text, count, since, chain, opens, destructors, tuple(bindings)
        )

    def _opens(self, root: LinkMap, count: int, chain: tuple[Link, ...]) -> Reason:
        opens = tuple(_open_call(one) for one in self.history.opens.get(root, []))
        text = f"is open: {_times(count, 'dlopen')} without dlclose"
        idle = sum(1 for one in opens if one.closed is not None)
        if idle:
            text = f"is open: its count is {count}, since dlclose of a NODELETE object does not count"
            if count > idle:
                text += f"; {_times(count - idle, 'dlopen')} without dlclose"
        if "dl" in self.history.watched and count > len(opens):
            text += f"; {_times(count - len(opens), 'dlopen')} still in progress"
        since = opens[0].opened if opens else None
        return self._reason("open-count", root, text, chain, count=count, since=since, opens=opens)

    def _destructors(self, root: LinkMap, count: int, chain: tuple[Link, ...]) -> Reason:
        pending = tuple(self.pending(root))
        text = f"has {count} pending thread_local destructor{'s' if count > 1 else ''}"
        if "dtors" in self.history.watched and count > len(pending):
            text += f", {count - len(pending)} of them registered with the libc of another namespace"
        since = pending[0].registered if pending else None
        return self._reason(
            "tls-destructors", root, text, chain, count=count, since=since, destructors=pending
        )

    def _nodelete(self, root: LinkMap, chain: tuple[Link, ...]) -> Iterator[Reason]:
        """Yield each cause of the NODELETE mark: the linker notes one and needs
        no other, but each would do.
        """
        found = False
        for reason in self._causes(root, chain):
            found = True
            yield reason
        if not found:
            yield self._reason("nodelete", root, "is NODELETE", chain)

    def _causes(self, root: LinkMap, chain: tuple[Link, ...]) -> Iterator[Reason]:
        history = self.history
        void, void_unique = history.void.get(root, (0, frozenset()))
        marked = history.marked.get(root, [])
        if root.dynamic.flags_1 & c.DF_1_NODELETE and not void:
            text = "is marked NODELETE in its file (DF_1_NODELETE)"
            yield self._reason("nodelete-file", root, text, chain, since=history.loaded(root))
        opens = history.opens.get(root, [])
        flagged = [one for one in opens if "NODELETE" in one.flags.split("|") and one.opened.sequence > void]
        if flagged:
            calls = tuple(_open_call(one) for one in flagged)
            text = "was opened with RTLD_NODELETE"
            since: Stamp | None = flagged[0].opened.stamp
            yield self._reason("nodelete-open", root, text, chain, count=len(calls), since=since, opens=calls)
        elif any(event.why == "RTLD_NODELETE" for event, _ in marked):
            yield self._reason("nodelete-open", root, "was opened with RTLD_NODELETE", chain)
        unique = self.rtld.namespaces[root.ns].unique
        names = [
            name.decode(errors="replace")
            for name, first in unique.items()
            if first.map is root and name not in void_unique
        ]
        if names:
            seen = {event.symbol: (event, at) for event, at in marked if event.why == "unique symbol"}
            symbols = []
            for name in names:
                event, at = seen.get(name, (None, None))
                by = event.by if event is not None else ""
                symbols.append(
                    BoundSymbol(name, demangle(name), by, "", None, at.stamp if at is not None else None)
                )
            plural = "s" if len(names) > 1 else ""
            text = f"is NODELETE since it defines the STB_GNU_UNIQUE symbol{plural} {listed(one.demangled for one in symbols)} for its whole namespace"
            since = next((one.bound for one in symbols if one.bound is not None), None)
            yield self._reason("nodelete-unique", root, text, chain, count=len(names), since=since, bindings=symbols)  # fmt: skip
        yield from self._references(root, chain, void)
        if self.rtld.unload_rule == _FLAG_RULE and (count := self.rtld.mirror.dtor_count(root)):
            pending = tuple(self.pending(root))
            text = f"is NODELETE while its {count} thread_local destructor{'s are' if count > 1 else ' is'} pending (the rule of glibc 2.18)"
            since = pending[0].registered if pending else None
            yield self._reason(
                "nodelete-destructors", root, text, chain, count=count, since=since, destructors=pending
            )

    def _references(self, root: LinkMap, chain: tuple[Link, ...], void: int) -> Iterator[Reason]:
        for (origin, target), bound in self.history.bindings.items():
            if target is not root or origin.type == LT_LOADED:
                continue
            later = [one for one in bound if one.seen.sequence > void]
            symbols = tuple(_bound_symbol(origin, one) for one in later)
            if symbols:
                names = listed(one.demangled for one in symbols)
                text = f"is NODELETE since {origin.display_name}, which was there at start-up, has bound to {names}"
                yield self._reason(
                    "nodelete-reference", root, text, chain, count=len(symbols), since=later[0].seen.stamp, bindings=symbols
                )  # fmt: skip

    def _left_over(self, map_: LinkMap) -> Reason:
        """Nothing keeps it: only no collection has come by since."""
        since, text = None, "is kept by nothing any more, but no dlclose has collected since"
        releases = self.history.releases
        found = [(releases[m], m) for m in holders(self.rtld, map_) if m in releases]
        if found:
            release, who = max(found, key=lambda pair: pair[0].seen.sequence)
            since = release.seen.stamp
            what = release.text if who is map_ else f"of {who.display_name}: {release.text}"
            text += f": {what}"
        return self._reason("never-collected", map_, text, (), count=0, since=since)

    # -- destructors and threads -----------------------------------------------------------------------------

    def pending(self, map_: LinkMap) -> Iterator[PendingDestructor]:
        """Yield the pending destructors of an object, thread by
        thread, in the order of their registration.
        """
        if "dtors" not in self.history.watched:
            yield from self._listed(map_)
            return
        for thread, registrations in self.history.pending.items():
            for one in registrations:
                if one.owner is map_:
                    yield PendingDestructor(
                        type_of(one.function), one.function, one.source, Address(one.object), one.running,
                        self.thread(thread), one.seen.stamp,
                    )  # fmt: skip

    def _listed(self, map_: LinkMap) -> Iterator[PendingDestructor]:
        """Yield what the threads' own lists have, where nobody watched."""
        process, contract = self.process, self.process.contract
        if contract is None or contract.atexit is None:
            return
        tid = contract.layout.offset("pthread", "tid")
        for pointer in contract.mirror.threads():
            thread = self.thread(process.arena.read_u32(pointer + tid))
            for one in reversed(list(contract.atexit.pending(pointer))):
                if self.rtld.by_address.get(one.owner) is map_:
                    function = process.symbols.describe(one.function)
                    yield PendingDestructor(
                        type_of(function), function, process.symbols.source(one.function), Address(one.object), False,
                        thread, None,
                    )  # fmt: skip

    def thread(self, number: int) -> ThreadState:
        """Return what a thread does now."""
        if number not in self._threads:
            self._threads[number] = self.ask_thread(number)
        return self._threads[number]

    def ask_thread(self, number: int) -> ThreadState:
        """Find out what a thread does now."""
        process = self.process
        task = process.kernel.tasks.get(number)
        if task is None:
            return ThreadState(number, self.history.thread_name(number), "ended", "", "", ())
        running = task is process.kernel.scheduler.current
        state = "running" if running else "waiting" if task.block is not None else "ready"
        frames = [] if running else process.backtrace(task)  # the running one is where the question comes up
        user = user_frame(frames)
        what = task.block.what if task.block is not None else ""
        return ThreadState(
            number,
            task.name,
            state,
            what,
            where(user) if user is not None else "",
            call_frames(frames),
        )


def holders(rtld: Rtld, map_: LinkMap) -> dict[LinkMap, LinkMap | None]:
    """Return all objects that keep `map_` as long as they stay, itself included,
    each with the next on the shortest way to it.
    """
    above: dict[LinkMap, list[LinkMap]] = {}
    for holder in rtld.namespaces[map_.ns].maps:
        for held, _ in held_by(holder):
            above.setdefault(held, []).append(holder)
    found: dict[LinkMap, LinkMap | None] = {map_: None}
    queue = deque([map_])
    while queue:
        below = queue.popleft()
        for holder in above.get(below, ()):
            if holder not in found:
                found[holder] = below
                queue.append(holder)
    return found


def is_kept(rtld: Rtld, map_: LinkMap) -> bool:
    """Whether a collection now would keep an object."""
    return map_ in mark(rtld, rtld.namespaces[map_.ns])


def type_of(destructor: str) -> str:
    """Return the type whose destructor a demangled function is: C++, or Rust's drop glue;
    empty if it is neither.
    """
    found = _DESTRUCTOR.match(destructor) or _RUST.search(destructor)
    return found[1] if found is not None else ""


def _by_needed(holder: LinkMap, held: LinkMap) -> list[LinkMap]:
    """Return the objects from one to another that it needs, along DT_NEEDED entries."""
    before: dict[LinkMap, LinkMap] = {}
    queue = deque([holder])
    while queue and held not in before:
        at = queue.popleft()
        names = set(at.needed_names())
        for other in (holder.initfini or ())[1:]:
            if other not in before and other is not holder and names & {*other.lib_names, other.soname}:
                before[other] = at
                queue.append(other)
    steps = [held]
    while steps[-1] is not holder:
        steps.append(before.get(steps[-1], holder))
    return steps[::-1]


def _bound_symbol(origin: LinkMap, one: BoundThen) -> BoundSymbol:
    slot = Address(one.slot) if one.slot > 0 else None
    return BoundSymbol(
        one.symbol, demangle(one.symbol), origin.display_name, one.relocation, slot, one.seen.stamp
    )


def _open_call(one: Open) -> OpenCall:
    return OpenCall(one.flags, one.opened.stamp, one.closed.stamp if one.closed is not None else None)


def _times(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number > 1 else ''}"
