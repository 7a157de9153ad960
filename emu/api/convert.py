"""Values between Python and the guest, by ctypes' types:
what an argument becomes in registers, what a register becomes in Python.

The rules are ctypes', with these differences. Pointers of the guest are Python ints, or (with a type) a
`Pointer`. An int too large for C's int is an error where ctypes cuts it off. A `str` travels as UTF-8 where a
`char *` is wanted (and without argtypes), a `float` without argtypes as a double.
Source: psABI 3.2.3; Python's documentation of ctypes, "Fundamental data types".
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from emu.api import aggregates, references
from emu.api.errors import ArgumentError
from emu.api.pointer import ForTheGuest, Pointer
from emu.glibc.call_page import INTEGER_REGISTERS, SSE_REGISTERS, Arguments

if TYPE_CHECKING:
    from emu.api.memory import Memory

_M64 = (1 << 64) - 1
_Simple: Any = ctypes._SimpleCData
_Pointer: Any = ctypes._Pointer
_BY_REFERENCE = references.BY_REFERENCE
_CFUNC: Any = ctypes._CFuncPtr  # type: ignore[attr-defined]
_FLOATS = ("d", "f")
_INTEGERS = "bBhHiIlLqQ"
_WCHAR_SIZE = 4
_NO_POINTER = "{!r}: to let the guest call it, make a pointer of it with emu.CFUNCTYPE"


class Addressable(Protocol):
    """Anything that stands for something in the guest: a function, a thread's structure."""

    @property
    def address(self) -> int:
        """Its guest address."""


class Prototype(
    ForTheGuest, instead="an emu.CFUNCTYPE makes a function of an address by Process.function_at"
):
    """The type of a function pointer; made by `CFUNCTYPE`.

    Called with a Python function, it makes what the guest can be given as a pointer.

    >>> import ctypes, emu
    >>> compare = emu.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))
    >>> compare
    emu.CFUNCTYPE(c_int, LP_c_int, LP_c_int)
    """

    def __init__(self, restype: Any, argtypes: tuple[Any, ...]) -> None:
        self.restype, self.argtypes = restype, argtypes

    def __call__(self, function: Callable[..., Any]) -> Callback:
        """Return `function` as a pointer of this type. Raises ArgumentError for what cannot be called."""
        if not callable(function):
            raise ArgumentError(
                f"{function!r} is no function of Python's: {self!r} takes one for the guest to call"
            )
        return Callback(self, function)

    def __repr__(self) -> str:
        names = ", ".join(
            "None" if t is None else getattr(t, "__name__", repr(t)) for t in (self.restype, *self.argtypes)
        )
        return f"emu.CFUNCTYPE({names})"


