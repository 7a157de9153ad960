"""The rule about a static initialiser that is in two DSOs: it runs in both, and the program ends itself in
the second run.

So it is with generated code that registers something by its name (messages, flags, factories) and lies in a
static library that two DSOs contain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.analysis.check_notes import Notes, Occasion, base
from emu.analysis.same_code import Code, same_code
from emu.core.record import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.process.backtrace import FrameInfo
    from emu.rtld.link_map import LinkMap

RULE = "initialised-twice"
_CALLS = ("call_init", "_dl_start_user")
_START = ("__libc_start_main", "call_init")


class _Running(NamedTuple):
    """An initialiser that has not returned: its frame, and the function that it has called last."""

    frame: FrameInfo
    called: FrameInfo | None


def initialised_twice(notes: Notes, frames: Sequence[FrameInfo], place: Occasion, ended: str) -> bool:
    """Note that the run has `ended` in an initialiser which ran in another object before; return whether it
    is so.
    """
    running = _running(frames)
    if running is None:
        return False
    frame, called = running
    mine = next((m for m in notes.maps() if m.display_name == frame.object), None)
    code = _initialiser(notes, mine, frame.function) if mine is not None else None
    if mine is None or code is None:
        return False
    for other in notes.maps():
        if other is mine or other.ns != mine.ns or not other.init_called:
            continue
        before = _initialiser(notes, other, frame.function)
        if before is not None and same_code(notes.process, code, before):
            _tell(notes, (mine, other), running, place, ended)
            return True
    return False


def _running(frames: Sequence[FrameInfo]) -> _Running | None:
    """Return the initialiser that is on the stack, the innermost if there are several."""
    for number, frame in enumerate(frames):
        mine = frame.object == "[emu]" and frame.function in _CALLS
        if number and (mine or frame.function.startswith(_START)):
            initialiser = frames[number - 1]
            inner = (
                f
                for f in reversed(frames[:number])
                if f.object != initialiser.object or f.file != initialiser.file
            )
            return _Running(initialiser, next(inner, None))
    return None


def _initialiser(notes: Notes, map_: LinkMap, function: str) -> Code | None:
    """Return the function of that name which an object has for itself (or exports), as its file's symbol
    table has it.
    """
    name = function.encode()
    for raw, symbol in notes.process.symbols.unexported_like(map_, name):
        if raw == name:
            return Code(map_, symbol.value, symbol.size)
    return None


def _tell(
    notes: Notes, maps: tuple[LinkMap, LinkMap], running: _Running, place: Occasion, ended: str
) -> None:
    now, before = (base(map_.display_name) for map_ in maps)
    frame, called = running
    source = base(frame.file) if frame.file else frame.function
    whom = ""
    if called is not None and called.function:
        whom = f", and both call {called.function.partition('(')[0]} of {base(called.object)}, the second time in vain"
    shared = called is not None and called.object not in {map_.display_name for map_ in maps}
    remedies = [
        f"link what {now} and {before} both contain ({source}) as one shared library, which both need: it is then initialised once"
    ]
    if shared:
        remedies.append(f"leave {source} out of one of them: let {now} need {before}, or the reverse")
    else:
        remedies.append(
            f"build {now} and {before} so that neither exports its copy (-fvisibility=hidden, or -Wl,--exclude-libs,ALL): each has its own registry then"
        )
    notes.report(
        RULE,
        f"the static initialisers of {source} have run in {before}, and run in {now} again: both contain that code{whom}: {ended}",
        place, (), [map_.display_name for map_ in maps], key=(frame.function,), remedies=remedies,
    )  # fmt: skip
