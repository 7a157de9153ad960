"""The state of a search, in a file: each run that was made, so that a search goes on where another one ended.

A search depends on nothing but the program and what its runs came to. So it goes on by asking for the same
runs again: those that the file has are answered from there. The file only grows; a last piece that is not
whole (the search was killed while writing) is cut off.

Runs are pickled, and read by a reader that makes nothing but their own types: a file cannot run code.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import pickle
import struct
import zlib
from typing import TYPE_CHECKING, Any

from emu.core.errors import EXIT_USAGE, EmuError
from emu.core.record import NamedTuple
from emu.exploration.choosers import Request
from emu.exploration.data import Outcome, Ran, Segment
from emu.kernel.run.policy import Decision
from emu.process.steps import Point, Step
from emu.process.visible import Operation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.exploration.data import ExploredProgram
    from emu.exploration.search import Made, Maker

BEGINNING = b"emu explore: state of a search\n"
_HEAD = struct.Struct("<II")
_MOST = 256 << 20
_KEPT = 3
"""Pieces that stay unpacked: runs are asked for in the order in which they were made."""
_TYPES = {
    (kind.__module__, kind.__qualname__): kind
    for kind in (Request, Outcome, Ran, Segment, Decision, Point, Step, Operation)
}
_NOT_ASKED = (
    "stdio",
    "die",
    "policy",
    "verbose",
    "all_frames",
    "timeout",
    "ignored",
    "blocked",
    "nice",
    "env",
)
"""Members of RunConfig that change no run of a search, and the environment, which the file keeps."""


class SearchStateError(EmuError):
    """A file is no state of a search, or that of another one; the message says which."""

    exit_code = EXIT_USAGE

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"--state {path}: {why}")


class _Piece(NamedTuple):
    """Runs of one batch, with what was known to synchronise when they were made."""

    atomics: tuple[int, ...]
    runs: tuple[tuple[Request, Ran], ...]


class _JournalPlace(NamedTuple):
    """Where a run lies: its piece's content in the file, and which of that it is."""

    offset: int
    length: int
    number: int


class RunsJournal:
    """The file at `path`, of searches of `program` by `how` (words that name strategy and options).

    To be closed. Raises SearchStateError.
    """

    def __init__(self, path: str, program: ExploredProgram, how: str) -> None:
        self._path = path
        self._known: dict[bytes, _JournalPlace] = {}
        self._recent: dict[int, _Piece] = {}
        self.found = 0
        """Runs that the file had."""
        self.program = program
        """The program, in the environment in which the search was begun."""
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY, 0o666)
        except OSError as error:
            raise SearchStateError(path, str(error.strerror)) from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._begin(_identity(program, how))
        except BlockingIOError:
            os.close(self._fd)
            raise SearchStateError(path, "another search is writing it") from None
        except BaseException:  # Ctrl-C, too: no file stays open; it is raised again
            os.close(self._fd)
            raise

    def close(self) -> None:
        """Let the file go."""
        os.close(self._fd)

    def known(self, atomics: tuple[int, ...], request: Request) -> Ran | None:
        """Return a run that was made before, None if it was not."""
        place = self._known.get(_key(atomics, request))
        if place is None:
            return None
        piece = self._recent.get(place.offset)
        if piece is None:
            piece = _unpacked(self._path, os.pread(self._fd, place.length, place.offset))
            self._recent = {**dict(list(self._recent.items())[-_KEPT:]), place.offset: piece}
        return piece.runs[place.number][1]

    def note(self, atomics: tuple[int, ...], runs: Sequence[tuple[Request, Ran]]) -> None:
        """Write runs to the file. Raises SearchStateError."""
        if not runs:
            return
        content = zlib.compress(pickle.dumps(tuple(_Piece(atomics, tuple(runs))), protocol=4), 1)
        try:
            _write(self._fd, _HEAD.pack(len(content), zlib.crc32(content)) + content)
        except OSError as error:
            raise SearchStateError(self._path, str(error.strerror)) from None

    def _begin(self, identity: dict[str, str]) -> None:
        try:
            with open(self._fd, "rb", closefd=False) as file:
                if not self._is_ours(file, identity):
                    return
                end = file.tell()
                while (content := _piece(file)) is not None:
                    end = file.tell()
                    piece = _unpacked(self._path, content)
                    for index, (request, _) in enumerate(piece.runs):
                        self._known[_key(piece.atomics, request)] = _JournalPlace(
                            end - len(content), len(content), index
                        )
                        self.found += 1
            os.ftruncate(self._fd, end)
            os.lseek(self._fd, end, os.SEEK_SET)
        except OSError as error:
            raise SearchStateError(self._path, str(error.strerror)) from None

    def _is_ours(self, file: io.BufferedReader, identity: dict[str, str]) -> bool:
        """Whether the file has a search, and is this one's; a file that has nothing gets a head."""
        first = file.readline(len(BEGINNING))
        told = file.readline(_MOST)
        if not told.endswith(b"\n"):
            if first and not BEGINNING.startswith(first):
                raise SearchStateError(self._path, "it is no state of a search: not overwritten")
            os.ftruncate(self._fd, 0)
            os.lseek(self._fd, 0, os.SEEK_SET)
            _write(self._fd, BEGINNING + json.dumps([identity, self.program.config.env]).encode() + b"\n")
            return False
        if first != BEGINNING:
            raise SearchStateError(self._path, "it is no state of a search: not overwritten")
        there, env = self._head(told)
        other = next((name for name in identity if there.get(name) != identity[name]), None)
        if other is not None:
            raise SearchStateError(self._path, f"it is of another search, which differs in {other}")
        self.program = self.program._replace(config=self.program.config._replace(env=env))
        return True

    def _head(self, told: bytes) -> tuple[dict[str, str], dict[str, str]]:
        """Return what the file says of its search, and the environment of that. Raises SearchStateError."""
        try:
            there, env = json.loads(told)
        except (ValueError, TypeError):
            there = env = None
        for table in (there, env):
            if not isinstance(table, dict) or not all(isinstance(v, str) for v in table.values()):
                raise SearchStateError(self._path, "its head is damaged")
        return there, env


