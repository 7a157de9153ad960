"""Remembers the state of a graph of Python objects, and puts it back into the very same objects.

The guest's state outside its memory (kernel, linker, contract) is plain Python: containers and objects of our
own classes. All that can be reached from the given roots is walked once; what can change is noted, and put
back in place, so that whoever else refers to an object sees the old state in it. A type that nobody has said
anything about is an error, never passed over.

A class names in `HOST_SIDE` those of its attributes that are not the guest's: they are not walked, and keep
what they have.

Source: the memento pattern, Gamma et al., "Design Patterns".
"""

from __future__ import annotations

import enum
import re
import struct
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from operator import is_
from random import Random
from typing import Any

from emu.core.errors import UnsupportedError

Undo = Callable[[], None]
Rule = Callable[[Any], "Undo | None"]
"""Notes the state of an object; returns what puts it back, None where there is nothing to be put back."""
_Step = Callable[["Memento", Any], Iterable[object]]
"""Notes the state of an object; returns what it refers to."""

ATOMS = (
    int, str, bytes, float, type(None), range, slice, type, enum.Enum, re.Pattern, struct.Struct, property,
    types.CodeType, types.BuiltinFunctionType, types.ModuleType, types.MethodWrapperType,
)  # fmt: skip
_ABSENT = object()
_LARGE = 100
"""Tables of more entries are written anew, which is faster than to look at each. Attributes that are left
alone are found faster by the interpreter afterwards.
"""


class Memento:
    """The state of everything that can be reached from `roots`, at the time it is made;
    `objects` is how many that are.

    `rules` are for types that are more than their attributes, and hold for their subclasses; the first that
    fits decides. What a rule takes is not walked further. Objects of classes in the packages `facts` never
    change in what they say. The objects `apart` are left alone.
    Raises UnsupportedError for a type that cannot be remembered.
    """

    def __init__(
        self,
        roots: Iterable[object],
        rules: Mapping[type, Rule],
        facts: tuple[str, ...] = (),
        apart: Iterable[object] = (),
    ) -> None:
        self._rules = rules
        self._facts = facts
        self._undo: list[Undo] = []
        self._containers: list[tuple[Any, Any]] = []
        self._tables: list[tuple[dict[Any, Any], dict[Any, Any]]] = []
        self._slots: list[tuple[object, tuple[str, ...], tuple[Any, ...]]] = []
        seen: dict[int, object] = {id(thing): thing for thing in apart}
        steps: dict[type, _Step] = {}
        todo = list(roots)
        while todo:
            thing = todo.pop()
            kind = type(thing)
            step = steps.get(kind)
            if step is None:
                step = steps[kind] = self._step(kind)
            if step is _atom or id(thing) in seen:
                continue
            seen[id(thing)] = thing  # held: no other object can get its id
            todo.extend(step(self, thing))
        self.objects = len(seen)

    def restore(self) -> None:
        """Put the state back; this can be done any number of times."""
        for container, noted in self._containers:
            container[:] = noted
        for table, entries in self._tables:
            if len(entries) > _LARGE or not _same(table, entries):
                table.clear()
                table.update(entries)
        for thing, names, values in self._slots:
            for name, value in zip(names, values, strict=True):
                if value is not _ABSENT:
                    setattr(thing, name, value)
                elif hasattr(thing, name):
                    delattr(thing, name)
        for undo in self._undo:
            undo()

    def _step(self, kind: type) -> _Step:
        """Return how objects of a type are noted."""
        for ruled, rule in self._rules.items():
            if issubclass(kind, ruled):
                return partial(_by_rule, rule=rule)
        if kind is object or issubclass(kind, ATOMS) or kind.__module__.startswith(self._facts):
            return _atom
        for known, step in _STEPS.items():
            if issubclass(kind, known):
                slots = slots_of(kind)
                return partial(_both, contents=step, slots=slots) if slots else step
        if not any(base.__module__.partition(".")[0] == "emu" for base in kind.__mro__):
            raise UnsupportedError(f"object of type {kind.__module__}.{kind.__qualname__}", "a snapshot")
        if is_dataclass(kind) and kind.__dataclass_params__.frozen:  # type: ignore[attr-defined]
            return partial(_frozen, names=tuple(field.name for field in fields(kind)))
        host: frozenset[str] = getattr(kind, "HOST_SIDE", frozenset())
        return partial(_object, slots=slots_of(kind, host), host=host)

    # -- how each type is noted, called by the functions below -----------------------------------------------

    def note_container(self, container: Any, noted: Any) -> None:
        """`container` is a mutable sequence, to become `noted` again."""
        self._containers.append((container, noted))

    def note_table(self, table: dict[Any, Any], entries: dict[Any, Any]) -> None:
        """`table` is to have `entries` again."""
        self._tables.append((table, entries))

    def note_slots(self, thing: object, names: tuple[str, ...], values: tuple[Any, ...]) -> None:
        """The attributes `names` are to have `values` again."""
        self._slots.append((thing, names, values))

    def note(self, undo: Undo) -> None:
        """`undo` is to be called."""
        self._undo.append(undo)


