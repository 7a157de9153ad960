"""How a run ended, as a finding: what its last words do not say of themselves, and what would help."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from emu.analysis.check_copies import is_deepbound
from emu.analysis.check_notes import NOWHERE, base
from emu.analysis.unfinished import never_returned, remedy, thrower, unfinished
from emu.core.record import NamedTuple
from emu.process.deadlock import HAS_ENDED, HAS_FORKED, NOT_COPIED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.analysis.check_notes import Notes, Occasion
    from emu.process.backtrace import FrameInfo
    from emu.rtld.rtld import Rtld

_DESTROYS = re.compile(r"    #\d+ (pthread_(?:cond|barrier)_destroy)\b")
_LOADER_LOCK = "waits for the dynamic loader's lock"
_RUNS = re.compile(r", which runs .* of (.+?), and that waits (.*)")
_THREAD = re.compile(r"(?:process \d+: )?(thread \d+ \([^)]*\))")
_FUTEX = re.compile(r"on a futex at 0x[0-9a-f]+ \((.+?) in (.+?)\)(?=,|$)")
_FOLDER = re.compile(r"\(/[^()]*/")
_UNWINDER = ("_Unwind_RaiseException", "_Unwind_Resume", "_Unwind_ForcedUnwind")
_PERSONALITY = "__gxx_personality_v0"

_TERMINATES = {"std::terminate()", _PERSONALITY}
"""What calls std::terminate's handler where an exception meets nobody, or noexcept."""


class End(NamedTuple):
    """The message of a finding about the end, and remedies."""

    message: str
    remedies: tuple[str, ...] = ()


def deadlocked(first: str, ended: str) -> End:
    """Return the finding of a deadlock; `ended` are its words, `first` the first line of them."""
    lines = [line.strip() for line in ended.splitlines()]
    for owner in (HAS_FORKED, NOT_COPIED):
        if forked := next((line for line in lines if owner in line), ""):
            return End(f"{first}: {_plain(forked)}", _of_nobody(owner, forked))
    if waits := next((line for line in lines if _LOADER_LOCK in line), ""):
        return End(f"{first}: {_plain(waits)}", tuple(_of_loader_lock(waits)))
    if left := next((line for line in lines if HAS_ENDED in line), ""):
        return End(f"{first}: {_plain(left)}", _of_nobody(HAS_ENDED, left))
    return _destroyed_too_early(first, ended)


def _of_nobody(owner: str, waits: str) -> tuple[str, ...]:
    """Return what would help where no thread of the process can let a lock go; `owner` are the words about
    who has it. Source: POSIX pthread_atfork (rationale), pthread_mutexattr_setrobust.
    """
    lock = _FUTEX.search(waits)
    what = lock[1] if lock is not None else "the lock"
    if owner == HAS_FORKED:
        return (
            f"let {what} go before fork, and take it again behind it",
            f"let {what} go in the child before it is taken there (of a recursive or error-checking one the child is not the owner: it cannot)",
        )
    if owner == HAS_ENDED:
        return (
            f"let {what} go in the thread that has taken it, before that ends",
            f"make {what} robust (pthread_mutexattr_setrobust): who takes it next then has it with EOWNERDEAD, and calls pthread_mutex_consistent",
        )
    return (
        f"take {what} before fork, and let it go behind it in both processes: pthread_atfork(lock, unlock, unlock)",
        "fork before threads are started, or call only async-signal-safe functions in the child until it executes something: signal-safety(7)",
    )


def _plain(waits: str) -> str:
    """Return the words about a wait without folders and addresses, where a name says which it is."""
    return _FUTEX.sub(r"for \1 in \2", _FOLDER.sub("(", waits))


