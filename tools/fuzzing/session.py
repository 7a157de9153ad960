"""One session of fuzzing: cases in batches, each batch in a child with limits,
so that a hang or a blow-up is a finding and not the end.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from itertools import cycle
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from emu.core.errors import EmuError, MemoryFault
from tools.fuzzing import guard
from tools.fuzzing.readers import READERS, Reader

if TYPE_CHECKING:
    from tools.fuzzing.guests import Guest

_BATCHES = {
    "load": 8000,
    "frames": 5000,
    "debug": 400,
    "cache": 4000,
    "schedule": 2000,
    "suppressions": 1000,
}
"""Cases of a batch: each takes a few seconds."""
_CASE_SECONDS, _BATCH_SECONDS = 10, 1800
"""Seconds of processor time for a case, of any time for a batch: a machine may have much else to do."""
_MEMORY = 1 << 30
_GROWTH = (128 + 150) << 20
"""What the process of a guest with 128 MB may grow by in a case (SECURITY.md)."""
_HANG_EXIT, _WATCHDOG_EXIT = 98, 124


class Finding(NamedTuple):
    """A case that was not answered: `kind` is traceback, hang or blow-up; seed and number make it again."""

    reader: str
    number: int
    kind: str
    text: str


def case(reader: Reader, number: int) -> bytes:
    """Return the bytes of a case: the same each time for the same seeds."""
    random = Random(f"{reader.name} {number}")
    return reader.mutate(random.choice(reader.seeds()), random)


def try_one(reader: Reader, data: bytes) -> str:
    """Let a reader read; return "" where it answers or refuses, or else the traceback."""
    try:
        reader.read(data)
    except (EmuError, MemoryFault):
        return ""
    except MemoryError:
        return "MemoryError"
    except Exception:  # any other exception is what is being looked for
        return traceback.format_exc()
    return ""


def attempt(action: Callable[[], object]) -> str:
    """Run a case of a guest; return "" or the traceback of what is no answer."""
    try:
        action()
    except MemoryError:
        return "MemoryError"
    except Exception:  # any exception is what is being looked for
        return traceback.format_exc()
    return ""


class Started(NamedTuple):
    """What runs case N, for "" or the text of a finding; and how many calls of a guest that were so far."""

    run: Callable[[int], str]
    calls: Callable[[], int] = lambda: 0


class Subject(NamedTuple):
    """What is fuzzed: `start` makes ready, once a child.

    `batch` is how many cases a child does, a few seconds' worth. A `bounded` one's memory is
    bound by RLIMIT_DATA, which a guest's arena is far above: there the growth of what is held counts.
    """

    name: str
    batch: int
    start: Callable[[], Started]
    bounded: bool = True


def of_reader(reader: Reader, batch: int) -> Subject:
    """Return the reader as a subject."""

    def start() -> Started:
        seeds = reader.seeds()
        held = Reader(reader.name, reader.read, lambda: seeds, reader.mutate)
        try_one(held, seeds[0])  # what is imported late is here before the clock runs
        return Started(lambda number: try_one(held, case(held, number)))

    return Subject(reader.name, batch, start)


def of_guest(name: str, batch: int, make: Callable[[Guest], Callable[[int], None]]) -> Subject:
    """Return cases in a guest as a subject; `make` gets the `Guest`."""

    def start() -> Started:
        from tools.fuzzing.guests import Guest

        guest = Guest()
        run = make(guest)
        run(0)
        return Started(lambda number: attempt(lambda: run(number)), lambda: guest.calls)

    return Subject(name, batch, start, bounded=False)


class Batch(NamedTuple):
    """What came of a batch: findings, and how many calls a guest has made."""

    found: list[Finding]
    calls: int


def run_batch(subject: Subject, first: int, count: int) -> Batch:
    """Run cases in a child of this process; where it hangs or dies the rest goes on in another one."""
    found: list[Finding] = []
    calls = 0
    again = -1
    at, end = first, first + count
    while at < end:

        def work(start: int = at) -> int:
            return _work(subject, start, end)

        ended = guard.child(work, "/", _BATCH_SECONDS)
        lines = [json.loads(line) for line in ended.out.splitlines() if line.endswith(b"}")]
        found += [
            Finding(subject.name, line["n"], line["kind"], line["text"])
            for line in lines
            if line["kind"] not in ("at", "calls")
        ]
        if ended.code == 0:
            return Batch(found, calls + int(lines[-1]["text"]))
        last = max((line["n"] for line in lines), default=at)
        if ended.code == _WATCHDOG_EXIT and again != last:
            again = at = last  # a machine that has no time for us looks like a hang: once more, alone
            continue
        kind = "hang" if ended.timed_out or ended.code == _HANG_EXIT else "blow-up"
        found.append(Finding(subject.name, last, kind, ended.err[-1500:].decode(errors="replace")))
        at = last + 1
    return Batch(found, calls)


def _work(subject: Subject, start: int, end: int) -> int:
    os.environ["EMU_STRICT"] = "1"
    if subject.bounded:
        resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
    guard.small_pages()
    run, calls = subject.start()
    gc.collect()
    gc.freeze()  # a collection looks at what a case has made, not at all that was imported

    def hang(_signal: int, _frame: object) -> None:
        faulthandler.dump_traceback(file=sys.__stderr__ or sys.stderr)
        os._exit(_HANG_EXIT)

    signal.signal(signal.SIGVTALRM, hang)
    for number in range(start, end):
        if not subject.bounded or number % 50 == 0:
            _tell(number, "at", "")
        held, most = 0 if subject.bounded else _held(), _most_held()
        signal.setitimer(signal.ITIMER_VIRTUAL, _CASE_SECONDS)
        text = run(number)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        if text:
            _tell(number, "blow-up" if text == "MemoryError" else "traceback", text[-1500:])
        if not subject.bounded and most < _most_held() > held + _GROWTH:
            _tell(number, "blow-up", f"{_most_held() - held >> 20} MB")
    _tell(end, "calls", str(calls()))
    return 0


def _held() -> int:
    """Return how many bytes this process holds."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def _most_held() -> int:
    """Return how many bytes this process has ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _tell(number: int, kind: str, text: str) -> None:
    os.write(1, json.dumps({"n": number, "kind": kind, "text": text}).encode() + b"\n")


def fuzz(
    subjects: tuple[Subject, ...],
    first: int,
    wanted: Callable[[int], bool],
    tell: Callable[[Finding], None],
) -> tuple[dict[str, int], int]:
    """Fuzz subjects in turn as long as `wanted` says so of the number of cases done;
    return how many each had, and how many calls guests have made.
    """
    calls = 0
    counts = {subject.name: 0 for subject in subjects}
    for subject in cycle(subjects):
        if not wanted(sum(counts.values())):
            break
        batch = run_batch(subject, first + counts[subject.name], subject.batch)
        for finding in batch.found:
            tell(finding)
        counts[subject.name] += subject.batch
        calls += batch.calls
    return counts, calls


READING = tuple(of_reader(reader, _BATCHES[reader.name]) for reader in READERS)
