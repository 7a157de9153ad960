"""The host's descriptors: what is opened for the guest never takes the last ones,
which `emu` needs itself (to read a symbol table, to import a module).

Source: getrlimit(2), RLIMIT_NOFILE.
"""

from __future__ import annotations

import errno
import os
from typing import Protocol
from weakref import WeakSet


class Reopenable(Protocol):
    """Who holds a descriptor that can be opened again when it is needed."""

    def let_go(self) -> None:
        """Close the descriptor."""


REOPENABLE: WeakSet[Reopenable] = WeakSet()
"""What is closed when descriptors run short:
a file of the host stays open as long as it is mapped, without need.
"""
_SPARE = 16
_most = 0
"""Descriptors from this number on are not the guest's, as far as is known."""


def for_guest(descriptor: int) -> int:
    """Return a descriptor that was opened for the guest.

    Raises OSError(EMFILE), with it closed, when it is one of the last, and would be even if all that can be
    opened again were closed.

    The soft limit is raised to the hard one when it is reached: it is meant for the guest's own numbers,
    which have their own limit.
    """
    global _most
    if descriptor < _most:
        return descriptor
    soft = os.sysconf("SC_OPEN_MAX")
    _most = soft - min(_SPARE, soft // 4)
    if descriptor >= _most:
        import resource

        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        if soft < hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            _most = hard - _SPARE
    if descriptor >= _most:
        for holder in list(REOPENABLE):
            holder.let_go()
        REOPENABLE.clear()
        lower = os.dup(descriptor)
        os.close(descriptor)
        descriptor = lower
    if descriptor >= _most:
        os.close(descriptor)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return descriptor
