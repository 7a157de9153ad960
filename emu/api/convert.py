"""Values between Python and the guest, by ctypes' types: what an argument becomes in registers, what a register becomes in Python.

The rules are ctypes', with these differences. Pointers of the guest are Python ints. An int too large for C's int is an error where ctypes cuts it
off. A `str` travels as UTF-8 where a `char *` is wanted (and without argtypes), a `float` without argtypes as a double.
Source: psABI 3.2.3; Python's documentation of ctypes, "Fundamental data types".
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from emu.api.errors import ArgumentError
from emu.glibc.call_page import INTEGER_REGISTERS, SSE_REGISTERS, Arguments

if TYPE_CHECKING:
    from emu.api.memory import Memory

_M64 = (1 << 64) - 1
_Simple: Any = ctypes._SimpleCData
_Pointer: Any = ctypes._Pointer
_BY_REFERENCE = type(ctypes.byref(ctypes.c_int()))
_CFUNC: Any = ctypes._CFuncPtr  # type: ignore[attr-defined]
_INTEGERS = "bBhHiIlLqQ"
_WCHAR_SIZE = 4


class Addressable(Protocol):
    """Anything that stands for something in the guest: a function, a thread's structure."""

    @property
    def address(self) -> int:
        """Its guest address."""


class Prototype:
    """The type of a function pointer; made by `CFUNCTYPE`. Called with a Python function, it makes what the guest can be given as a pointer.

    >>> import ctypes, emu
    >>> compare = emu.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))
    >>> compare
    emu.CFUNCTYPE(c_int, LP_c_int, LP_c_int)
    """

    def __init__(self, restype: Any, argtypes: tuple[Any, ...]) -> None:
        self.restype, self.argtypes = restype, argtypes

    def __call__(self, function: Callable[..., Any]) -> Callback:
        """Return `function` as a pointer of this type."""
        return Callback(self, function)

    def __repr__(self) -> str:
        names = ", ".join(
            "None" if t is None else getattr(t, "__name__", repr(t)) for t in (self.restype, *self.argtypes)
        )
        return f"emu.CFUNCTYPE({names})"


class Callback:
    """A Python function with a prototype. The guest may call it as long as this object is alive, as in ctypes."""

    def __init__(self, prototype: Prototype, function: Callable[..., Any]) -> None:
        self.prototype, self.function = prototype, function

    def __call__(self, *args: Any) -> Any:
        """Call the Python function itself."""
        return self.function(*args)

    def __repr__(self) -> str:
        return f"<{self.prototype!r} of {getattr(self.function, '__qualname__', self.function)!r}>"


def CFUNCTYPE(restype: Any, *argtypes: Any) -> Prototype:  # noqa: N802 - ctypes' name
    """Return the type of a pointer to a function that takes `argtypes` and returns `restype` (None: void)."""
    for type_ in argtypes:
        _check_type(type_)
    if restype is not None:
        _check_type(restype)
    return Prototype(restype, argtypes)


