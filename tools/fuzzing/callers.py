"""Wild callers: a guest that calls every system call, and every hosted entry,
with whatever may stand in registers and memory.

Each case is a few calls from the same beginning. Natively they would return an error, or end the process by a
signal; here, too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random

from emu.kernel.syscalls import FILES, find
from tools.fuzzing.guests import Guest

_ENDING = frozenset((60, 231))
"""Calls that end the thread, or all: only seldom of use."""
_MOST = 470


def _numbers() -> tuple[int, ...]:
    return tuple(sorted(number for numbers in FILES.values() for number in numbers))


def wild_system_calls(guest: Guest) -> Callable[[int], None]:
    """Return what does case N: one to sixteen system calls."""
    known = _numbers()

    def case(number: int) -> None:
        random = Random(f"syscalls {number}")
        guest.begin(random)
        chosen = known[number % len(known)]
        for _ in range(random.choice((1, 2, 4, 8, 16))):
            args = _arguments(guest, random, chosen)
            if not guest.attempt(partial(guest.syscall, chosen, *args)):
                return
            chosen = random.choice(known)
            while chosen in _ENDING:
                chosen = random.choice(known)
            if not random.randrange(40):
                chosen = random.choice((random.randrange(_MOST), random.getrandbits(64)))

    return case


def _arguments(guest: Guest, random: Random, number: int) -> list[int]:
    """Return six words that mostly are of the kinds that the call takes."""
    entry = find(number)
    formats = (*(entry.formats if entry is not None else ()), *[""] * 6)[:6]
    return [_argument(guest, random, kind) for kind in formats]


def _argument(guest: Guest, random: Random, kind: str) -> int:
    if not random.randrange(4):
        return guest.value(random)
    match kind:
        case "fd" | "dirfd":
            return random.choice((*guest.files, *guest.files, 77, (1 << 64) - 1, (1 << 64) - 100))
        case "path":
            return guest.text(random)
        case "ptr" | "in" | "out":
            return guest.pointer(random) & (1 << 64) - 1
        case "pid":
            return random.choice((0, 1000, 1001, (1 << 64) - 1, 1, 77))
        case "signal":
            return random.randrange(66)
        case "size":
            return random.choice((0, 1, 8, 16, 64, 4096, 8192, 1 << 20, 1 << 30, 1 << 40, (1 << 64) - 1))
        case "":
            return guest.value(random)
        case _:
            return random.choice((random.randrange(16), 1 << random.randrange(32), guest.value(random)))


def wild_entries(guest: Guest) -> Callable[[int], None]:
    """Return what does case N: one to eight calls of hosted functions, or of libc's
    that lead to them, in one of two threads.
    """
    places = (*guest.process.engine.contract.traps, *guest.called, *guest.called)
    traps = guest.process.engine.contract.traps
    own = set(guest.process.engine.caller.page.traps)
    hosted = tuple(trap for trap in traps if trap not in own) + tuple(own)[:2]
    places = (*hosted, *guest.called)

    def case(number: int) -> None:
        random = Random(f"entries {number}")
        guest.begin(random)
        place = places[number % len(places)]
        for _ in range(random.choice((1, 2, 4, 8))):
            args = [guest.value(random) if random.randrange(3) else guest.pointer(random) for _ in range(6)]
            task = guest.thread if not random.randrange(4) else None
            wild = [arg & (1 << 64) - 1 for arg in args]
            if not guest.attempt(partial(guest.call, place, wild, task)):
                return
            place = random.choice(places)

    return case
