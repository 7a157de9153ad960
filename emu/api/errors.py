"""What can go wrong for a user of the Python face. Each error names the object that it is about.

`Error` is the base of all; it is also the base of what the loader and the kernel personality report.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from emu.core.errors import EmuError as Error
from emu.core.errors import MemoryFault, RunTimeout, UnsupportedError
from emu.process.backtrace import render
from emu.process.deadlock import DeadlockError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from emu.process.backtrace import FrameInfo

__all__ = [
    "ArgumentError", "ClosedError", "DeadlockError", "Error", "GuestException", "GuestFault", "MemoryAccessError",
    "NotAFunctionError", "OpenError", "ProcessEnded", "RunTimeout", "StateError", "SymbolNotFoundError", "UnsupportedError",
]  # fmt: skip


class ArgumentError(Error, TypeError):
    """An argument is not what its type allows."""


class OpenError(Error, OSError):
    """dlopen or dlclose failed; the text is dlerror's, a note has what else is known."""


class SymbolNotFoundError(Error, AttributeError):
    """An object has no such symbol."""


class NotAFunctionError(Error, TypeError):
    """A call to a symbol that is data."""


class MemoryAccessError(Error):
    """An access to guest memory that is not mapped. `address` is the first byte that is not."""

    def __init__(self, text: str, address: int) -> None:
        super().__init__(text)
        self.address = address


@contextmanager
def told_of(what: str) -> Iterator[None]:
    """Turn a MemoryFault into a MemoryAccessError:
    what the guest has in its memory of `what` cannot be followed.
    """
    try:
        yield
    except MemoryFault as error:
        raise MemoryAccessError(f"{what}: the guest's own data are broken: {error}", error.address) from None


class StateError(Error):
    """The process, or a thread, cannot do that where it is now."""


class ClosedError(StateError):
    """The use of a library that is closed, or of a process or thread that is over."""


class ProcessEnded(ClosedError):
    """The guest has ended its process, for instance by exit() in a function that was called.

    `status` is its exit status.
    """

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


class GuestFault(ProcessEnded):
    """A signal killed the guest.

    `signal` is its number, `backtrace` has the frames of the thread, the innermost first.

    `backtrace` is empty where the signal came from outside.
    """

    def __init__(self, text: str, status: int, signal: int, backtrace: Sequence[FrameInfo]) -> None:
        super().__init__(text, status)
        self.signal, self.backtrace = signal, tuple(backtrace)


class GuestException(Error):
    """An exception of the guest that nothing in the guest caught. The process stays usable.

    `type_name` is the demangled C++ type ("" for an exception of another language), `what` what a
    `std::exception` says of itself, else None. `backtrace` has the frames from where it was thrown, or last
    rethrown, the innermost first.
    """

    def __init__(self, type_name: str, what: str | None, backtrace: Sequence[FrameInfo] = ()) -> None:
        text = (type_name or "foreign exception") + (f": {what}" if what is not None else "")
        if backtrace:
            text += f"\nthrown here:\n{render(backtrace)}"
        super().__init__(text)
        self.type_name, self.what, self.backtrace = type_name, what, tuple(backtrace)
