"""The answer of `emu why` for people: one block a moment, what keeps the library, since when, and what to change."""

from __future__ import annotations

import os
from itertools import groupby
from typing import TYPE_CHECKING

from emu.analysis.frames import is_library_source, is_user, readable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from emu.analysis.frames import CallFrame
    from emu.analysis.why_data import (
        BoundSymbol,
        Generation,
        Link,
        Moment,
        PendingDestructor,
        Reason,
        Stamp,
        WhyAnswer,
    )

_BOLD, _GREEN, _RED, _PLAIN = "1", "32", "31", "0"
_FRAMES = 8
_LISTED = 5


def render(answer: WhyAnswer, *, folder: str = "", colour: bool = False) -> str:
    """Return the answer as lines of text, the last one ended too. Paths below `folder` are told from there."""
    text = readable("".join(line + "\n" for line in _Renderer(answer, colour).lines()))
    return text.replace(folder.rstrip("/") + "/", "") if folder.strip("/") else text


class _Renderer:
    def __init__(self, answer: WhyAnswer, colour: bool) -> None:
        self.answer, self.colour = answer, colour

    def lines(self) -> Iterator[str]:
        answer = self.answer
        verdict = self._paint("stays", _RED) if answer.stayed else self._paint("is gone", _GREEN)
        if not answer.stayed and answer.generations[-1].gone is None:
            verdict = self._paint("went at its last dlclose, and has been opened again", _GREEN)
        yield f"emu why: {answer.program} {answer.library}: {verdict} ({answer.ended})"
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
            yield f"  loaded {_when(life.loaded)}" + (" at start-up" if not life.loaded.backtrace else "")
        before = None
        for moment in life.moments:
            yield from self._moment(moment, life.name, before)
            before = moment
        if life.gone is not None:
            yield f"  unloaded {_when(life.gone)}"

    def _moment(self, moment: Moment, name: str, before: Moment | None) -> Iterator[str]:
        if moment.kind == "program-end":
            what = "at the program's end"
        else:
            of = "" if moment.kind == "dlclose" else f" of {moment.closed}"
            notes = {
                "collect": "",
                "referenced": ", which only counts down",
                "later": " inside another dlclose",
            }
            note = notes.get(moment.close_outcome, f", which does nothing: {moment.close_outcome}")
            what = f"dlclose{of}{note}, {_when(moment.at)}"
        outcome = self._paint("STAYED", _RED) if moment.outcome == "stayed" else self._paint("WENT", _GREEN)
        yield f"  {outcome} {what}"
        if before is not None and moment.reasons and moment.reasons == before.reasons:
            yield "    for the same reasons"
            return
        yield from moment_lines(moment, name)


def moment_lines(moment: Moment, name: str) -> Iterator[str]:
    """Yield the reasons of a moment and what would let the library `name` go."""
    for reason in moment.reasons:
        yield f"    - {headline(reason, name)}"
        yield from details(reason)
    if moment.remedies:
        together = " (all of these)" if len(moment.remedies) > 1 else ""
        yield f"    to let it go{together}:"
        yield from (f"      * {remedy.text}" for remedy in moment.remedies)


def headline(reason: Reason, name: str) -> str:
    """Return a reason in a line, the library `name` being "it"."""
    return f"{'it' if not reason.chain and reason.object == name else reason.object} {reason.text}"


def details(reason: Reason) -> Iterator[str]:
    """Yield what is known of a reason: by which way, who, where, since when."""
    for link in reason.chain:
        yield from _link(link)
    match reason.code:
        case "open-count" | "nodelete-open":
            for number, one in enumerate(reason.opens):
                yield f"      opened {_when(one.opened)} ({one.flags})"
                yield from _stack(one.opened.backtrace, shown=number < _LISTED)
                if one.closed is not None:
                    yield f"      closed in vain {_when(one.closed)}"
        case "tls-destructors" | "nodelete-destructors":
            for number, pending in enumerate(reason.destructors):
                yield from _destructor(pending, shown=number < _LISTED)
        case "nodelete-unique" | "nodelete-reference":
            yield from _bindings(reason.bindings)
        case _:
            if reason.since is not None and reason.since.backtrace:
                yield f"      since {_when(reason.since).removeprefix('at ')}"
                yield from _stack(reason.since.backtrace)


def _link(link: Link) -> Iterator[str]:
    how = "needs" if link.kind == "needed" else "has bound to"
    yield f"      {os.path.basename(link.holder)} {how} {os.path.basename(link.held)}"
    yield from _bindings(link.bindings, named=False)


def _bindings(bindings: Sequence[BoundSymbol], *, named: bool = True) -> Iterator[str]:
    for one in bindings[:_LISTED]:
        slot = f" in slot {one.slot:#x}" if one.slot is not None else ""
        how = f" ({one.relocation}{slot})" if one.relocation else ""
        when = f", {_when(one.bound)}" if one.bound is not None else ""
        who = f", looked up for {one.origin}" if named and one.origin else ""
        yield f"        {one.demangled}{how}{who}{when}"
        if one.bound is not None:
            yield from _stack(one.bound.backtrace)
    if len(bindings) > _LISTED:
        yield f"        ... and {len(bindings) - _LISTED} more"


def _destructor(one: PendingDestructor, *, shown: bool) -> Iterator[str]:
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
        yield from _stack(one.registered.backtrace)


def _when(stamp: Stamp) -> str:
    seconds, rest = divmod(stamp.time_ns, 1_000_000_000)
    thread = f"thread {stamp.thread} ({stamp.thread_name})" if stamp.thread_name else f"thread {stamp.thread}"
    place = f"{stamp.place}, " if stamp.place else ""
    return f"at {place}{seconds}.{rest:09d} s in {thread}"


def _stack(frames: Sequence[CallFrame], *, shown: bool = True) -> Iterator[str]:
    """Yield the frames from the user's first to its last one; the run-time libraries' own around them say nothing."""
    mine = [n for n, frame in enumerate(frames) if is_user(frame.object, frame.function)]
    if not mine or not shown:
        return
    lines: list[str] = []
    for library, group in groupby(
        frames[mine[0] : mine[-1] + 1], lambda frame: is_library_source(frame.file)
    ):
        run = list(group)
        shown_of_run = run[:1] if library and len(run) > 2 else run
        for frame in shown_of_run:
            source = f" ({frame.file}:{frame.line})" if frame.file else f" [{frame.object}+{frame.offset:#x}]"
            lines.append(f"          {frame.function or '??'}{source}")
        if len(shown_of_run) < len(run):
            lines.append(f"          ... {len(run) - 1} more frames in the language's own library")
    yield from lines[:_FRAMES]
    if len(lines) > _FRAMES:
        yield f"          ... {len(lines) - _FRAMES} more frames"
