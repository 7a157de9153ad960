"""Assertions whose failures say why: what keeps a library,
which destructors ran where, what `emu check` finds.

They raise AssertionError and need no pytest; under it, their own frames are left out of its tracebacks.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.api import Library, Process, Reasons


def assert_unloaded(library: Library | str, process: Process | None = None) -> None:
    """Assert that an object has gone; `process` is needed where it is given by its name.

    Fails, too, for a name that was never loaded.

    The failure is the answer of `Process.why_loaded`: what keeps it, since when, what would let it go. Raises
    AssertionError.
    """
    __tracebackhide__ = True
    why = _why(library, process)
    if not why.gone:
        raise AssertionError(f"{why.name} is not unloaded\n{why}")


def assert_loaded(library: Library | str, process: Process | None = None) -> None:
    """Assert that an object is there, be it closed or not; `process` is needed where it is given by its name.

    The failure says when and by whom it was unloaded. Raises AssertionError.
    """
    __tracebackhide__ = True
    why = _why(library, process)
    if not why.loaded:
        raise AssertionError(f"{why.name} is not loaded\n{why}")


def assert_dtor_order(
    process: Process, expected: Sequence[str | tuple[str, ...]], *, library: Library | str | None = None
) -> None:
    """Assert which destructors of thread_local objects have run so far, in which order;
    `library` leaves out those of other DSOs.

    Each is called by its type, its variable, its destructor or its DSO (`Noisy`, `shop::Noisy`, `noisy`,
    `~Noisy()`, `libplugin.so`), or, in a tuple, by several of these or the thread's name: `("libplugin.so",
    "worker")`. Qualifiers may be left out. The failure is a diff, with threads and places.
    Raises AssertionError; Error if the process does not trace `dtors`.
    """
    __tracebackhide__ = True
    from emu.testing.order import difference

    found = difference(process, expected, library)
    if found:
        raise AssertionError(found)


def assert_no_findings(process: Process) -> None:
    """Assert that `emu check` finds nothing.

    A process that hosts libraries is ended first, since some rules are about the end.

    The failure is the report of `emu check`. Raises AssertionError; StateError for a program that is not
    over; Error for a process that is not checked; GuestFault if a signal killed the guest at its end, and no
    rule is about that.
    """
    __tracebackhide__ = True
    from emu.api import GuestFault, StateError

    at_end = None
    try:
        process.close()
    except GuestFault as fault:
        at_end = fault
    if not process.ended:
        raise StateError(f"{process!r} is not over: what it leaves behind is known at its end")
    findings = process.findings()
    if len(findings):
        raise AssertionError(f"emu check finds something\n{findings!r}")
    if at_end is not None:
        raise at_end


def _why(library: Library | str, process: Process | None) -> Reasons:
    if not isinstance(library, str):
        return library.process.why_loaded(library)
    if process is None:
        raise TypeError(f"{os.path.basename(library)} is a name: in which process?")
    return process.why_loaded(library)
