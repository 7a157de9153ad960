"""Copies a graph of Python objects, as fork needs it of the state of a process.

What a process's linker knows is plain Python: containers, and objects of our own classes that refer to each
other, functions and bound methods among them. All that can be reached is copied once; what is known to have a
counterpart in the child is replaced by that, and what is the system's, or the host's, is left where it is. A
type that nobody has said anything about is an error, never passed over.
"""

from __future__ import annotations

import types
import weakref
from collections import deque
from collections.abc import Iterable
from dataclasses import is_dataclass
from functools import partial
from typing import Any, TypeVar

from emu.core.errors import UnsupportedError
from emu.core.memento import ATOMS, slots_of

_T = TypeVar("_T")
_ABSENT = object()


class Duplicate:
    """A copy in the making. `counterparts` are pairs of an object and what stands for it in the copy.

    Objects of the types `shared`, and of classes and functions in the packages `facts`, are not copied.
    """

    def __init__(
        self,
        counterparts: Iterable[tuple[object, object]],
        shared: tuple[type, ...],
        facts: tuple[str, ...],
    ) -> None:
        self._shared, self._facts = shared, facts
        self._copies: dict[int, Any] = {}
        self._held: list[object] = []
        self._todo: list[tuple[Any, Any]] = []
        self._plain: set[type] = set()
        for thing, copy in counterparts:
            self._note(thing, copy)

    def of(self, thing: _T) -> _T:
        """Return the copy of an object, with all that it refers to.

        Raises UnsupportedError for a type that cannot be copied.
        """
        copy = self._copy(thing)
        while self._todo:
            self._fill(*self._todo.pop())
        result: _T = copy
        return result

    def stand_for(self, thing: object, copy: object) -> None:
        """Let `copy` stand for an object that was not copied yet."""
        self._note(thing, copy)

    def _note(self, thing: object, copy: object) -> None:
        self._copies[id(thing)] = copy
        self._held.append(thing)  # no other object can get its id

    def _copy(self, thing: Any) -> Any:
        """Return the copy; a mutable one is filled later, so that circles end."""
        kind = type(thing)
        if kind in self._plain:
            return thing
        known = self._copies.get(id(thing), _ABSENT)
        if known is not _ABSENT:
            return known
        if kind is object or isinstance(thing, ATOMS) or kind.__module__.startswith(self._facts):
            self._plain.add(kind)
            return thing
        if isinstance(thing, self._shared):
            return thing
        copy = self._immutable(thing)
        if copy is _ABSENT:
            copy = self._shell(thing, kind)
            self._note(thing, copy)
            self._todo.append((thing, copy))
        else:
            self._note(thing, copy)
        return copy

    def _immutable(self, thing: Any) -> Any:
        """Return the copy of an object that its parts make, _ABSENT for another."""
        if isinstance(thing, tuple):
            parts = [self._copy(part) for part in thing]
            if all(new is old for new, old in zip(parts, thing, strict=True)):
                return thing
            return type(thing)._make(parts) if hasattr(thing, "_make") else tuple(parts)
        if isinstance(thing, frozenset):
            return frozenset(self._copy(part) for part in thing)
        if isinstance(thing, types.MethodType):
            function, owner = self._copy(thing.__func__), self._copy(thing.__self__)
            same = function is thing.__func__ and owner is thing.__self__
            return thing if same else types.MethodType(function, owner)
        if isinstance(thing, types.FunctionType):
            return self._function(thing)
        if isinstance(thing, partial):
            keywords = {name: self._copy(value) for name, value in thing.keywords.items()}
            return partial(self._copy(thing.func), *map(self._copy, thing.args), **keywords)
        if isinstance(thing, weakref.ref):
            target = thing()
            return weakref.ref(self._copy(target)) if target is not None else thing
        return _ABSENT

    def _function(self, function: types.FunctionType) -> types.FunctionType:
        if function.__module__.startswith(self._facts) or not (function.__closure__ or function.__defaults__):
            return function
        closure = tuple(self._copy(cell) for cell in function.__closure__ or ())
        copy = types.FunctionType(
            function.__code__, function.__globals__, function.__name__, self._copy(function.__defaults__), closure or None
        )  # fmt: skip
        copy.__kwdefaults__ = function.__kwdefaults__
        return copy

    def _shell(self, thing: Any, kind: Any) -> Any:
        """Return an empty object of the type of `thing`."""
        if isinstance(thing, (list, dict, set, deque, weakref.WeakValueDictionary, weakref.WeakSet)):
            return kind.__new__(kind) if kind.__module__.startswith("emu.") else kind()
        if isinstance(thing, bytearray):
            return bytearray(thing)
        if isinstance(thing, types.CellType):
            return types.CellType()
        if not any(base.__module__.partition(".")[0] == "emu" for base in kind.__mro__):
            raise UnsupportedError(f"object of type {kind.__module__}.{kind.__qualname__}", "a fork")
        return object.__new__(kind)

    def _fill(self, thing: Any, copy: Any) -> None:
        if isinstance(thing, (list, deque)):
            copy.extend(self._copy(part) for part in thing)
        elif isinstance(thing, (dict, weakref.WeakValueDictionary)):
            for key, value in list(thing.items()):
                copy[self._copy(key)] = self._copy(value)
        elif isinstance(thing, (set, weakref.WeakSet)):
            copy.update(self._copy(part) for part in list(thing))
        elif isinstance(thing, bytearray):
            return
        elif isinstance(thing, types.CellType):
            try:
                copy.cell_contents = self._copy(thing.cell_contents)
            except ValueError:
                return  # a variable that has no value yet
        if type(thing).__module__.startswith("emu."):
            self._attributes(thing, copy)

    def _attributes(self, thing: Any, copy: Any) -> None:
        put = object.__setattr__ if is_dataclass(thing) else setattr
        for name in slots_of(type(thing)):
            value = getattr(thing, name, _ABSENT)
            if value is not _ABSENT:
                put(copy, name, self._copy(value))
        attributes: dict[str, Any] | None = getattr(thing, "__dict__", None)
        if attributes is not None:
            for name, value in attributes.items():
                copy.__dict__[name] = self._copy(value)
