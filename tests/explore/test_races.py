"""Happens-before, without a program."""

from __future__ import annotations

from emu.exploration.races import DataRace, Detector
from emu.process.visible import Operation

_ATOMIC = 100
"""Instructions from here on synchronise."""


def _detector(found: list[DataRace]) -> Detector:
    def tell(race: DataRace) -> bool:
        found.append(race)
        return True

    detector = Detector(lambda pc: "atomic" if pc >= _ATOMIC else "plain", tell)
    detector.access(1, 1, 0x1000, 4, True)
    detector.born(2, 1)
    return detector


def test_what_was_before_a_thread_is_ordered_and_what_is_beside_it_is_not() -> None:
    found: list[DataRace] = []
    detector = _detector(found)
    detector.access(2, 2, 0x1000, 4, False)
    assert not found
    detector.access(1, 3, 0x1000, 4, True)
    ((first, second),) = found
    assert (first.tid, first.pc, first.write) == (2, 2, False)
    assert (second.tid, second.pc, second.write) == (1, 3, True)


def test_bytes_beside_one_another_are_not_the_same() -> None:
    found: list[DataRace] = []
    detector = _detector(found)
    detector.access(1, 3, 0x2000, 4, True)
    detector.access(1, 3, 0x2004, 4, True)
    detector.access(2, 2, 0x2008, 8, True)
    assert not found
    detector.access(2, 2, 0x2002, 2, False)
    assert [race.first.address for race in found] == [0x2000]


def test_an_access_across_words_meets_both() -> None:
    found: list[DataRace] = []
    detector = _detector(found)
    detector.access(1, 3, 0x2004, 8, True)
    detector.access(2, 2, 0x2008, 1, False)
    assert len(found) == 1


def test_an_atomic_store_orders_for_who_loads_it() -> None:
    found: list[DataRace] = []
    detector = _detector(found)
    detector.access(1, 3, 0x2000, 4, True)
    detector.access(1, _ATOMIC, 0x3000, 4, True)
    detector.access(2, _ATOMIC, 0x3000, 4, False)
    detector.access(2, 2, 0x2000, 4, False)
    assert not found
    detector.access(1, 3, 0x2000, 4, True)
    assert len(found) == 1


def test_locked_instructions_and_system_calls_order() -> None:
    found: list[DataRace] = []
    detector = _detector(found)
    futex = Operation("futex", 6, (), (("futex", 0x3000),))
    for number in range(2):
        at = 0x4000 + 0x100 * number
        detector.access(1, 3, at, 8, True)
        for tid in (1, 2):
            if number:
                detector.operation(tid, futex)
            else:
                detector.locked(tid, 5, 0x3000, 4)
        detector.access(2, 2, at, 8, True)
    assert not found
