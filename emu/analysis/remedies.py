"""What would let an object go: the shortest list of changes, found by trying.

Each root's reasons give changes that, made together, make it no root any more; each relocation dependency on
the way can be taken away as well. A list is enough if nothing then leads from a root to the object. Where
several lists are as short, the one that changes the calls comes before the one that changes how things are
built.
"""

from __future__ import annotations

import os
from itertools import combinations
from typing import TYPE_CHECKING

from emu.analysis.frames import is_runtime, is_standard, is_user, listed
from emu.analysis.reasons import holders
from emu.analysis.why_data import Remedy
from emu.core.record import NamedTuple
from emu.elf.demangle import demangle
from emu.process.folding import is_library_source
from emu.rtld.close import held_by, root_kinds
from emu.rtld.link_map import LT_LOADED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.analysis.reasons import ReasonFinder
    from emu.analysis.stamp import Stamp
    from emu.analysis.why_data import PendingDestructor, Reason
    from emu.rtld.link_map import LinkMap

_TRIED = 12
"""Changes whose combinations are all tried; beyond, the list deals with every root."""
_ORDER = (
    "finish", "collect", "end-thread", "touch-elsewhere", "run-destructors", "close", "no-nodelete-flag", "no-unique", "no-nodelete-file",
    "bind-elsewhere", "not-at-start-up",
)  # fmt: skip
_DESTRUCTOR_REASONS = ("tls-destructors", "nodelete-destructors")


class _Threads(NamedTuple):
    """The first thread, and the one that runs: where a dlclose is asked about, its caller."""

    main: int
    running: int


def remedies(reasons: ReasonFinder, map_: LinkMap, found: tuple[Reason, ...]) -> tuple[Remedy, ...]:
    """Return the shortest list of changes that lets `map_` go; `found` are its reasons.

    `reasons` answers about others.
    """
    runner = reasons.process.runner
    main = reasons.process.task.tid
    who = _Threads(main, runner.task.tid if runner is not None else main)
    if found and found[0].code == "never-collected":
        since = found[0].since
        at_exit = (
            since is not None
            and since.thread == main
            and any(f.function.startswith("exit") for f in since.backtrace)
        )
        text = "a dlclose that collects in its namespace must come after that"
        if at_exit:
            text = "what kept it went only when the program exited: it must go before a dlclose that collects"
        return (Remedy("collect", map_.display_name, text, 0, ()),)
    if map_.type != LT_LOADED:
        return tuple(_of_reason(found[0], who))
    above = holders(reasons.rtld, map_)
    by_object: dict[tuple[str, int], set[Remedy]] = {}
    nodelete = {(one.object, one.namespace) for one in found if one.code.startswith("nodelete")}
    for reason in found:
        which = (reason.object, reason.namespace)
        mine = by_object.setdefault(which, set())
        mine.update(_of_reason(reason, who))
        if reason.code == "open-count" and which not in nodelete:
            mine.update(_closed_in_vain(reason))
    roots = {
        root: by_object.get((root.display_name, root.ns), set())
        for root in above
        if root_kinds(reasons.rtld, root)
    }
    edges = {
        (holder, held): Remedy(
            "bind-elsewhere", holder.display_name, _bind(holder, held, symbols), 0, symbols
        )
        for holder in above
        for held, kind in held_by(holder)
        if kind == "relocation"
        for symbols in [tuple(dict.fromkeys(one.symbol for one in reasons.bound(holder, held)))]
        if held in above
    }
    everything = {remedy for own in roots.values() for remedy in own}
    choice = sorted(everything | set(edges.values()), key=_rank)
    if len(choice) > _TRIED:
        return tuple(sorted(everything, key=_rank))
    for changes in ([remedy for remedy in choice if not _is_nobodys(remedy)], choice):
        for size in range(1, len(changes) + 1):
            for made in combinations(changes, size):
                if _enough(map_, set(made), roots, edges):
                    return made
    return tuple(sorted(everything, key=_rank))


def _is_nobodys(remedy: Remedy) -> bool:
    """Whether a change would be one of the run-time library of C++ itself, as the system has it."""
    return remedy.code == "no-unique" and is_runtime(remedy.object)


def _rank(remedy: Remedy) -> tuple[int, str, str]:
    return _ORDER.index(remedy.code), remedy.object, remedy.text


def _enough(
    map_: LinkMap,
    made: set[Remedy],
    roots: dict[LinkMap, set[Remedy]],
    edges: dict[tuple[LinkMap, LinkMap], Remedy],
) -> bool:
    """Whether nothing keeps the object once the changes are made."""
    left = [root for root, own in roots.items() if not own <= made]
    seen = set(left)
    while left:
        holder = left.pop()
        if holder is map_:
            return False
        for held, _ in held_by(holder):
            if held not in seen and edges.get((holder, held)) not in made:
                seen.add(held)
                left.append(held)
    return True