class Callback(ForTheGuest, instead="pass it as it is"):
    """A Python function with a prototype.

    The guest may call it as long as this object is alive, as in ctypes.
    """

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
    """Turns the arguments of one call into registers and stack;
    `finish` copies back what the guest may have changed, and frees copies.

    `pointer_to` returns the guest address of a callback.
    """

    def __init__(self, memory: Memory, pointer_to: Callable[[Callback], int]) -> None:
        self._memory, self._pointer_to = memory, pointer_to
        self._copies: list[tuple[int, Any]] = []
        self._known: dict[int, int] = {}
        """Copies of objects by where those lie here: an object passed twice is one object to the guest."""
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
            self._place(encoded)
        return Arguments(self._integers, self._sse, self._stack)

    def room_for(self, type_: Any) -> int:
        """Return the address of room for a result that travels in memory;
        it is the call's hidden first argument.
        """
        at = self._copy(bytes(ctypes.sizeof(type_)), None)
        self._integers.append(at)
        return at

    def _place(self, encoded: int | bytes | list[int | bytes] | aggregates.OnStack) -> None:
        """Let a value travel in the registers that are left, or as a whole on the stack.

        Source: psABI 3.2.3.
        """
        if isinstance(encoded, aggregates.OnStack):
            if encoded.aligned and len(self._stack) % 2:
                self._stack.append(0)
            self._stack += encoded.words
            return
        parts = encoded if isinstance(encoded, list) else [encoded]
        vectors = sum(isinstance(part, bytes) for part in parts)
        if (
            len(self._sse) + vectors <= SSE_REGISTERS
            and len(self._integers) + len(parts) - vectors <= INTEGER_REGISTERS
        ):
            for part in parts:
                (self._sse if isinstance(part, bytes) else self._integers).append(part)  # type: ignore[arg-type]
        else:
            self._stack += [int.from_bytes(p, "little") if isinstance(p, bytes) else p for p in parts]

    def one(self, value: Any, type_: Any) -> int | bytes | list[int | bytes] | aggregates.OnStack:
        """Return a word, the 8 bytes of a vector register, or what an aggregate by value is passed as.

        Raises ArgumentError.
        """
        if not isinstance(value, ForTheGuest) and hasattr(type(value), "_as_parameter_"):
            value = value._as_parameter_
        if converts(type_):
            return self.one(type_.from_param(value), None)
        if aggregates.is_aggregate(type_):
            if not isinstance(value, type_):
                raise ArgumentError(f"{value!r} is no {type_.__name__}")
            refuse_host_pointers(type_)
            return aggregates.passed(value)
        return self._one(value, type_)

    def _one(self, value: Any, type_: Any) -> int | bytes:
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
        _refuse_host_function(value)
        if value is None or isinstance(
            value,
            (bytes, str, Callback, ctypes.Array, ctypes.Structure, ctypes.Union, _Pointer, _BY_REFERENCE),
        ):
            return self._pointer(value, None)
        if hasattr(value, "address"):
            return int(value.address)
        if callable(value):
            raise ArgumentError(_NO_POINTER.format(value))
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
        _refuse_host_function(value)
        if isinstance(value, (bool, float)):
            raise ArgumentError(f"{value!r} is no pointer")
        if isinstance(value, int):
            if not -(1 << 63) <= value <= _M64:
                raise ArgumentError(f"{value:#x} is no 64-bit address")
            return value & _M64
        if isinstance(value, Callback):
            return self._pointer_to(value)
        if callable(value) and not hasattr(value, "address"):
            raise ArgumentError(_NO_POINTER.format(value))
        if hasattr(value, "address"):
            return int(value.address)
        wide = isinstance(type_, type) and issubclass(type_, _Simple) and getattr(type_, "_type_", "") == "Z"
        if isinstance(value, str):
            return self._copy(
                value.encode("utf-32-le") + bytes(_WCHAR_SIZE) if wide else os.fsencode(value), None
            )
        if isinstance(value, (bytes, bytearray)) and not wide:
            return self._copy(bytes(value), None)
        if isinstance(
            value, (_BY_REFERENCE, _Pointer, ctypes.Array, ctypes.Structure, ctypes.Union, _Simple)
        ):
            return self._reference(value, type_)
        wanted = getattr(type_, "__name__", repr(type_)) if type_ is not None else "pointer"
        raise ArgumentError(f"{value!r} is no {wanted}")

    def _reference(self, value: Any, type_: Any) -> int:
        """Return the address of a copy of what is passed by reference.

        That is an object as it is, byref, or a pointer of ctypes'. Raises ArgumentError.
        """
        wanted, found = (
            getattr(type_, "_type_", None) if references.is_pointer(type_) else None,
            references.element(value),
        )
        if wanted is not None and not (found is wanted or isinstance(getattr(value, "_obj", value), wanted)):
            raise ArgumentError(f"a {type(value).__name__} is no {type_.__name__}")
        owner, address = references.referred(value)
        if owner is None:
            return 0
        refuse_host_pointers(type(owner))
        begin = ctypes.addressof(owner)
        if begin not in self._known:
            self._known[begin] = self._copy(bytes(owner), owner)
        return self._known[begin] + address - begin

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
    """Return a result, or an argument of a callback, as ctypes would:
    ints for pointers, bytes for char pointers, None for a NULL of either.
    """
    if type_ is None:
        return None
    if isinstance(type_, Prototype):
        return rax or None
    if issubclass(type_, _Simple):
        code = type_._type_
        if type_.__base__ is not _Simple:  # a class of the user's stays what it is
            return type_.from_buffer_copy(xmm0[:8] if code in _FLOATS else rax.to_bytes(8, "little"))
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
    if issubclass(type_, _Pointer):
        return Pointer(rax, type_._type_, memory) if rax else None
    return rax or None


def is_floating(type_: Any) -> bool:
    """Whether a value of the type travels in an SSE register."""
    return isinstance(type_, type) and issubclass(type_, _Simple) and getattr(type_, "_type_", "") in _FLOATS


def _scalar(value: Any, type_: Any, code: str) -> int | bytes:
    if code in _FLOATS:
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


def converts(type_: Any) -> bool:
    """Whether it is no type of ctypes' but turns arguments into such, by `from_param`."""
    return hasattr(type_, "from_param") and not (
        isinstance(type_, type) and issubclass(type_, references.DATA)
    )


def check_types(types: Any) -> tuple[Any, ...]:
    """Return the types of a function's arguments. Raises ArgumentError."""
    if not isinstance(types, (list, tuple)):
        raise ArgumentError(f"argtypes: {types!r} is no list of types")
    for type_ in types:
        if not converts(type_):
            _check_type(type_)
    return tuple(types)


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
            refuse_host_pointers(type_)
            aggregates.travels(type_)
            return
        if issubclass(type_, _CFUNC):
            raise ArgumentError(f"{type_.__name__}: a pointer of the host; use emu.CFUNCTYPE")
    raise ArgumentError(f"{type_!r} is no ctypes type")


def _refuse_host_function(value: Any) -> None:
    """Raise ArgumentError for a callback of ctypes': the guest cannot call the host's code."""
    if isinstance(value, _CFUNC):
        raise ArgumentError(f"{value!r} is a function of the host: make one for the guest with emu.CFUNCTYPE")


def refuse_host_pointers(type_: Any) -> None:
    """Raise ArgumentError for a structure that holds pointers of the host,
    which mean nothing to the guest.
    """
    if issubclass(type_, ctypes.Array):
        refuse_host_pointers(type_._type_)
    elif issubclass(type_, (ctypes.Structure, ctypes.Union)):
        for field in getattr(type_, "_fields_", ()):
            refuse_host_pointers(field[1])
    elif issubclass(type_, (_Pointer, _CFUNC)) or getattr(type_, "_type_", "") in ("z", "Z", "O"):
        raise ArgumentError(
            f"{type_.__name__} holds a pointer of the host: use c_void_p with a guest address"
        )


def _wide(memory: Memory, address: int) -> str:
    text = ""
    while code := int.from_bytes(memory.read(address + _WCHAR_SIZE * len(text), _WCHAR_SIZE), "little"):
        text += chr(code)
    return text
