"""Descriptors of processes: readable when the process is over. Source: pidfd_open(2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.kernel import abi
from emu.kernel.fs.file import OpenFile, fresh

if TYPE_CHECKING:
    from emu.kernel.fs.file import Volume
    from emu.kernel.fs.stat import Stat
    from emu.kernel.run.family import Family


class PidFile(OpenFile):
    """A process, by what ties it to others."""

    __slots__ = ("_stat", "family")

    def __init__(self, volume: Volume, family: Family, flags: int) -> None:
        super().__init__("anon_inode:[pidfd]", abi.O_RDWR | flags)
        self.family = family
        self._stat = fresh(volume, 0o600)

    def stat(self) -> Stat:
        """Return the attributes of an anonymous inode."""
        return self._stat

    def poll(self) -> int:
        """Return what holds: the end of the process makes it readable."""
        return abi.POLLIN | abi.POLLRDNORM if self.family.status is not None else 0
