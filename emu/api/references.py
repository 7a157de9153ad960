"""What ctypes' references refer to: the object of ours that a pointer or byref leads to.

The guest can be given a copy of that.

Source: Python's documentation of ctypes, "_objects" and "_b_base_" (which objects a ctypes
object keeps alive, and of which it is a part).
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

from emu.api.errors import ArgumentError

BY_REFERENCE = type(ctypes.byref(ctypes.c_int()))
_POINTER: Any = ctypes._Pointer
DATA: Any = ctypes._SimpleCData.__mro__[1]
"""The base of all objects of ctypes'."""


def is_pointer(type_: Any) -> bool:
    """Whether the type is a `ctypes.POINTER`."""
    return isinstance(type_, type) and issubclass(type_, _POINTER)


def element(value: Any) -> Any:
    """Return the type that a reference refers to; an array refers to its elements."""
    if isinstance(value, _POINTER):
        return value._type_
    value = getattr(value, "_obj", value)
    return value._type_ if isinstance(value, ctypes.Array) else type(value)


def referred(value: Any) -> tuple[Any, int]:
    """Return the object that a reference leads into, as far as that lies in one piece, and the place in it.

    The place is an address of the host; a NULL pointer gives (None, 0). Raises ArgumentError if ctypes does
    not know what lies there: then it is no memory of an object of ours.
    """
    if isinstance(value, _POINTER):
        address = ctypes.cast(value, ctypes.c_void_p).value or 0
        if not address:
            return None, 0
        owner = next((o for o in _kept(value) if _begin(o) <= address < _begin(o) + ctypes.sizeof(o)), None)
        if owner is None:
            raise ArgumentError(
                f"{value!r}: ctypes does not say which object it points to: pass the object itself, or a guest address as an int"
            )
    elif isinstance(value, BY_REFERENCE):
        owner = value._obj  # type: ignore[attr-defined]
        address = ctypes.cast(value, ctypes.c_void_p).value or 0  # byref takes an offset, too
    else:
        owner, address = value, _begin(value)
    while isinstance(owner._b_base_, ctypes.Array):  # its neighbours can be reached, too
        owner = owner._b_base_
    return owner, address


def _begin(owner: Any) -> int:
    return ctypes.addressof(owner)


def _kept(value: Any) -> Iterator[Any]:
    """Yield the ctypes objects that a pointer keeps alive, but for pointers on the way."""
    waiting, seen = [value._objects], set()
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, dict):
            waiting += one.values()
        elif isinstance(one, _POINTER):
            waiting.append(one._objects)
        elif isinstance(one, DATA):
            yield one
            waiting.append(one._objects)