class Encoder:
    """Turns the arguments of one call into registers and stack; `finish` copies back what the guest may have changed, and frees copies.

    `pointer_to` returns the guest address of a callback.
    """

    def __init__(self, memory: Memory, pointer_to: Callable[[Callback], int]) -> None:
        self._memory, self._pointer_to = memory, pointer_to
        self._copies: list[tuple[int, Any]] = []
        self._integers: list[int] = []
        self._sse: list[bytes] = []
        self._stack: list[int] = []

    def arguments(self, name: str, values: Sequence[Any], argtypes: Sequence[Any] | None) -> Arguments:
        """Return the arguments of a call of `name`. Raises ArgumentError, which says which."""
        if argtypes is not None and len(values) < len(argtypes):
            raise ArgumentError(f"{name}: takes {len(argtypes)} arguments, not {len(values)}")
        for number, value in enumerate(values):
            type_ = argtypes[number] if argtypes is not None and number < len(argtypes) else None
            try:
                encoded = self.one(value, type_)
            except ArgumentError as error:
                raise ArgumentError(f"{name}: argument {number + 1}: {error}") from None
            if isinstance(encoded, bytes):
                if len(self._sse) < SSE_REGISTERS:
                    self._sse.append(encoded)
                else:
                    self._stack.append(int.from_bytes(encoded, "little"))
            elif len(self._integers) < INTEGER_REGISTERS:
                self._integers.append(encoded)
            else:
                self._stack.append(encoded)
        return Arguments(self._integers, self._sse, self._stack)

    def one(self, value: Any, type_: Any) -> int | bytes:
        """Return a word, or the 8 bytes of an SSE register. Raises ArgumentError."""
        if type_ is not None:
            return self._typed(value, type_)
        if isinstance(value, bool) or (isinstance(value, int) and -(1 << 31) <= value < 1 << 31):
            return int(value)
        if isinstance(value, int):
            raise ArgumentError(
                f"{value:#x} does not fit C's int: set argtypes, or pass ctypes.c_void_p({value:#x})"
            )
        if isinstance(value, float):
            return struct.pack("<d", value)
        if isinstance(value, _Simple):
            return self._typed(value, type(value))
        if value is None or isinstance(
            value, (bytes, str, Callback, ctypes.Array, ctypes.Structure, ctypes.Union, _BY_REFERENCE)
        ):
            return self._pointer(value, None)
        if hasattr(value, "address"):
            return int(value.address)
        raise ArgumentError(f"{value!r}: no way to pass a {type(value).__name__} without argtypes")

    def _typed(self, value: Any, type_: Any) -> int | bytes:
        if isinstance(type_, Prototype):
            if callable(value) and not isinstance(value, Callback) and not hasattr(value, "address"):
                raise ArgumentError(f"{value!r} is no {type_!r}: make one by calling that with the function")
            return self._pointer(value, type_)
        _check_type(type_)
        if issubclass(type_, _Simple):
            code = type_._type_
            if isinstance(value, _Simple):
                if type(value)._type_ != code:
                    raise ArgumentError(f"{value!r} is no {type_.__name__}")
                value = value.value
            if code in ("z", "P", "Z"):
                return self._pointer(value, type_)
            return _scalar(value, type_, code)
        return self._pointer(value, type_)

    def _pointer(self, value: Any, type_: Any) -> int:
        if value is None:
            return 0
        if isinstance(value, (bool, float)):
            raise ArgumentError(f"{value!r} is no pointer")
        if isinstance(value, int):
            if not -(1 << 63) <= value <= _M64:
                raise ArgumentError(f"{value:#x} is no 64-bit address")
            return value & _M64
        if isinstance(value, Callback):
            return self._pointer_to(value)
        if hasattr(value, "address"):
            return int(value.address)
        wide = isinstance(type_, type) and issubclass(type_, _Simple) and getattr(type_, "_type_", "") == "Z"
        if isinstance(value, str):
            return self._copy(
                value.encode("utf-32-le") + bytes(_WCHAR_SIZE) if wide else os.fsencode(value), None
            )
        if isinstance(value, (bytes, bytearray)) and not wide:
            return self._copy(bytes(value), None)
        if isinstance(value, _BY_REFERENCE):
            value = value._obj  # type: ignore[attr-defined]
        if isinstance(value, (ctypes.Array, ctypes.Structure, ctypes.Union, _Simple)):
            pointed = (
                getattr(type_, "_type_", None)
                if isinstance(type_, type) and issubclass(type_, _Pointer)
                else None
            )
            found = value._type_ if isinstance(value, ctypes.Array) else type(value)
            if pointed is not None and not (isinstance(value, pointed) or found is pointed):
                raise ArgumentError(f"a {type(value).__name__} is no {type_.__name__}")
            _refuse_host_pointers(type(value))
            return self._copy(bytes(value), value)
        wanted = getattr(type_, "__name__", repr(type_)) if type_ is not None else "pointer"
        raise ArgumentError(f"{value!r} is no {wanted}")

    def _copy(self, content: bytes, back: Any) -> int:
        at = self._memory.new(content)
        self._copies.append((at, back))
        return at

    def finish(self, *, copy_back: bool) -> None:
        """End the call: what was passed by reference gets the guest's changes, and the copies are freed."""
        for at, value in self._copies:
            if value is not None and copy_back:
                ctypes.memmove(
                    ctypes.addressof(value), self._memory.read(at, ctypes.sizeof(value)), ctypes.sizeof(value)
                )
            self._memory.free(at)
        self._copies.clear()


