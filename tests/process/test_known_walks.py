"""Walks over stacks that are known: when they are the same, and when they are not."""

from __future__ import annotations

from typing import Any

import pytest

from emu.core.errors import MemoryFault
from emu.process.backtrace import Captured, FrameInfo
from emu.process.known_walks import EMU, KnownWalks, NotingMemory
from emu.process.unwind import UnwoundFrame


class Words:
    """Memory of eight-byte words, which ends with them."""

    def __init__(self, *words: int) -> None:
        self.words = list(words)

    def read(self, address: int, size: int) -> bytes:
        if address // 8 >= len(self.words):
            raise MemoryFault(address, "read")
        return self.words[address // 8].to_bytes(size, "little")


def _frame(pc: int, name: str = "liba.so", *, guess: bool = False) -> Captured:
    known = FrameInfo(0, pc, 0, name, pc, "dlopen" if name == EMU else "", "", 0)
    path = "" if name == EMU else name
    return Captured(UnwoundFrame(pc, 0, exact=True, signal=False, guess=guess), known, path, pc)


A, B, HOSTED, OUTER = _frame(1), _frame(2), _frame(4, EMU), _frame(3, "[Python]")
START: Any = ((7, 7), ())


class Known:
    """Walks over three words, of which one has been made."""

    def __init__(self, *, whole: bool = True) -> None:
        self.memory = Words(10, 20, 30)
        self.hosted = "dlopen", 4
        self.walks = KnownWalks(self.memory, lambda frame: self.hosted)
        self.walk(A, B, whole=whole)

    def walk(self, *frames: Captured, whole: bool = True) -> None:
        noting = NotingMemory(self.memory)
        noting.read(0, 8), noting.read(16, 8)
        self.walks.keep(START, frames, noting.reads, whole=whole)


def test_what_was_read_decides() -> None:
    known = Known()
    known.memory.words[1] = 21  # nobody looked at it
    assert known.walks.find(START, None) == [A, B]
    known.memory.words[2] = 31
    assert known.walks.find(START, None) is None
    del known.memory.words[2]
    assert known.walks.find(START, None) is None


def test_other_registers_and_other_objects_are_another_walk() -> None:
    known = Known()
    assert known.walks.find(((7, 8), ()), None) is None
    there: Any = object()
    assert known.walks.find(((7, 7), (there,)), None) is None


def test_walks_that_begin_alike_are_kept_side_by_side() -> None:
    known = Known()
    for word in (31, 32, 33):
        known.memory.words[2] = word
        known.walk(A, _frame(word))
    for word, last in ((30, B), (31, _frame(31)), (33, _frame(33))):
        known.memory.words[2] = word
        assert known.walks.find(START, None) == [A, last]
    known.memory.words[2] = 34
    known.walk(A)
    known.memory.words[2] = 30
    assert known.walks.find(START, None) is None, "the oldest of five is given up"


def test_a_frame_of_the_loader_is_asked_for_its_name_again() -> None:
    known = Known()
    known.walk(HOSTED, A)
    assert known.walks.find(START, None) == [HOSTED, A]
    known.hosted = "dlclose", 4
    assert known.walks.find(START, None) == [A, B]


def test_a_guess_is_not_kept() -> None:
    known = Known()
    known.walk(A, _frame(9, guess=True))
    assert known.walks.find(START, None) == [A, B]


@pytest.mark.parametrize("whole", [True, False])
def test_who_asks_may_end_it_with_frames_of_their_own(whole: bool) -> None:
    known = Known(whole=whole)
    assert known.walks.find(START, lambda one: [OUTER] if one is B else []) == [A, OUTER]
    assert known.walks.find(START, lambda one: []) == ([A, B] if whole else None)
