"""Copies of graphs: what is copied, what is shared, and that circles end."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import pytest

from emu.core.duplicate import Duplicate
from emu.core.errors import UnsupportedError
from emu.core.events import EventBus


class _Pair(NamedTuple):
    left: object
    right: object


def _copy(thing: object, *counterparts: tuple[object, object]) -> object:
    return Duplicate(counterparts, (EventBus,), ("emu.elf.",)).of(thing)


def test_containers_are_copied_and_keep_who_is_who() -> None:
    shared: list[int] = [1]
    graph = {"a": shared, "b": (shared, {2}), "c": deque([shared])}
    copy = _copy(graph)
    assert copy == graph
    assert isinstance(copy, dict)
    assert copy["a"] is not shared
    assert copy["b"][0] is copy["a"] is copy["c"][0]
    assert copy["b"][1] is not graph["b"][1]


def test_circles_end() -> None:
    ring: list[object] = []
    ring.append(_Pair(ring, 3))
    copy = _copy(ring)
    assert isinstance(copy, list)
    assert copy[0].left is copy
    assert type(copy[0]) is _Pair


def test_what_has_no_copy_is_the_same() -> None:
    bus = EventBus()
    plain = _Pair(1, "two")
    assert _copy([bus, plain, len])[0] is bus  # type: ignore[index]
    assert _copy(plain) is plain


def test_counterparts_take_the_place_of_what_they_stand_for() -> None:
    old, new = bytearray(b"old"), bytearray(b"new")
    copy = _copy([old, {"x": old}], (old, new))
    assert copy[0] is new  # type: ignore[index]
    assert copy[1]["x"] is new  # type: ignore[index]


def _counter() -> tuple[Callable[[], int], Callable[[], int]]:
    count = 0

    def more() -> int:
        nonlocal count
        count += 1
        return count

    return more, lambda: count


def test_functions_share_copied_variables() -> None:
    more, now = _counter()
    more()
    copies = Duplicate((), (), ()).of((more, now))
    assert copies[0]() == 2
    assert (copies[1](), now()) == (2, 1)


def test_methods_and_partials_go_with_their_objects() -> None:
    parts: list[int] = []
    pair = Duplicate((), (), ()).of((parts, partial(sorted, parts)))
    assert pair[1].args[0] is pair[0] is not parts


def test_an_unknown_type_is_named() -> None:
    with pytest.raises(UnsupportedError, match=r"object of type _io\.BytesIO"):
        _copy([io.BytesIO()])


def test_a_generator_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="generator"):
        _copy([iter_of_nothing()])


def iter_of_nothing() -> Iterator[int]:
    yield from ()