class Remembering:
    """Makes runs by `maker`, but those that the journal has; all that are new go there."""

    def __init__(self, maker: Maker, journal: RunsJournal, atomics: tuple[int, ...]) -> None:
        self._maker, self._journal, self._atomics = maker, journal, atomics

    def begin(self, requests: Sequence[Request]) -> _Remembered:
        """Have some runs made."""
        known = [self._journal.known(self._atomics, request) for request in requests]
        missing = [request for request, ran in zip(requests, known, strict=True) if ran is None]
        made = self._maker.begin(missing) if missing else None
        return _Remembered(self._journal, self._atomics, known, missing, made)


class _Remembered:
    """Runs of which some are known."""

    def __init__(
        self,
        journal: RunsJournal,
        atomics: tuple[int, ...],
        known: list[Ran | None],
        missing: list[Request],
        made: Made | None,
    ) -> None:
        self._journal, self._atomics, self._known = journal, atomics, known
        self._missing, self._made = missing, made

    def results(self) -> list[Ran]:
        """Return them, in the order in which they were asked for. Raises EmuError."""
        fresh = self._made.results() if self._made is not None else []
        self._journal.note(self._atomics, list(zip(self._missing, fresh, strict=True)))
        waiting = iter(fresh)
        return [ran if ran is not None else next(waiting) for ran in self._known]


class _JournalReader(pickle.Unpickler):
    """Makes what runs consist of, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """Return a type of ours. Raises UnpicklingError."""
        kind = _TYPES.get((module, name))
        if kind is None:
            raise pickle.UnpicklingError(f"{module}.{name} does not belong there")
        return kind


def _piece(file: io.BufferedReader) -> bytes | None:
    """Return the content of the next piece, None at the end or where it is not whole."""
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    length, checksum = _HEAD.unpack(head)
    content = file.read(length) if length <= _MOST else b""
    return content if len(content) == length and zlib.crc32(content) == checksum else None


def _unpacked(path: str, content: bytes) -> _Piece:
    """Return what a piece holds. Raises SearchStateError."""
    try:
        return _Piece(*_JournalReader(io.BytesIO(_inflated(content))).load())
    except (
        pickle.UnpicklingError,
        AttributeError,
        IndexError,
        TypeError,
        ValueError,
        EOFError,
        zlib.error,
    ) as error:
        raise SearchStateError(path, f"a piece of it is damaged: {error}") from None


def _key(atomics: tuple[int, ...], request: Request) -> bytes:
    """Return what tells a request from all others."""
    told = repr((atomics, request._replace(sleep=tuple(sorted(request.sleep)))))
    return hashlib.blake2b(told.encode(), digest_size=16).digest()


def _identity(program: ExploredProgram, how: str) -> dict[str, str]:
    """Return what two searches have in common of which one can go on with the other's runs."""
    config = program.config._asdict()
    told = {name: repr(value) for name, value in config.items() if name not in _NOT_ASKED}
    told["the program's file"] = _stamp(program)
    told["the way of searching"] = how
    return told


def _stamp(program: ExploredProgram) -> str:
    """Return what changes when the program is built anew."""
    config = program.config
    path = (
        config.program if config.sysroot == "/" else os.path.join(config.sysroot, config.program.lstrip("/"))
    )
    try:
        with open(os.path.join(config.cwd, path) if config.sysroot == "/" else path, "rb") as file:
            return str(zlib.crc32(file.read(_MOST)))
    except OSError:
        return ""


def _inflated(content: bytes) -> bytes:
    inflater = zlib.decompressobj()
    found = inflater.decompress(content, _MOST)
    if inflater.unconsumed_tail:
        raise ValueError("it is too large")
    return found


def _write(fd: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]
