"""Which constructor, destructor or exit handler has not returned, told from where a thread stands at the
end of a run.

Source: gABI, "Initialization and Termination Functions"; glibc elf/dl-init.c, elf/dl-call_fini.c.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from emu.analysis.check_notes import base
from emu.analysis.frames import is_runtime, is_user
from emu.analysis.history import stamp_of
from emu.analysis.why_data import Reason, Remedy
from emu.core.errors import EmuError
from emu.core.record import NamedTuple
from emu.process.deadlock import awaited

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.analysis.history import History
    from emu.analysis.why_data import Moment
    from emu.process import Process
    from emu.process.backtrace import FrameInfo
    from emu.process.folding import Framed

_RUNS = {
    ("[emu]", "call_init"): "constructor", ("[emu]", "call_fini"): "destructor",
    ("[emu]", "_dl_start_user"): "constructor", ("libc.so.6", "__run_exit_handlers"): "exit handler",
}  # fmt: skip
"""What the functions of an object run that call others one after the other."""
_WHEN = {"constructor": "after dlopen", "destructor": "before dlclose", "exit handler": "before exit"}
_CRT = frozenset(("__do_global_dtors_aux", "frame_dummy", "_init", "_fini"))
"""Functions of the start-up files, between the loader and what the object has itself."""
_ENDS = frozenset(("exit", "_exit", "_Exit", "quick_exit", "__run_exit_handlers"))


_THROWS = ("__cxa_throw", "__cxa_rethrow")
"""Source: Itanium C++ ABI: Exception Handling 2.4.3."""
_STARTS = "_dl_start_user"
"""What runs the constructors of a start-up."""


class Unfinished(NamedTuple):
    """A function of `object` that the loader or exit has called: its `kind`, name and place, what it does;
    `ends`: it has ended the process.
    """

    kind: str
    object: str
    function: str
    place: str
    does: str
    ends: bool
    frames: tuple[FrameInfo, ...]

    @property
    def text(self) -> str:
        """The function in words."""
        place = f" ({self.place})" if self.place else ""
        return f"{self.function} of {base(self.object)}{place}"


def frames_of(process: Process, tid: int) -> list[FrameInfo]:
    """Return the frames in which a thread stands; none where it has ended."""
    task = process.kernel.tasks.get(tid)
    try:
        if process.runner is not None and process.runner.task.tid == tid:
            return process.backtrace()
        return process.backtrace(task) if task is not None else []
    except EmuError:
        return []


def unfinished(process: Process, tid: int) -> Unfinished | None:
    """Return the innermost constructor or destructor in which a thread stands."""
    frames = frames_of(process, tid)
    at = next((n for n, f in enumerate(frames) if _runs(f)), None)
    if at is None:
        return None
    inside = frames[:at]
    mine = [n for n, f in enumerate(inside) if is_user(f.object, f.function) and f.function not in _CRT]
    if not mine:
        return None
    outer = inside[mine[-1]]
    place = f"{base(outer.file)}:{outer.line}" if outer.file else ""
    ends = any(f.function in _ENDS for f in inside)
    return Unfinished(
        _runs(frames[at]), outer.object, outer.function or f"code at {outer.offset:#x}", place,
        "" if ends else _does(process, tid, inside, mine[0]), ends, tuple(frames),
    )  # fmt: skip


def _runs(frame: FrameInfo) -> str:
    return _RUNS.get((base(frame.object), frame.function), "")


def _does(process: Process, tid: int, inside: Sequence[FrameInfo], first: int) -> str:
    """Return what a thread does in the function that does not return; `first` is the program's innermost
    frame.
    """
    called = inside[first - 1] if first and is_runtime(inside[first - 1].object) else None
    entry = f"is in {called.function}" if called is not None and called.function else ""
    task = process.kernel.tasks.get(tid)
    waits = f"waits {awaited(process, task)}" if task is not None and task.block is not None else ""
    return ", and ".join(word for word in (entry, waits) if word) or "still runs"


def never_returned(found: Unfinished, ended: str) -> str:
    """Return what is to be said of a constructor or destructor that has not returned."""
    if found.ends:
        return f"the {found.kind} {found.text} has ended the process ({ended})"
    if thrown := thrower(found.frames):
        return f"{thrown} threw an exception, which must not leave {_article(found.kind)}: {_no_catch(found)}"
    return f"the {found.kind} {found.text} has not returned: it {found.does}"


def thrower(frames: Sequence[Framed]) -> str:
    """Return the function that threw the exception which ends the process, with its line;
    empty if there is none on the stack.
    """
    at = next((n for n, f in enumerate(frames) if f.function.partition("@")[0] in _THROWS), None)
    if at is None or at + 1 >= len(frames):
        return ""
    frame = frames[at + 1]
    place = f" ({base(frame.file)}:{frame.line})" if frame.file else ""
    return f"{frame.function or base(frame.object)}{place}"


def _article(kind: str) -> str:
    return f"an {kind}" if kind[0] == "e" else f"a {kind}"


def _no_catch(found: Unfinished) -> str:
    """Return why nobody catches an exception. Source: dlfcn.h (__THROWNL); C++ [except.terminate]."""
    callers = {f.function for f in found.frames}
    for call in ("dlopen", "dlmopen", "dlclose"):
        if call in callers:
            return f"{call} is declared not to throw, so its caller ends in std::terminate, even inside of a try block"
    return "nothing that could catch it has called it, so std::terminate ends the process"


def remedy(found: Unfinished) -> str:
    """Return what would help."""
    if thrower(found.frames):
        return f"catch it in the {found.kind}, and let a function of the library tell of it"
    if found.ends:
        return f"end the process where the {found.kind} was called from, not in it"
    return (
        f"let the {found.kind} come to an end: what it waits for (a thread to join, a lock, an answer) belongs in a function of"
        f" {base(found.object)} that is called {_WHEN[found.kind]}"
    )


def never_ended(
    process: Process, history: History, moment: Moment, of: tuple[str, int, str, int], ended: str
) -> Moment:
    """Return the moment of a dlclose that was to take the object `of` (name, namespace, ...) and has not."""
    found = unfinished(process, moment.at.thread)
    if found is None:
        return replace(moment, outcome="unfinished")
    now, name = history.now(), history.thread_name(moment.at.thread)
    at = stamp_of(now.sequence, now.time_ns, moment.at.thread, name, found.frames)
    text = f"is being unloaded: {never_returned(found, ended)}"
    reason = Reason("unfinished", of[0], of[1], text, 1, at, (), (), (), ())
    change = Remedy("finish", found.object, remedy(found), moment.at.thread, ())
    return replace(moment, outcome="unfinished", reasons=(reason,), remedies=(change,))
