"""What a memento notes and puts back, by type."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any, NamedTuple

import pytest

from emu.core.errors import UnsupportedError
from emu.core.memento import Memento


def _ours(kind: type) -> type:
    """A class as if it were one of the project's own: others are not looked into."""
    kind.__module__ = "emu.made_up"
    return kind


@_ours
class Slotted:
    __slots__ = ("name", "unset", "value")

    def __init__(self, value: Any) -> None:
        self.name, self.value = "slotted", value
        self.unset: int


@_ours
class Plain:
    HOST_SIDE = frozenset(("handle",))

    def __init__(self) -> None:
        self.inner: list[Any] = [1, [2, 3]]
        self.handle = "first"


@_ours
class Table(dict[int, str]):
    __slots__ = ("next",)
    next: int


class Pair(NamedTuple):
    left: list[int]
    right: int


@_ours
@dataclass(frozen=True)
class Fact:
    items: list[int] = field(default_factory=list)


def test_containers_are_put_back_in_place_all_the_way_down() -> None:
    inner, queue, members = [1, 2], deque([3]), {4}
    root: dict[str, Any] = {"a": inner, "b": (queue, members), "c": Pair(inner, 5)}
    memento = Memento([root], {})
    inner.append(9)
    queue.clear()
    members.add(7)
    root["d"] = 1
    del root["a"]
    memento.restore()
    assert root == {"a": [1, 2], "b": (deque([3]), {4}), "c": Pair([1, 2], 5)}
    assert root["a"] is inner
    assert root["b"][0] is queue


def test_it_can_be_put_back_again_and_again() -> None:
    root = [1]
    memento = Memento([root], {})
    for _ in range(3):
        root += [2, 3]
        memento.restore()
        assert root == [1]


def test_slots_that_were_unset_are_unset_again() -> None:
    thing = Slotted([1])
    memento = Memento([thing], {})
    thing.unset, thing.value = 1, None
    memento.restore()
    assert thing.value == [1]
    assert not hasattr(thing, "unset")


def test_attributes_of_the_hosts_side_stay_as_they_are() -> None:
    thing = Plain()
    inner = thing.inner
    memento = Memento([thing], {})
    thing.handle, thing.inner, thing.extra = "second", [], 1  # type: ignore[attr-defined]
    inner[1].append(4)
    memento.restore()
    assert thing.handle == "second"
    assert thing.inner is inner
    assert inner == [1, [2, 3]]
    assert not hasattr(thing, "extra")


def test_a_container_of_our_own_has_its_attributes_too() -> None:
    table = Table({1: "one"})
    table.next = 2
    memento = Memento([table], {})
    table[2], table.next = "two", 3
    memento.restore()
    assert (dict(table), table.next) == ({1: "one"}, 2)


def test_what_a_frozen_object_holds_is_noted() -> None:
    fact = Fact([1])
    memento = Memento([fact], {})
    fact.items.append(2)
    memento.restore()
    assert fact.items == [1]


def test_variables_of_functions_and_arguments_of_partials() -> None:
    count, held = 0, [1]

    def step() -> int:
        nonlocal count
        count += 1
        return count

    roots: list[Callable[[], object]] = [step, partial(lambda items: items.append(2), held)]
    memento = Memento(roots, {})
    assert [step(), step()] == [1, 2]
    roots[1]()
    memento.restore()
    assert step() == 1
    assert held == [1]


def test_random_numbers_come_again() -> None:
    generator = Random(1)
    memento = Memento([generator], {})
    first = generator.random()
    memento.restore()
    assert generator.random() == first


def test_weak_tables_keep_what_they_had() -> None:
    table: weakref.WeakValueDictionary[str, Plain] = weakref.WeakValueDictionary()
    table["a"] = thing = Plain()
    memento = Memento([table], {})
    del thing, table["a"]
    memento.restore()
    assert table["a"].inner == [1, [2, 3]]


def test_a_rule_decides_for_a_type_and_its_subclasses() -> None:
    noted: list[object] = []

    def rule(thing: object) -> Callable[[], None]:
        return partial(noted.append, thing)

    thing = Slotted(object)
    memento = Memento([thing], {Slotted: rule})
    thing.value = 2
    memento.restore()
    assert (noted, thing.value) == ([thing], 2)


def test_what_is_apart_is_left_alone() -> None:
    apart = [1]
    memento = Memento([[apart]], {}, apart=[apart])
    apart.append(2)
    memento.restore()
    assert apart == [1, 2]


def test_a_type_that_nobody_knows_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="object of type"):
        Memento([iter([])], {})
