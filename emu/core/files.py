"""What a file must offer so that a mapping can be filled from it, and so that the loader can read it."""

from __future__ import annotations

from typing import Protocol


class MemoryFile(Protocol):
    """A file of the host's memory; `fd` is its descriptor."""

    fd: int


class Backing(Protocol):
    """An open file, as the address space and the loader see it.

    `path` is the guest's path; `dev` and `ino` identify the file, as fstat would (the loader compares them).
    """

    path: str
    dev: int
    ino: int

    def size(self) -> int:
        """Return the file's length in bytes."""

    def pread(self, size: int, offset: int) -> bytes:
        """Return up to `size` bytes at `offset`; fewer only at the end of the file."""

    def pwrite(self, data: bytes, offset: int) -> int:
        """Store `data` at `offset`; return the number of bytes stored. Raises OSError."""

    def host_fd(self) -> int | None:
        """Return a host descriptor that may be mapped MAP_PRIVATE, or None where the bytes must be copied."""

    def memory_file(self) -> MemoryFile:
        """Return the memory file, of whole pages, that shared mappings show and that holds the file's bytes.

        Raises OSError.
        """

    def write_back(self, offset: int, size: int) -> None:
        """What a shared mapping has stored in this range is to be where the file is kept."""


class FileSystem(Protocol):
    """What the loader, and who explains it, need of the file system: look at a path, open it to read."""

    def open_for_loading(self, path: str) -> Backing:
        """Open `path` (guest path, absolute or relative to the working directory) read-only.

        Raises OSError.
        """

    def look_at(self, path: str) -> Backing:
        """Open `path` read-only for a reader that the guest has not: who watches the file is told nothing.

        Raises OSError.
        """

    def is_directory(self, path: str) -> bool:
        """Whether `path` names a directory."""

    def realpath(self, path: str) -> str:
        """Return the guest path of `path` with every symbolic link resolved. Raises OSError."""
