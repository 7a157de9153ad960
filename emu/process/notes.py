"""What the user is told of a run beside the guest's own output."""

from __future__ import annotations

import os

from emu.core.text import printable

_MOST = 100


def say(text: str, descriptor: int | None = 2) -> None:
    """Write to standard error at once, in order with what the guest writes.

    Nobody hears it where that is closed.
    """
    if descriptor is not None:
        os.write(descriptor, os.fsencode(text))


class KeptNotes:
    """Lines about what is not supported, kept until the program fails: one that goes on well need not know.

    `verbose` tells each at once.
    """

    def __init__(self, verbose: bool) -> None:
        self._verbose = verbose
        self._lines: list[str] = []

    def keep(self, line: str) -> None:
        """Take a line. Beyond the first hundred they are dropped."""
        if self._verbose:
            say(f"{printable(line)}\n")
        elif len(self._lines) < _MOST:
            self._lines.append(line)

    def tell(self) -> None:
        """Say what was kept, once."""
        lines, self._lines = self._lines, []
        for line in lines:
            say(f"{printable(line)}\n")
