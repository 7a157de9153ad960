"""The answer of `emu why` for people: one block a moment, what keeps the library,
since when, and what to change.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from emu.analysis.frames import PLUMBING, is_user, readable
from emu.analysis.opens.text import failure_lines
from emu.core.text import printable, printable_in_colour
from emu.kernel.abi import PID
from emu.process.folding import folded

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from emu.analysis.frames import CallFrame
    from emu.analysis.stamp import Stamp
    from emu.analysis.why_data import (
        BoundSymbol,
        Generation,
        Link,
        Moment,
        PendingDestructor,
        Reason,
        WhyAnswer,
    )

_BOLD, _GREEN, _RED, _PLAIN = "1", "32", "31", "0"
_OUTCOMES = {"stayed": ("STAYED", _RED), "went": ("WENT", _GREEN), "unfinished": ("NEVER ENDED", _RED)}
_FRAMES = 8
_LISTED = 5


def render(answer: WhyAnswer, *, folder: str = "", colour: bool = False, every: bool = False) -> str:
    """Return the answer as lines of text, the last one ended too.

    Paths below `folder` are told from there; `every` frame is shown if asked for.
    """
    shown = printable_in_colour if colour else printable
    text = readable("".join(shown(line) + "\n" for line in _Renderer(answer, colour, every).lines()))
    return text.replace(folder.rstrip("/") + "/", "") if folder.strip("/") else text


class _Renderer:
    def __init__(self, answer: WhyAnswer, colour: bool, every: bool) -> None:
        self.answer, self.colour, self.every = answer, colour, every

    def lines(self) -> Iterator[str]:
        answer = self.answer
        verdict = self._paint("stays", _RED) if answer.stayed else self._paint("is gone", _GREEN)
        last = answer.generations[-1].moments[-1:] if answer.generations else ()
        if last and last[0].outcome == "unfinished":
            verdict = self._paint("its dlclose never ended", _RED)
        elif not answer.opened:
            left = all(one.call == "left" for one in answer.failures)
            verdict = self._paint("its open never returned" if left else "could not be loaded", _RED)
        elif not answer.stayed and answer.generations[-1].gone is None:
            verdict = self._paint("went at its last dlclose, and has been opened again", _GREEN)
        of = f" in process {answer.process}, child of {answer.parent}," if answer.process else ""
        yield f"emu why: {answer.program} {answer.library}:{of} {verdict} ({answer.ended})"
        if answer.others:
            more = ", ".join("the first" if not other else str(other) for other in answer.others)
            yield f"  (it was also in other processes: {more}; --follow NAME tells of those that run NAME)"
        for failure in answer.failures:
            yield ""
            first, *rest = failure_lines(failure, _when, partial(_stack, every=self.every))
            yield self._paint(first, _BOLD)
            yield from rest
        for life in answer.generations:
            yield from self._life(life)

    def _paint(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[{_PLAIN}m" if self.colour else text

    def _life(self, life: Generation) -> Iterator[str]:
        number = f"generation {life.number}: " if len(self.answer.generations) > 1 else ""
        where = f" in namespace {life.namespace}" if life.namespace else ""
        yield ""
        yield self._paint(f"{number}{life.name}{where} at {life.base:#x}", _BOLD)
        if life.loaded is not None:
            yield f"  loaded {_when(life.loaded) if life.loaded.backtrace else 'at start-up'}"
        if life.failed:
            yield f"  its dlopen failed: {life.failed}"
        yield from (f"  ! {note}" for note in life.notes)
        before = None
        for moment in life.moments:
            yield from self._moment(moment, life.name, before)
            before = moment
        if life.gone is not None:
            yield f"  unloaded {_when(life.gone)}"

    def _moment(self, moment: Moment, name: str, before: Moment | None) -> Iterator[str]:
        if moment.kind == "program-end":
            what = "at the program's end"
        elif moment.kind == "failed-open":
            what = f"when the failed dlopen of {moment.closed} was undone, {_when(moment.at)}"
        else:
            of = "" if moment.kind == "dlclose" else f" of {moment.closed}"
            notes = {
                "collect": "",
                "referenced": ", which only counts down",
                "later": " inside another dlclose",
            }
            note = notes.get(moment.close_outcome, f", which does nothing: {moment.close_outcome}")
            what = f"dlclose{of}{note}, {_when(moment.at)}"
        word, colour = _OUTCOMES[moment.outcome]
        outcome = self._paint(word, colour)
        yield f"  {outcome} {what}"
        if before is not None and moment.reasons and moment.reasons == before.reasons:
            yield "    for the same reasons"
            return
        yield from moment_lines(moment, name, self.every)


def moment_lines(moment: Moment, name: str, every: bool = False) -> Iterator[str]:
    """Yield the reasons of a moment and what would let the library `name` go."""
    for reason in moment.reasons:
        yield f"    - {headline(reason, name)}"
        yield from details(reason, every)
    if moment.remedies:
        together = " (all of these)" if len(moment.remedies) > 1 else ""
        yield f"    to let it go{together}:"
        yield from (f"      * {remedy.text}" for remedy in moment.remedies)


def headline(reason: Reason, name: str) -> str:
    """Return a reason in a line, the library `name` being "it"."""
    return f"{'it' if not reason.chain and reason.object == name else reason.object} {reason.text}"


def details(reason: Reason, every: bool = False) -> Iterator[str]:
    """Yield what is known of a reason: by which way, who, where, since when."""
    for link in reason.chain:
        yield from _link(link, every)
    match reason.code:
        case "open-count" | "nodelete-open":
            for number, one in enumerate(reason.opens):
                yield f"      opened {_when(one.opened)} ({one.flags})"
                yield from _stack(one.opened.backtrace, shown=number < _LISTED, every=every)
                if one.closed is not None:
                    yield f"      closed in vain {_when(one.closed)}"
        case "tls-destructors" | "nodelete-destructors":
            for number, pending in enumerate(reason.destructors):
                yield from _destructor(pending, shown=number < _LISTED, every=every)
        case "nodelete-unique" | "nodelete-reference":
            yield from _bindings(reason.bindings, every=every)
        case "unfinished":
            assert reason.since is not None
            yield f"      there {_when(reason.since)}"
            yield from _stack(reason.since.backtrace, every=every)
        case _:
            if reason.since is not None and reason.since.backtrace:
                yield f"      since {_when(reason.since).removeprefix('at ')}"
                yield from _stack(reason.since.backtrace, every=every)


def _link(link: Link, every: bool) -> Iterator[str]:
    how = "needs" if link.kind == "needed" else "has bound to"
    yield f"      {os.path.basename(link.holder)} {how} {os.path.basename(link.held)}"
    yield from _bindings(link.bindings, named=False, every=every)


def _bindings(bindings: Sequence[BoundSymbol], *, named: bool = True, every: bool = False) -> Iterator[str]:
    for one in bindings[:_LISTED]:
        slot = f" in slot {one.slot:#x}" if one.slot is not None else ""
        how = f" ({one.relocation}{slot})" if one.relocation else ""
        when = f", {_when(one.bound)}" if one.bound is not None else ""
        who = f", looked up for {one.origin}" if named and one.origin else ""
        yield f"        {one.demangled}{how}{who}{when}"
        if one.bound is not None:
            yield from _stack(one.bound.backtrace, every=every)
    if len(bindings) > _LISTED:
        yield f"        ... and {len(bindings) - _LISTED} more"


def _destructor(one: PendingDestructor, *, shown: bool, every: bool) -> Iterator[str]:
    what = f"a {one.type}" if one.type else f"an object that {one.function} destroys"
    thread = one.thread
    state = (
        "has ended"
        if thread.state == "ended"
        else f"waits {thread.what}"
        if thread.what
        else f"is {thread.state}"
    )
    at = f" at {thread.place}" if thread.place and thread.state == "waiting" else ""
    running = "; its destructor is running" if one.running else ""
    yield f"      {what} at {one.address:#x} of thread {thread.thread} ({thread.name}), which {state}{at}{running}"
    if one.registered is None:
        return
    yield f"        registered {_when(one.registered)}"
    if shown:
        yield from _stack(one.registered.backtrace, every=every)


def _when(stamp: Stamp) -> str:
    """Return the place of something and the thread, unless that is the program's first.

    Virtual time stands only for a place that nothing is known of.
    """
    thread = f"thread {stamp.thread} ({stamp.thread_name})" if stamp.thread_name else f"thread {stamp.thread}"
    seconds, rest = divmod(stamp.time_ns, 1_000_000_000)
    where = f"at {stamp.place}" if stamp.place else f"at {seconds}.{rest:09d} s"
    return where if stamp.thread == PID else f"{where} in {thread}"


def _stack(frames: Sequence[CallFrame], *, shown: bool = True, every: bool = False) -> Iterator[str]:
    """Yield the frames from the user's first to its last one;
    the run-time libraries' own around them say nothing.

    With `every` nothing between them is left out.
    """
    frames = [frame for frame in frames if every or frame.function.partition("@")[0] not in PLUMBING]
    mine = [n for n, frame in enumerate(frames) if is_user(frame.object, frame.function)]
    if not mine or not shown:
        return
    lines = []
    for frame in folded(frames[mine[0] : mine[-1] + 1], everything=every):
        if isinstance(frame, str):
            lines.append(f"          {frame}")
            continue
        place = frame.object if frame.object.startswith("[") else f"[{frame.object}+{frame.offset:#x}]"
        source = f" ({frame.file}:{frame.line})" if frame.file else f" {place}"
        lines.append(f"          {frame.function or '??'}{source}")
    yield from lines if every else lines[:_FRAMES]
    if len(lines) > _FRAMES and not every:
        yield f"          ... {len(lines) - _FRAMES} more frames"