def decode(rax: int, xmm0: bytes, type_: Any, memory: Memory) -> Any:
    """Return a result, or an argument of a callback, as ctypes would: ints for pointers, bytes for char pointers, None for a NULL of either."""
    if type_ is None:
        return None
    if isinstance(type_, Prototype):
        return rax or None
    if issubclass(type_, _Simple):
        code = type_._type_
        if code == "d":
            return struct.unpack("<d", xmm0)[0]
        if code == "f":
            return struct.unpack("<f", xmm0[:4])[0]
        if code == "P":
            return rax or None
        if code == "z":
            return memory.cstring(rax) if rax else None
        if code == "Z":
            return _wide(memory, rax) if rax else None
        if code == "?":
            return bool(rax & 0xFF)
        return type_.from_buffer_copy(rax.to_bytes(8, "little")).value
    return rax or None


def is_floating(type_: Any) -> bool:
    """Whether a value of the type travels in an SSE register."""
    return (
        isinstance(type_, type) and issubclass(type_, _Simple) and getattr(type_, "_type_", "") in ("d", "f")
    )


def _scalar(value: Any, type_: Any, code: str) -> int | bytes:
    if code in ("d", "f"):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ArgumentError(f"{value!r} is no {type_.__name__}")
        return struct.pack("<d" if code == "d" else "<f", value).ljust(8, b"\0")
    if code == "?":
        return int(bool(value))
    if code in ("c", "u") and isinstance(value, (bytes, str)) and len(value) == 1:
        return ord(value)
    if code not in _INTEGERS or not isinstance(value, int):
        raise ArgumentError(f"{value!r} is no {type_.__name__}")
    bits = 8 * ctypes.sizeof(type_)
    if not -(1 << bits - 1) <= value < 1 << bits:
        raise ArgumentError(f"{value} does not fit {type_.__name__}")
    number: int = type_(value).value
    return number & _M64


def _check_type(type_: Any) -> None:
    """Raise ArgumentError for what is no type that can be passed."""
    if isinstance(type_, Prototype):
        return
    if isinstance(type_, type):
        if issubclass(type_, _Simple) and getattr(type_, "_type_", "") in ("g", "G", "F", "O"):
            raise ArgumentError(f"{type_.__name__}: not supported as an argument or result")
        if issubclass(type_, (_Simple, _Pointer, ctypes.Array)):
            return
        if issubclass(type_, (ctypes.Structure, ctypes.Union)):
            raise ArgumentError(f"{type_.__name__} by value is not supported: use POINTER({type_.__name__})")
        if issubclass(type_, _CFUNC):
            raise ArgumentError(f"{type_.__name__}: a pointer of the host; use emu.CFUNCTYPE")
    raise ArgumentError(f"{type_!r} is no ctypes type")


def _refuse_host_pointers(type_: Any) -> None:
    """Raise ArgumentError for a structure that holds pointers of the host, which mean nothing to the guest."""
    if issubclass(type_, ctypes.Array):
        _refuse_host_pointers(type_._type_)
    elif issubclass(type_, (ctypes.Structure, ctypes.Union)):
        for field in getattr(type_, "_fields_", ()):
            _refuse_host_pointers(field[1])
    elif issubclass(type_, (_Pointer, _CFUNC)) or getattr(type_, "_type_", "") in ("z", "Z", "O"):
        raise ArgumentError(
            f"{type_.__name__} holds a pointer of the host: use c_void_p with a guest address"
        )


def _wide(memory: Memory, address: int) -> str:
    text = ""
    while code := int.from_bytes(memory.read(address + _WCHAR_SIZE * len(text), _WCHAR_SIZE), "little"):
        text += chr(code)
    return text
