"""Ends a wait on the host's files, from any thread of the host. Source: eventfd(2)."""

from __future__ import annotations

import os
from contextlib import suppress


class Alarm:
    """`fd` is readable from `ring` to `silence`."""

    __slots__ = ("fd",)

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def __del__(self) -> None:
        os.close(self.fd)

    def ring(self) -> None:
        """Make `fd` readable."""
        os.eventfd_write(self.fd, 1)

    def silence(self) -> None:
        """Make it unreadable."""
        with suppress(BlockingIOError):
            os.eventfd_read(self.fd)
