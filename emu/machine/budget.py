"""What a guest may make the host hold: the pages that it has touched, and the
bytes that are kept for it elsewhere.

What is only mapped costs nothing, however much that is; as on Linux, a page counts from the first access to
it until its mapping goes. The account is the same in every run of a program: it counts what the guest does,
not what the host has in memory.

Source: mmap(2), MAP_NORESERVE; Linux Documentation/mm/overcommit-accounting.rst, heuristic overcommit.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

_PAGE = 4096
_KEPT_FREE = 16
NO_LIMIT = 1 << 62


ENGINE = 3 << 20
"""What a CPU of its own costs, in bytes."""
PROGRAM = 5 << 20
"""What is kept of a program that a child process has executed: its linker's state, symbols, unwind tables."""


class Budget:
    """The account of one machine.

    `limit` is in bytes, `pages` counts touched ones, `held` the bytes of files in memory and the like,
    `engines` the CPUs of child processes, `programs` the bytes of what is kept of what they execute.

    With `overcommit` any mapping is promised, and only touching it is limited. `on_refusal` is told once how
    much was asked for in vain, and the name of the error.
    """

    __slots__ = ("limit", "pages", "held", "engines", "programs", "_on_refusal", "_overcommit", "_told")

    def __init__(
        self,
        limit: int = NO_LIMIT,
        *,
        overcommit: bool = True,
        on_refusal: Callable[[int, str], None] | None = None,
    ) -> None:
        self.limit = limit
        self.pages = self.held = self.engines = self.programs = 0
        self._overcommit = overcommit
        self._told = False
        self._on_refusal = on_refusal or (lambda size, told: None)

    @property
    def used(self) -> int:
        """How many bytes are in use."""
        return self.pages * _PAGE + self.held + self.engines * ENGINE + self.programs

    def room(self) -> int:
        """Return how many bytes are left."""
        return max(self.limit - self.used, 0)

    def hold(self, size: int) -> None:
        """Account for `size` more bytes that are kept outside of the guest's pages (negative: fewer).

        Raises OSError(ENOSPC).

        A sixteenth of all is left to the guest's pages: a full disk must not kill who fills it.
        """
        if size > 0 and size > self.room() - self.limit // _KEPT_FREE:
            raise self._refuse(errno.ENOSPC, size)
        self.held += size

    def commit(self, length: int) -> None:
        """Ask whether the guest may have `length` bytes of writable memory:
        more than all that is left is refused. Raises OSError(ENOMEM).
        """
        if length > self.room() and not self._overcommit:
            raise self._refuse(errno.ENOMEM, length)

    def _refuse(self, number: int, size: int) -> OSError:
        if not self._told:
            self._told = True
            self._on_refusal(size, errno.errorcode[number])
        return OSError(number, os.strerror(number))
