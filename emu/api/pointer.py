"""Pointers of the guest that know what they point to, as `ctypes.POINTER` has them."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, NoReturn

from emu.api.errors import ArgumentError

if TYPE_CHECKING:
    from emu.api.memory import Memory


class ForTheGuest:
    """Something that ctypes must not take for the host's:
    to hand it to one of ctypes' own functions is an error that says what to use.

    Functions in C that ask nobody, as byref and the second argument of cast, name the type: `instead` (what
    to do) is therefore a part of its name. addressof and sizeof say neither, and are plain TypeErrors.
    """

    _emu_name = ""

    def __init_subclass__(cls, instead: str = "", **more: object) -> None:
        super().__init_subclass__(**more)
        if not cls.__module__.startswith("emu."):
            cls._emu_name = cls.__qualname__
        if instead:
            cls._emu_name = f"emu.{cls.__qualname__}"
            cls.__name__ = f"emu.{cls.__qualname__}: {instead}"
        # Where `ctypes.pointer` looks for the type of a pointer to such an object.
        cls.__pointer_type__ = staticmethod(_no_pointer)  # type: ignore[attr-defined] # Python 3.14 and later
        cache = getattr(ctypes, "_pointer_type_cache", None)
        if cache is not None:
            cache[cls] = _no_pointer

    if not TYPE_CHECKING:  # for a checker of types, all names would be there

        def __getattr__(self, name: str) -> Any:
            """Say whose attribute is not there, without what the name of the class says to ctypes."""
            if hasattr(type(self), name):
                return object.__getattribute__(self, name)  # of a property, which has an error of its own
            raise AttributeError(f"{self._emu_name!r} object has no attribute {name!r}", name=name, obj=self)

    @property
    def _as_parameter_(self) -> NoReturn:  # what ctypes asks whoever is passed or cast for
        raise ArgumentError(
            f"{self!r} is in the guest, where ctypes cannot reach: pass it to functions of the guest, use its .address, "
            "make function pointers with emu.CFUNCTYPE, and see emu.Process.memory for data"
        )

    @property
    def _handle(self) -> NoReturn:
        """What ctypes asks for, to hand it to the host's dlsym: an address of the guest would end Python.

        Raises ArgumentError.
        """
        raise ArgumentError(
            f"ctypes looks names up in this process, and {self!r} is in the guest: "
            "use Library.in_dll(type, name), or the function as an attribute"
        )


def _no_pointer(thing: ForTheGuest) -> NoReturn:
    """What `ctypes.pointer` finds in the place of a type."""
    _ = thing._as_parameter_
    raise AssertionError(thing)


class Pointer(ForTheGuest, instead="pass it as it is, or its .address"):
    """A guest address with a type: what a function whose restype is `POINTER(T)` returns, and what a callback
    gets for such an argument.

    `contents` and indexing are as ctypes has them: they read and write the guest's memory, good until the
    guest gives that back. `int(pointer)` is the address, and so is `pointer.address`. A NULL pointer is None.

    >>> import ctypes, emu
    >>> with emu.Process() as p:
    ...     libc = p.dlopen("libc.so.6")
    ...     libc.strdup.restype = ctypes.POINTER(ctypes.c_char)
    ...     text = libc.strdup(b"cat")
    ...     text[0] = b"h"
    ...     text[0], text.contents.value, p.memory.cstring(text)
    (b'h', b'h', b'hat')
    """

    __slots__ = ("_memory", "_type_", "address")

    def __init__(self, address: int, type_: Any, memory: Memory) -> None:
        self.address, self._type_, self._memory = address, type_, memory

    def __index__(self) -> int:
        return self.address

    def __int__(self) -> int:
        return self.address

    def __eq__(self, other: object) -> bool:
        return isinstance(other, (int, Pointer)) and self.address == int(other)

    def __hash__(self) -> int:
        return hash(self.address)

    @property
    def contents(self) -> Any:
        """What it points to, as a ctypes object that is the guest's memory. Raises MemoryAccessError."""
        return self._memory.view(self._type_, self.address)

    def __getitem__(self, index: int) -> Any:
        element = self._memory.view(self._type_, self._at(index))
        if isinstance(element, ctypes._SimpleCData):
            return element.value
        if isinstance(element, ctypes._Pointer):
            address = int.from_bytes(bytes(element), "little")
            return Pointer(address, type(element)._type_, self._memory) if address else None
        return element

    def __setitem__(self, index: int, value: Any) -> None:
        element = self._memory.view(self._type_, self._at(index))
        if isinstance(element, ctypes._SimpleCData):
            element.value = value
        elif isinstance(element, ctypes._Pointer):
            self._memory.write(self._at(index), int(value or 0).to_bytes(8, "little"))
        else:
            self._memory.write(self._at(index), bytes(self._type_.from_buffer_copy(value)))

    def _at(self, index: int) -> int:
        return self.address + index * ctypes.sizeof(self._type_)

    def __repr__(self) -> str:
        return f"<emu.Pointer to {self._type_.__name__} at {self.address:#x}>"
