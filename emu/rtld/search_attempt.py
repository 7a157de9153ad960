"""One search for an object under way: the candidates that are tried, and what their failures amount to.

Source: glibc elf/dl-load.c:open_verify.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from emu.core.effects import Effect
from emu.core.errors import ElfError, EmuError, LoaderError
from emu.core.record import NamedTuple
from emu.elf.constants import EHDR_SIZE, PHDR_SIZE
from emu.elf.header import ForeignObjectError, parse_ehdr
from emu.elf.machines import HEAD, foreign

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from emu.core.files import Backing
    from emu.rtld.search_path import SearchPath
    from emu.rtld.search_view import MapView

LA_SER_ORIG, LA_SER_LIBPATH, LA_SER_RUNPATH, LA_SER_CONFIG, LA_SER_DEFAULT = 1, 2, 4, 8, 64
"""What auditors are told of where a name comes from (link.h)."""


class FoundFile(NamedTuple):
    """A file found: the path that it was opened by, the open file, and the rule that led to it.

    `block` is memory of the program's malloc for the path (see `Owed`).
    `rule` is "path", "RPATH of X", "LD_LIBRARY_PATH", "RUNPATH of X", "ld.so.cache" or "default directory".
    """

    path: str
    backing: Backing
    rule: str
    block: int = 0


def check_header(backing: Backing, path: str) -> None:
    """Refuse a file by its ELF header, or for want of program headers:
    ForeignObjectError lets a search go on, any other ElfError ends it.
    """
    ehdr = parse_ehdr(backing.pread(EHDR_SIZE, 0), path)
    if ehdr.phoff + ehdr.phnum * PHDR_SIZE > backing.size():
        raise ElfError(path, "cannot read file data")


def why_passed_over(error: OSError | EmuError, backing: Backing | None) -> tuple[str, str]:
    """Return what LibrarySearch tells of a file that was not taken: `machine` and `because`."""
    if isinstance(error, ForeignObjectError) and backing is not None:
        asked = error.reason if error.respect == "kernel" else foreign(backing.pread(HEAD, 0))
        return asked, error.respect
    missing = isinstance(error, OSError) and error.errno != errno.EISDIR
    return "", "" if missing else "error"


class Attempt:
    """One search under way: what is looked for, and what the failures so far amount to."""

    __slots__ = ("_check", "_search", "errno", "name", "wrong_class")

    def __init__(
        self, search: SearchPath, name: str, check: Callable[[Backing, str], object], last_errno: int
    ) -> None:
        self._search, self.name, self._check = search, name, check
        self.errno = last_errno
        self.wrong_class = False

    def open_copy(
        self, path: str, rule: str, asker: MapView | None, code: int, size: int
    ) -> Generator[Effect, int, FoundFile | None]:
        """As `open`, for a path of which ld.so makes a copy (of `size` bytes) before it opens the file.

        Without memory a file of the cache is none.
        """
        owed = self._search.owed
        if owed is None or not owed.active:
            return (yield from self.open(path, rule, asker, code))
        block = yield from owed.call(b"malloc", size)
        if not block and rule == "path":
            raise LoaderError(self.name, "cannot open shared object file", self.errno)
        if not block:
            return None
        try:
            found = yield from self._open(path, rule, asker, code)
        except EmuError:
            owed.free(block)
            owed.free_nothing(2)
            yield from owed.settle()
            raise
        if found is None:
            yield from owed.call(b"free", block)
            return None
        return found._replace(block=block)

    def open(
        self, path: str, rule: str, asker: MapView | None, code: int
    ) -> Generator[Effect, int, FoundFile | None]:
        """Open a candidate; None where the search goes on.

        Auditors are asked in the name of `asker`: what they choose is opened under the old name.
        """
        owed = self._search.owed
        if owed is None or not owed.active:
            return (yield from self._open(path, rule, asker, code))
        try:
            found = yield from self._open(path, rule, asker, code)
        except EmuError:
            owed.free_nothing(2)
            yield from owed.settle()
            raise
        if found is None:
            return None
        block = yield from owed.call(b"malloc", len(os.fsencode(path)) + 1)
        if not block:
            self.errno = 0
            return None
        return found._replace(block=block)

    def _open(
        self, path: str, rule: str, asker: MapView | None, code: int
    ) -> Generator[Effect, int, FoundFile | None]:
        search = self._search
        chosen: str | None = path
        if search.objsearch is not None and asker is not None and code:
            chosen = yield from search.objsearch(path, asker, code)
        try:
            return search.try_open(self.name, path, rule, self._check, chosen)
        except ForeignObjectError as error:
            self.errno = errno.ENOENT
            self.wrong_class |= "ELF class" in error.reason
        except OSError as error:
            if chosen is None:
                return None
            self.errno = error.errno or errno.ENOENT
            if self.errno == errno.EISDIR:
                # open(2) takes a directory, and ld.so fails to read it.
                raise LoaderError(chosen, "cannot read file data", self.errno) from None
        return None
