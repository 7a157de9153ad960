"""The guest's memory, for Python."""

from __future__ import annotations

import ctypes
from operator import index
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeVar, cast

from emu.api.errors import ArgumentError, ClosedError, MemoryAccessError
from emu.api.pointer import ForTheGuest
from emu.api.references import DATA
from emu.core.errors import MemoryFault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from emu.machine.vma import Vma
    from emu.process import Process

_C = TypeVar("_C", bound="ctypes._SimpleCData[Any] | ctypes.Structure | ctypes.Union | ctypes.Array[Any]")
_CHUNK = 256


class Memory(ForTheGuest, instead="see Memory.view and Memory.new"):
    """Bytes by guest address.

    Any mapped page can be read and written, whatever its protection, as by a debugger.

    >>> import ctypes, emu
    >>> with emu.Process() as p:
    ...     at = p.memory.new(b"hello, guest")
    ...     p.memory.write(at, b"J")
    ...     p.memory.cstring(at), p.memory.read(at + 7, 5)
    (b'Jello, guest', b'guest')
    """

    def __init__(self, process: Process, name: Callable[[int], str]) -> None:
        self._process, self._name = process, name
        self.given: set[int] = set()
        self.changes = 0
        """How often something was, or may from then on be, stored by way of this."""

    def __repr__(self) -> str:
        return f"<emu.Memory of {self._process.config.program}>"

    def read(self, address: SupportsIndex, size: int) -> bytes:
        """Return `size` bytes. Raises MemoryAccessError."""
        start = index(address)
        try:
            return self._process.arena.read(start, size) if size else b""
        except MemoryFault as fault:
            raise self._error(f"read of {size} bytes at {start:#x}", fault) from None

    def write(self, address: SupportsIndex, data: bytes) -> None:
        """Store bytes. Raises MemoryAccessError."""
        start = index(address)
        self.changes += 1
        try:
            if data:
                self._process.arena.write(start, data)
        except MemoryFault as fault:
            raise self._error(f"write of {len(data)} bytes at {start:#x}", fault) from None

    def cstring(self, address: SupportsIndex) -> bytes:
        """Return the bytes before the next NUL. Raises MemoryAccessError."""
        found, start = bytearray(), index(address)
        while True:
            at = start + len(found)
            part = self.read(at, min(_CHUNK, 4096 - at % 4096))
            before, nul, _ = part.partition(b"\0")
            found += before
            if nul:
                return bytes(found)

    def view(self, type_: type[_C], address: SupportsIndex) -> _C:
        """Return a ctypes object that *is* the guest's memory: what is stored in it, the guest sees.

        Pointers in it are the guest's.

        It is good until the guest unmaps that memory. Raises MemoryAccessError.

        >>> import ctypes, emu
        >>> with emu.Process() as p:
        ...     at = p.memory.new(bytes(8))
        ...     p.memory.view(ctypes.c_uint32 * 2, at)[1] = 7
        ...     p.memory.read(at, 8)
        b'\\x00\\x00\\x00\\x00\\x07\\x00\\x00\\x00'
        """
        if not (isinstance(type_, type) and issubclass(type_, DATA)):
            raise ArgumentError(f"{type_!r} is no ctypes type")
        size, start = ctypes.sizeof(type_), index(address)
        self.changes += 1
        try:
            return cast(_C, type_.from_buffer(self._process.arena.view(start, size)))
        except MemoryFault as fault:
            raise self._error(f"view of {type_.__name__} at {start:#x}", fault) from None

    def new(self, content: bytes) -> int:
        """Return the address of a copy of `content`, followed by a NUL,
        that stays until the process ends or `free`.
        """
        rtld = self._process.rtld
        if rtld is None:
            raise ClosedError("a static program has no loader's heap")
        address = rtld.heap.string(content)
        self.given.add(address)
        self.changes += 1
        return address

    def free(self, address: SupportsIndex) -> None:
        """Give back what `new` made. Raises MemoryAccessError for any other address."""
        rtld, start = self._process.rtld, index(address)
        if rtld is None or start not in self.given:
            raise MemoryAccessError(f"{start:#x} is no memory that Memory.new gave out", start)
        self.given.remove(start)
        self.changes += 1
        rtld.heap.free(start)

    def __iter__(self) -> Iterator[Vma]:
        return iter(list(self._process.space))

    def _error(self, what: str, fault: MemoryFault) -> MemoryAccessError:
        return MemoryAccessError(f"{what}: {fault.address:#x} is {self._name(fault.address)}", fault.address)
