"""Structures and unions by value: in which registers they travel, or that they travel in memory.

Source: psABI 3.2.3 (classification, passing, returning of values).
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from enum import Enum
from functools import cache
from typing import Any

from emu.api.errors import ArgumentError
from emu.core.record import NamedTuple

_WORD = 8
_MOST_WORDS = 2
"""An aggregate of more eightbytes travels in memory (there are no 256-bit vectors among ctypes' types)."""
_SSE_CODES = ("f", "d")
_LONG_DOUBLE = "g"


class Travel(Enum):
    """How an eightbyte travels."""

    INTEGER = "in a general register"
    SSE = "in a vector register"


class OnStack(NamedTuple):
    """An argument in memory: its eightbytes, and whether they begin at a multiple of 16."""

    words: tuple[int, ...]
    aligned: bool


def is_aggregate(type_: Any) -> bool:
    """Whether the type is a structure or a union."""
    if type_ is None or type_ is ctypes.c_int:  # most are
        return False
    return isinstance(type_, type) and issubclass(type_, (ctypes.Structure, ctypes.Union))


def travels_in_memory(type_: Any) -> bool:
    """Whether a result of the type travels in memory, its address being the call's hidden first argument."""
    return is_aggregate(type_) and not travels(type_)


@cache
def travels(type_: type[ctypes.Structure | ctypes.Union]) -> tuple[Travel, ...]:
    """Return how each eightbyte of the aggregate travels; empty: it travels in memory.

    Raises ArgumentError for what is not supported.
    """
    size = ctypes.sizeof(type_)
    if size == 0:
        raise ArgumentError(f"{type_.__name__} has no members: C and C++ do not agree how that is passed")
    if size > _WORD * _MOST_WORDS:
        return ()
    found: list[Travel | None] = [None] * (-(-size // _WORD))
    for at, leaf in _leaves(type_, 0):
        if getattr(leaf, "_type_", "") == _LONG_DOUBLE:
            raise ArgumentError(f"{type_.__name__}: a lone long double by value is not supported")
        if at % ctypes.alignment(leaf):
            return ()
        kind = Travel.SSE if getattr(leaf, "_type_", "") in _SSE_CODES else Travel.INTEGER
        for word in range(at // _WORD, (at + ctypes.sizeof(leaf) - 1) // _WORD + 1):
            if found[word] is not Travel.INTEGER:  # INTEGER wins over SSE
                found[word] = kind
    # An eightbyte of padding alone (NO_CLASS) is passed as SSE.
    return tuple(kind or Travel.SSE for kind in found)


def _leaves(type_: Any, at: int) -> Iterator[tuple[int, Any]]:
    """Yield the offset and type of each member that is no aggregate itself."""
    if issubclass(type_, ctypes.Array):
        for index in range(type_._length_):
            yield from _leaves(type_._type_, at + index * ctypes.sizeof(type_._type_))
    elif is_aggregate(type_):
        for base in reversed(type_.__mro__):
            for name, member, *_bits in base.__dict__.get("_fields_", ()):
                yield from _leaves(member, at + getattr(base, name).offset)
    else:
        yield at, type_


def on_stack(value: Any) -> OnStack:
    """Return an aggregate as it lies on the stack; of a type, what one of zeros is."""
    type_ = value if isinstance(value, type) else type(value)
    words = (0,) * -(-ctypes.sizeof(type_) // _WORD) if value is type_ else words_of(value)
    return OnStack(words, ctypes.alignment(type_) > _WORD)


def words_of(value: Any) -> tuple[int, ...]:
    """Return an aggregate's bytes as eightbytes, the last filled with zeros."""
    content = bytes(value)
    content += bytes(-len(content) % _WORD)
    return tuple(int.from_bytes(content[at : at + _WORD], "little") for at in range(0, len(content), _WORD))


def passed(value: Any) -> list[int | bytes] | OnStack:
    """Return an argument's eightbytes, bytes for those in vector registers, or what lies on the stack."""
    kinds = travels(type(value))  # type: ignore[arg-type] # a class is hashable
    if not kinds:
        return on_stack(value)
    words = words_of(value)
    return [
        word.to_bytes(_WORD, "little") if kind is Travel.SSE else word
        for kind, word in zip(kinds, words, strict=True)
    ]


def returned(type_: Any, general: tuple[int, ...], vector: tuple[bytes, ...]) -> Any:
    """Return the aggregate that a function left in rax, rdx (`general`) and xmm0,
    xmm1 (`vector`, the low halves).
    """
    integers, floats = iter(general), iter(vector)
    content = b"".join(
        next(floats) if kind is Travel.SSE else next(integers).to_bytes(_WORD, "little")
        for kind in travels(type_)
    )
    return type_.from_buffer_copy(content)