def _same(table: dict[Any, Any], entries: dict[Any, Any]) -> bool:
    """Whether a table has the very objects that it had, in the same order."""
    return (
        len(table) == len(entries)
        and all(map(is_, table.values(), entries.values()))
        and all(map(is_, table, entries))
    )


def slots_of(kind: type, host: frozenset[str] = frozenset()) -> tuple[str, ...]:
    """Return the names of the slots that objects of a type have, but for those in `host`."""
    return tuple(
        name
        for base in kind.__mro__
        for name in _names(base.__dict__.get("__slots__", ()))
        if name not in host and name not in ("__weakref__", "__dict__")
    )


def _names(slots: str | Iterable[str]) -> Iterable[str]:
    return (slots,) if isinstance(slots, str) else slots


def _atom(_memento: Memento, _thing: object) -> Iterable[object]:
    return ()


def _by_rule(memento: Memento, thing: object, *, rule: Rule) -> Iterable[object]:
    undo = rule(thing)
    if undo is not None:
        memento.note(undo)
    return ()


def _frozen(_memento: Memento, thing: object, *, names: tuple[str, ...]) -> Iterable[object]:
    return [getattr(thing, name) for name in names]


def _object(
    memento: Memento, thing: Any, *, slots: tuple[str, ...], host: frozenset[str]
) -> Iterable[object]:
    found: list[object] = []
    if slots:
        values = tuple(getattr(thing, name, _ABSENT) for name in slots)
        memento.note_slots(thing, slots, values)
        found += values
    attributes: dict[str, Any] | None = getattr(thing, "__dict__", None)
    if attributes is not None:
        noted = {name: value for name, value in attributes.items() if name not in host}
        if len(noted) == len(attributes):
            memento.note_table(attributes, noted)
        else:
            memento.note(partial(_put_attributes, attributes, noted, host))
        found += noted.values()
    return found


def _both(memento: Memento, thing: Any, *, contents: _Step, slots: tuple[str, ...]) -> Iterable[object]:
    """A container of a class of our own, which has attributes, too."""
    return [*contents(memento, thing), *_object(memento, thing, slots=slots, host=frozenset())]


def _put_attributes(attributes: dict[str, Any], noted: dict[str, Any], host: frozenset[str]) -> None:
    for name in [name for name in attributes if name not in noted and name not in host]:
        del attributes[name]
    attributes.update(noted)


def _sequence(memento: Memento, sequence: list[Any]) -> Iterable[object]:
    noted = list(sequence)
    memento.note_container(sequence, noted)
    return noted


def _bytes(memento: Memento, array: bytearray) -> Iterable[object]:
    memento.note_container(array, bytes(array))
    return ()


def _queue(memento: Memento, queue: deque[Any]) -> Iterable[object]:
    noted = tuple(queue)

    def undo() -> None:
        queue.clear()
        queue.extend(noted)

    memento.note(undo)
    return noted


def _table(memento: Memento, table: dict[Any, Any]) -> Iterable[object]:
    noted = dict(table)
    memento.note_table(table, noted)
    return [*noted, *noted.values()]


def _set(memento: Memento, members: set[Any]) -> Iterable[object]:
    noted = frozenset(members)

    def undo() -> None:
        members.clear()
        members.update(noted)

    memento.note(undo)
    return noted


def _weak_values(memento: Memento, table: weakref.WeakValueDictionary[Any, Any]) -> Iterable[object]:
    noted = dict(table.items())  # held from now on: it is part of the state

    def undo() -> None:
        table.clear()
        table.update(noted)

    memento.note(undo)
    return [*noted, *noted.values()]


def _random(memento: Memento, generator: Random) -> Iterable[object]:
    memento.note(partial(generator.setstate, generator.getstate()))
    return ()


def _function(memento: Memento, function: types.FunctionType) -> Iterable[object]:
    return [*(function.__closure__ or ()), *(function.__defaults__ or ()), function.__kwdefaults__ or ()]


def _cell(memento: Memento, cell: types.CellType) -> Iterable[object]:
    try:
        value = cell.cell_contents
    except ValueError:
        return ()  # a variable that has no value yet
    memento.note_slots(cell, ("cell_contents",), (value,))
    return (value,)


_STEPS: dict[type, _Step] = {
    list: _sequence,
    dict: _table,
    tuple: lambda memento, members: members,
    frozenset: lambda memento, members: members,
    set: _set,
    bytearray: _bytes,
    deque: _queue,
    weakref.WeakValueDictionary: _weak_values,
    Random: _random,
    types.FunctionType: _function,
    types.MethodType: lambda memento, method: (method.__self__, method.__func__),
    types.CellType: _cell,
    partial: lambda memento, call: (call.func, *call.args, call.keywords),
}
