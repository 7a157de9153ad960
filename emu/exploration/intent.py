"""What an access to memory is meant for: to synchronise threads, or just to use the memory.

Machine code does not tell a relaxed or acquiring load from a plain one. So an instruction synchronises if it
is libc's, the linker's or the C++ library's own (but not their functions for strings and blocks of memory,
which work for the program), or if the debugging information or the source line of the program calls it
atomic.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from emu.analysis.frames import is_runtime

if TYPE_CHECKING:
    from emu.process import Process

_FOR_THE_PROGRAM = re.compile(r"_*(?:GI_+)?(?:mem|str|stp|wcs|wmem|bcopy|bzero|rawmem)")
_ATOMIC_FUNCTION = re.compile(r"std::(?:__)?atomic|std::(?:__cxx11::)?__atomic|__atomic_")
_ATOMIC_LINE = re.compile(
    r"\batomic_|__atomic_|__sync_|\batomic<|_Atomic\b|\.(?:load|store|exchange|test_and_set|clear|test|wait)\s*\("
)
_DECIDES = re.compile(
    r"_*(?:new_|old_|GI_|do_)*(?:sem_|condvar_|cnd_|call_once|pthread_(?:cond|once|rwlock|barrier|spin))"
)
"""Functions of libc that go by what a plain load of theirs has found: a semaphore's count, who waits for a
condition, whether something was done once. Those on mutexes look at nothing but who owns one.
"""
_GUARD = "guard variable for "


class Intent:
    """Judges the instructions of one process.

    `atomics` are those of the program that are known to synchronise.
    """

    def __init__(self, process: Process, atomics: tuple[int, ...]) -> None:
        self._process = process
        self._kinds: dict[int, str] = dict.fromkeys(atomics, "atomic")
        self._lines: dict[str, list[str]] = {}

    def kind(self, pc: int) -> str:
        """Return "atomic" for an instruction that synchronises as far as is known
        without asking for its source, else "plain".
        """
        kind = self._kinds.get(pc)
        if kind is None:
            kind = self._kinds[pc] = "atomic" if self._is_librarys(pc) else "plain"
        return kind

    def decides(self, pc: int) -> bool:
        """Whether a load or store of libc's is one by which it decides what its caller is told."""
        return self._is_librarys(pc) and _DECIDES.match(self._process.symbols.function(pc)) is not None

    def learn(self, instructions: tuple[int, ...]) -> None:
        """Take instructions for such that synchronise from now on."""
        self._kinds.update(dict.fromkeys(instructions, "atomic"))

    def is_meant(self, pc: int, address: int) -> bool:
        """Whether the access of `address` by an instruction of the program is
        called atomic where it is written.
        """
        symbols = self._process.symbols
        if symbols.variable(address).startswith(_GUARD):
            return True
        place = symbols.place(pc)
        if place is None:
            return False
        for function, file, line in symbols.code(place[2], place[1], pc):
            if _ATOMIC_FUNCTION.match(function) or _ATOMIC_LINE.search(self._line(file, line)):
                return True
            if not function.startswith(("std::", "__gnu_cxx::")):
                break
        return symbols.is_atomic_variable(address)

    def _is_librarys(self, pc: int) -> bool:
        rtld = self._process.rtld
        map_ = rtld.find_map(pc) if rtld is not None else None
        if map_ is None or not is_runtime(map_.path):
            return False
        return _FOR_THE_PROGRAM.match(self._process.symbols.function(pc)) is None

    def _line(self, file: str, line: int) -> str:
        if file not in self._lines:
            try:
                with open(file, encoding="utf-8", errors="replace") as source:
                    self._lines[file] = source.read(1 << 22).splitlines()
            except OSError:
                self._lines[file] = []
        lines = self._lines[file]
        return lines[line - 1] if 0 < line <= len(lines) else ""