def _of_reason(reason: Reason, who: _Threads) -> Iterator[Remedy]:
    """Yield the changes that take one reason away."""
    name, short = reason.object, os.path.basename(reason.object)
    match reason.code:
        case "start-up":
            text = f"open {short} with dlopen, and link nothing that is there at start-up with it"
            yield Remedy("not-at-start-up", name, text, 0, ())
        case "open-count":
            calls = [_call(one.opened) for one in reason.opens if one.closed is None]
            for call in dict.fromkeys(calls):
                times = calls.count(call)
                often = "once more" if times == 1 else f"{times} times more"
                yield Remedy("close", name, f"dlclose {short} {often}: it was opened {call}", 0, ())
            for number in range(reason.count - len(reason.opens)):
                text = f"dlopen number {number + 1} of {short}, in progress or unseen, needs its dlclose"
                yield Remedy("finish", name, text, 0, ())
        case "nodelete-file":
            yield Remedy("no-nodelete-file", name, f"link {short} without -z nodelete", 0, ())
        case "nodelete-open":
            places = " and ".join(dict.fromkeys(_call(one.opened) for one in reason.opens))
            text = f"open {short} without RTLD_NODELETE" + (f" {places}" if places else "")
            yield Remedy("no-nodelete-flag", name, text, 0, ())
        case "nodelete-unique":
            symbols = tuple(one.symbol for one in reason.bindings)
            own = [one.demangled for one in reason.bindings if not is_standard(one.demangled)]
            text = f"compile {short} with -fno-gnu-unique"
            if own:
                text += f", or give {listed(own)} internal linkage or hidden visibility"
            yield Remedy("no-unique", name, text, 0, symbols)
        case "nodelete-reference":
            symbols = tuple(dict.fromkeys(one.symbol for one in reason.bindings))
            readable = listed(one.demangled for one in reason.bindings)
            by = reason.bindings[0].origin
            yield Remedy("bind-elsewhere", name, f"let {by} find {readable} elsewhere than in {short}, or not at all", 0, symbols)  # fmt: skip
        case "nodelete":
            yield Remedy("no-nodelete-flag", name, f"let nothing make {short} NODELETE", 0, ())
        case _ if reason.code in _DESTRUCTOR_REASONS:
            threads: dict[int, list[PendingDestructor]] = {}
            for one in reason.destructors:
                threads.setdefault(one.thread.thread, []).append(one)
            for objects in threads.values():
                yield _of_thread(objects, name, who)
            if reason.count > len(reason.destructors):
                text = f"the destructors of {short} in the libc of another namespace must run"
                yield Remedy("run-destructors", name, text, 0, ())


def _closed_in_vain(reason: Reason) -> Iterator[Remedy]:
    """Yield the closes that are missing since those that were made came while the object was NODELETE,
    which it is no more.
    """
    short = os.path.basename(reason.object)
    calls = [_call(one.closed) for one in reason.opens if one.closed is not None]
    for call in dict.fromkeys(calls):
        times = calls.count(call)
        often = "once more" if times == 1 else f"{times} times more"
        text = f"dlclose {short} {often}, now that it is not NODELETE: the dlclose {call} did nothing"
        yield Remedy("close", reason.object, text, 0, ())


def _of_thread(objects: list[PendingDestructor], name: str, who: _Threads) -> Remedy:
    """Return what must happen for the destructors in one thread to run."""
    thread = objects[0].thread
    called = f"thread {thread.thread} ({thread.name})"
    what = " and ".join(dict.fromkeys(_called(one) for one in objects))
    if any(one.running for one in objects):
        return Remedy("finish", name, f"{what} of {called} must return first", thread.thread, ())
    if thread.state == "ended":
        text = f"{called} has ended without running its destructors: it must return or call pthread_exit"
        return Remedy("run-destructors", name, text, thread.thread, ())
    if thread.thread == who.main:
        text = f"the main thread runs destructors only at exit: touch {what} in a thread that ends before dlclose, or not at all"
        return Remedy("touch-elsewhere", name, text, thread.thread, ())
    if thread.thread == who.running:
        text = f"{called} calls dlclose itself: let another thread do that, when this one has ended"
        return Remedy("end-thread", "", text, thread.thread, ())
    return Remedy("end-thread", "", f"{called} must end before the dlclose", thread.thread, ())


def _call(stamp: Stamp) -> str:
    """Return the place of a call, with that of its caller: the call itself may stand in a helper function."""
    frames = [frame for frame in stamp.backtrace if is_user(frame.object, frame.function)]
    if not frames:
        return "at an unknown place"
    own = [frame for frame in frames if not is_library_source(frame.file)] or frames
    text = f"at {stamp.place} in {own[0].function}" if own[0].function else f"at {stamp.place}"
    if len(own) > 1 and own[1].file:
        text += f" (called at {own[1].file}:{own[1].line})"
    return text


def _called(one: PendingDestructor) -> str:
    place = one.registered.place if one.registered is not None else ""
    return (one.type or f"what {one.function} destroys") + (f" ({place})" if place else "")


def _bind(holder: LinkMap, held: LinkMap, symbols: tuple[str, ...]) -> str:
    names = listed(demangle(symbol) for symbol in symbols) or "what it takes from there"
    who, whose = os.path.basename(holder.display_name), os.path.basename(held.display_name)
    if is_runtime(who):
        what = f"let {whose} export nothing that {who} has, too, and takes from there: {names}"
        return f"{what} (a version script of the linker), or link the program itself with {who}"
    return f"let {who} find {names} elsewhere than in {whose}"
