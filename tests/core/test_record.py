"""emu.core.record against typing.NamedTuple, which it stands for."""

from __future__ import annotations

import copy
import pickle
import typing

import pytest

from emu.core.record import NamedTuple

T = typing.TypeVar("T")


class Point(NamedTuple):
    """A point."""

    x: int
    y: str = "k"

    def twice(self) -> int:
        return self.x * 2


class Low(Point):
    """A kind of point."""


class Box(NamedTuple, typing.Generic[T]):
    inside: T


class Theirs(typing.NamedTuple):
    x: int
    y: str = "k"


def test_a_record_is_what_typing_makes() -> None:
    ours, theirs = Point(1), Theirs(1)
    assert tuple(ours) == tuple(theirs) == (1, "k") and hash(ours) == hash(theirs)
    assert repr(ours).removeprefix("Point") == repr(theirs).removeprefix("Theirs")
    assert ours._asdict() == theirs._asdict() and tuple(ours._replace(x=2)) == (2, "k")
    for name in ("_fields", "_field_defaults", "__match_args__"):
        assert getattr(Point, name) == getattr(Theirs, name)
    assert typing.get_type_hints(Point) == typing.get_type_hints(Theirs)
    assert Point.__doc__ == "A point." and type(Point) is type


def test_a_record_can_be_copied_and_taken_apart() -> None:
    point = Point(3, y="z")
    assert copy.deepcopy(point) == pickle.loads(pickle.dumps(point)) == point
    assert type(pickle.loads(pickle.dumps(point))) is Point
    match point:
        case Point(x, y="z"):
            assert x == 3 and point.twice() == 6
        case _:
            raise AssertionError
    assert Low(x=1) == Low._make([1, "k"]) and isinstance(Low(1), Point) and Low(2).twice() == 4
    assert Box[int](5).inside == Box(5).inside == 5


@pytest.mark.parametrize(
    "wrong",
    ["{}()", "{}(1, 'a', 3)", "{}(1, z=3)", "{}._make([1])", "{}(1)._replace(z=1)", "setattr({}(1), 'x', 2)"],
)
def test_wrong_uses_fail_alike(wrong: str) -> None:
    kinds = []
    for name in ("Point", "Theirs"):
        with pytest.raises((TypeError, ValueError, AttributeError)) as caught:
            eval(wrong.format(name))
        kinds.append(caught.type)
    assert kinds[0] is kinds[1]