def _of_loader_lock(waits: str) -> list[str]:
    """Return what would help where a thread waits for the loader's lock; `waits` are the words about it."""
    found = _RUNS.search(waits)
    closing = " in dlclose of " in waits
    when = "before dlclose" if closing else "when dlopen has returned"
    kind = "destructor" if closing else "constructor"
    who = base(found[1]) if found is not None else "the library"
    if found is None or found[2].startswith("for the end of "):
        return [
            f"do not join a thread in a {kind}: dlopen and dlclose run those with the loader's lock held, which the thread needs for"
            " dlopen, dlsym and dlclose",
            f"start and join threads in a function of {who}, which the host calls {when}",
        ]
    remedies = [
        f"do not wait for a lock, or for another thread, in a {kind}: dlopen and dlclose run those with the loader's lock held, and dlopen, dlsym and"
        " dlclose need it",
        f"do what waits in a function of {who}, which the host calls {when}",
    ]
    waiter, held = _THREAD.match(waits), _FUTEX.search(found[2])
    if waiter is not None and held is not None and f", held by {waiter[1]}" in found[2]:
        remedies.append(f"let {waiter[1]} call the loader (dlopen, dlsym, dlclose) without holding {held[1]}")
    return remedies


def _destroyed_too_early(first: str, ended: str) -> End:
    """Return the finding of a deadlock in which somebody destroys a condition variable (or a barrier) on
    which a thread still waits. Source: glibc nptl/pthread_cond_destroy.c, nptl/pthread_barrier_destroy.c.
    """
    waits = ""
    for line in ended.splitlines():
        if line.startswith("  thread "):
            waits = line.strip()
        found = _DESTROYS.match(line)
        if found:
            return End(
                f"{first}: {waits}, in {found[1]}: it destroys what another thread still waits on, and waits for that",
                (
                    "wake that thread and join it before the object is destroyed: in the destructor of what owns both, or before main returns",
                    "never destroy the object, if the thread is never to end: a reference to an object made with new",
                ),
            )
    return End(first)


def stuck(notes: Notes, end: End) -> tuple[End, Occasion]:
    """Return the finding of a run that came to no end, with the constructor or destructor that a thread is
    in, if one is, and where.
    """
    for tid in sorted(notes.process.kernel.tasks):
        found = unfinished(notes.process, tid)
        if found is not None and not found.ends:
            text = f"{end.message}: {never_returned(found, end.message)}"
            return End(text, (remedy(found),)), notes.of_thread(tid)
    return end, NOWHERE


def stopped(notes: Notes, message: str) -> tuple[End, Occasion]:
    """Return the finding of a run that could not be finished, and where it was."""
    end, place = stuck(notes, End(message))
    if place is NOWHERE and notes.task() in notes.process.kernel.tasks:
        place = notes.of_thread(notes.task())
    return end, place


def uncaught(notes: Notes, message: str) -> End | None:
    """Return the finding of a death by an exception that has left a constructor or destructor."""
    found = unfinished(notes.process, notes.task())
    called = {frame.function for frame in found.frames} if found is not None else set()
    if found is None or "abort" not in called or not called & _TERMINATES or not thrower(found.frames):
        return None
    return End(f"{message}: {never_returned(found, message)}", (remedy(found),))


def not_loaded(message: str, command: str) -> End:
    """Return the finding of a program that ld.so has refused, or ended; `command` asks why."""
    return End(message, (f"{command} tells what was searched and passed over, and tries what would help",))


def died(message: str, frames: Sequence[FrameInfo], rtld: Rtld | None) -> End:
    """Return the finding of a death by a signal:
    one of two C++ run-time libraries that met in an exception is explained.
    """
    thrower = next((f.object for f in frames if f.function.startswith(_UNWINDER)), "")
    handler = next((f.object for f in frames if f.function.startswith(_PERSONALITY)), "")
    if not thrower or not handler or rtld is None or base(thrower).startswith("libgcc_s.so"):
        return End(message)
    who, main = base(thrower), rtld.namespaces[0].main
    maps = [m for namespace in rtld.namespaces for m in namespace.maps if m.display_name == thrower]
    remedies = [
        f"link {who} without -static-libgcc: one unwinder, libgcc_s.so.1, then serves everybody",
        f"let no exception leave {who}: catch it in the functions that others call",
    ]
    if any(is_deepbound(map_, main) for map_ in maps):
        remedies.insert(
            0, f"open {who} without RTLD_DEEPBIND: it then uses the run-time library that everybody else uses"
        )
    return End(
        f"{message}: an exception of {who}, thrown by the unwinder that is linked into it, met the C++ run-time library of {base(handler)}:"
        " two unwinders do not understand each other's contexts",
        tuple(remedies),
    )  # fmt: skip
