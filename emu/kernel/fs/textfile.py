"""Files whose bytes are made when they are opened. Source: proc(5)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from emu.kernel.errors import fail
from emu.kernel.fs.file import SeekableFile

if TYPE_CHECKING:
    from emu.kernel.fs.file import Inode


class TextFile(SeekableFile):
    """A file whose bytes were made when it was opened (/proc)."""

    __slots__ = ("content",)

    def __init__(self, inode: Inode, path: str, flags: int, content: bytes) -> None:
        super().__init__(path, flags, inode)
        self.content = content

    def size(self) -> int:
        """Return the length of the text."""
        return len(self.content)

    def pread(self, size: int, offset: int) -> bytes:
        """Return up to `size` bytes at `offset`."""
        return self.content[offset : offset + size]

    def pwrite(self, data: bytes, offset: int) -> int:
        """Refuse: nothing here can be set, not even by root."""
        raise fail(errno.EINVAL)
