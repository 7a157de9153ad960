"""What ld.so takes from the program's malloc, calloc and realloc, and gives back to its free, once these are
there.

Whoever interposes them sees the calls, in ld.so's order and of its sizes, and may refuse memory. Code of
the linker that runs to its end without the guest leaves its calls to be made by the generator above it
(`settle`): until then what it has made lies in the linker's own heap. Before the program's allocator is
there all of it does nothing, and the heap serves.

Source: glibc elf/dl-minimal.c:__rtld_malloc_init_real, and the places that call malloc and free in elf/.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

from emu.core.effects import CallGuest, Effect

if TYPE_CHECKING:
    from emu.core.errors import LoaderError
    from emu.rtld.given import Work
    from emu.rtld.rtld import Rtld
    from emu.rtld.search_view import MapView

Then = Callable[[int], None]
"""What is to be done with the block, 0 where there was no memory."""


class Owed:
    """The calls that are still to be made. Sizes are bytes."""

    def __init__(self, rtld: Rtld) -> None:
        self._rtld = rtld
        self._failure: LoaderError | None = None
        self.lists: dict[tuple[MapView, str], int] = {}
        """The blocks of objects' search lists, by DT_RPATH and DT_RUNPATH; -1 for a list that there is not,
        nothing for one not looked at yet.
        """
        self._calls: deque[tuple[bytes, tuple[int, ...] | Callable[[], int], Then | None]] = deque()

    @property
    def active(self) -> bool:
        """Whether memory comes from the program now."""
        return self._rtld.started and len(self._rtld.allocator) == 4

    @property
    def interposed(self) -> bool:
        """Whether somebody but libc serves them, who would see what else makes no difference."""
        libc = self._rtld.namespaces[0].libc_map
        return libc is None or not libc.contains(self._rtld.allocator[b"free"])

    def malloc(self, size: int, then: Then | None = None) -> None:
        """Have a block allocated at the next `settle`."""
        self._owe(b"malloc", (size,), then)

    def calloc(self, count: int, size: int, then: Then) -> None:
        """Have zeroed memory allocated at the next `settle`."""
        self._owe(b"calloc", (count, size), then)

    def free(self, address: int) -> None:
        """Have a block given back at the next `settle`; as ld.so does it, also that at 0."""
        self._owe(b"free", (address,), None)

    def free_nothing(self, times: int) -> None:
        """Have the null pointer given back, where somebody would see that."""
        if self.active and self.interposed:
            for _ in range(times):
                self.free(0)

    @property
    def pending(self) -> bool:
        """Whether anything is owed."""
        return bool(self._calls)

    def free_later(self, find: Callable[[], int]) -> None:
        """Have a block given back whose address is known only when its turn has come."""
        if self.active:
            self._calls.append((b"free", find, None))

    def _owe(self, name: bytes, args: tuple[int, ...], then: Then | None) -> None:
        if self.active:
            self._calls.append((name, args, then))

    def fail(self, error: LoaderError, *blocks: int) -> None:
        """Drop what is owed, for want of memory: `blocks` are given back, and then `settle` raises the
        error.
        """
        self._calls.clear()
        for block in blocks:
            self.free(block)
        self._failure = error

    def settle(self) -> Work:
        """Make the calls that are owed. Raises LoaderError where one of them found no memory."""
        while self._calls:
            name, args, then = self._calls.popleft()
            words = (args(),) if callable(args) else args
            block = yield CallGuest(self._rtld.allocator[name], words)
            if then is not None:
                then(block)
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def call(self, name: bytes, *args: int) -> Generator[Effect, int, int]:
        """Call one of the four now, after what is owed. Only where memory comes from the program."""
        yield from self.settle()
        return (yield CallGuest(self._rtld.allocator[name], args))
