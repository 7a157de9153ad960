"""The files of /proc: texts that are made when they are opened, a task's name, a process's memory.

Source: proc(5); Linux fs/proc/base.c.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING

from emu.kernel import abi
from emu.kernel.errors import fail
from emu.kernel.fs.file import Inode, Meta, OpenFile, SeekableFile, fresh
from emu.kernel.fs.textfile import TextFile
from emu.kernel.proc import proctext

if TYPE_CHECKING:
    from emu.kernel.kernel import Kernel, System
    from emu.kernel.run.task import Task

Text = Callable[["Kernel"], bytes]


class ProcText(Inode):
    """A file whose text is made when it is opened."""

    __slots__ = ("_kernel", "_text")
    fmt = abi.S_IFREG

    def __init__(self, kernel: Kernel, mode: int, text: Text) -> None:
        super().__init__(kernel.fs, None, Meta(fresh(kernel.fs, abi.S_IFREG | mode)))
        self._kernel = kernel
        self._text = text

    def open(self, path: str, flags: int) -> OpenFile:
        """Make the text."""
        return TextFile(self, path, flags, self._text(self._kernel))


class MachineText(Inode):
    """A file about the machine, as the process that opens it is told."""

    __slots__ = ("_system", "_text")
    fmt = abi.S_IFREG

    def __init__(self, system: System, text: Text) -> None:
        super().__init__(system.fs, None, Meta(fresh(system.fs, abi.S_IFREG | 0o444)))
        self._system, self._text = system, text

    def open(self, path: str, flags: int) -> OpenFile:
        """Make the text."""
        return TextFile(self, path, flags, self._text(self._system.running))


class _CommFile(TextFile):
    """An open comm: what is written is the task's new name."""

    __slots__ = ("_kernel", "_task")

    def __init__(self, inode: Inode, path: str, flags: int, kernel: Kernel, task: Task) -> None:
        super().__init__(inode, path, flags, proctext.comm_text(kernel, task))
        self._kernel, self._task = kernel, task

    def pwrite(self, data: bytes, offset: int) -> int:
        """Rename the task. Source: Linux fs/proc/base.c:comm_write."""
        self._kernel.rename(self._task, data.partition(b"\0")[0])
        return len(data)

    def truncate(self, size: int) -> None:
        """Accept it: O_TRUNC changes nothing."""


class Comm(Inode):
    """The name of a task, to read and to set."""

    __slots__ = ("_kernel", "_task")
    fmt = abi.S_IFREG

    def __init__(self, kernel: Kernel, task: Task) -> None:
        super().__init__(kernel.fs, None, Meta(fresh(kernel.fs, abi.S_IFREG | 0o644)))
        self._kernel, self._task = kernel, task

    def open(self, path: str, flags: int) -> OpenFile:
        """Return a description."""
        return _CommFile(self, path, flags, self._kernel, self._task)


class _MemoryFile(SeekableFile):
    """An open mem: offsets are addresses, and what the pages allow does not matter."""

    __slots__ = ("_process",)

    def __init__(self, inode: Inode, path: str, flags: int, process: Kernel) -> None:
        super().__init__(path, flags, inode)
        self._process = process

    def _there(self, address: int, size: int) -> int:
        """Return how much of a range is mapped, from its beginning on. Raises OSError(EIO) for nothing."""
        process = self._process
        if process.family.status is not None:
            return 0
        end = address
        for area in process.space.overlapping(address, address + size):
            if area.start > end or not process.space.reachable(area.start, area.end - area.start):
                break
            end = area.end
        if end <= address:
            raise fail(errno.EIO)
        return min(end - address, size)

    def pread(self, size: int, offset: int) -> bytes:
        """Return bytes of the memory. Raises OSError(EIO) where nothing is mapped."""
        size = self._there(offset, size)
        return bytes(self._process.arena.read(offset, size)) if size else b""

    def pwrite(self, data: bytes, offset: int) -> int:
        """Store bytes in the memory. Raises OSError(EIO) where nothing is mapped."""
        size = self._there(offset, len(data))
        if size:
            self._process.arena.write(offset, data[:size])
            self._process.cpu.flush_code(offset, size)
        return size


class ProcMemory(Inode):
    """/proc/self/mem: the process's memory by address."""

    __slots__ = ("_kernel",)
    fmt = abi.S_IFREG

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel.fs, None, Meta(fresh(kernel.fs, abi.S_IFREG | 0o600)))
        self._kernel = kernel

    def open(self, path: str, flags: int) -> OpenFile:
        """Return a description of the memory."""
        return _MemoryFile(self, path, flags, self._kernel)
