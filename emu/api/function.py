"""Functions of the guest, called as ctypes calls them; and Python functions, called by the guest."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from emu.api import aggregates
from emu.api.convert import (
    Callback,
    Encoder,
    Prototype,
    _check_type,
    check_types,
    decode,
    is_floating,
)
from emu.api.errors import ArgumentError, ClosedError, NotAFunctionError
from emu.api.exceptions import caught
from emu.api.handlers import run
from emu.api.incoming import Incoming, placed, written
from emu.api.pointer import ForTheGuest

if TYPE_CHECKING:
    from collections.abc import Hashable

    from emu.api.engine import Engine
    from emu.api.library import Library
    from emu.api.memory import Memory
    from emu.core.effects import Hosted
    from emu.glibc.call import HostedCall
    from emu.glibc.contract import Contract
    from emu.kernel.run.task import Task

_PLAIN = frozenset((bool, bytes, float, int, str, type(None)))


class Function(ForTheGuest, instead="pass it as it is, or its .address"):
    """A function of the guest.

    `argtypes` (None: by the values) and `restype` (c_int at first, None for void) are ctypes types.

    Calling it runs the guest until the function returns. Raises ArgumentError, GuestException, GuestFault,
    ProcessEnded.

    >>> import ctypes, emu
    >>> with emu.Process() as p:
    ...     libm = p.dlopen("libm.so.6")
    ...     libm.hypot.argtypes, libm.hypot.restype = [ctypes.c_double] * 2, ctypes.c_double
    ...     libm.hypot(3.0, 4.0)
    5.0
    """

    def __init__(
        self,
        calls: Calls,
        name: str,
        address: int | Callable[[], int],
        library: Library | None = None,
        prototype: Prototype | None = None,
    ) -> None:
        self._calls, self.name, self._address, self.library = calls, name, address, library
        self._argtypes: tuple[Any, ...] | None = prototype.argtypes if prototype is not None else None
        self._restype: Any = prototype.restype if prototype is not None else ctypes.c_int
        self._errcheck: Callable[[Any, Function, tuple[Any, ...]], Any] | None = None

    @property
    def argtypes(self) -> Sequence[Any] | None:
        """The types of the arguments, None as long as nobody has said;
        further arguments are passed as to a variadic function.
        """
        return self._argtypes

    @argtypes.setter
    def argtypes(self, types: Sequence[Any] | None) -> None:
        self._argtypes = check_types(types) if types is not None else None

    @property
    def restype(self) -> Any:
        """The type of the result."""
        return self._restype

    @restype.setter
    def restype(self, type_: Any) -> None:
        if type_ is not None:
            _check_type(type_)
        self._restype = type_

    @property
    def errcheck(self) -> Callable[[Any, Function, tuple[Any, ...]], Any] | None:
        """What is called with the result, this function and the arguments, and whose result is the call's;
        None: nothing.
        """
        return self._errcheck

    @errcheck.setter
    def errcheck(self, function: Callable[[Any, Function, tuple[Any, ...]], Any] | None) -> None:
        if function is not None and not callable(function):
            raise ArgumentError(f"{self.name}: errcheck must be a function, not {function!r}")
        self._errcheck = function

    def __call__(self, *args: Any) -> Any:
        """Call the function where the guest is now:
        in the main thread, or in that of the Python function that the guest is calling.
        """
        return self._calls.call(self, args, None)

    @property
    def __name__(self) -> str:
        """The name, where ctypes has it."""
        return self.name

    @property
    def address(self) -> int:
        """Where the function is entered; that of an IFUNC is found at its first use."""
        if not isinstance(self._address, int):
            self._address = self._address()
        return self._address

    def key(self, args: Sequence[Any], task: Task | None) -> Hashable:
        """Return what tells a call from others, None where values of other types than numbers and strings,
        which Python can change, come into it, or an IFUNC that was not used yet.
        """
        types = (self._restype, *(self._argtypes or ()))
        plain = all(t is None or isinstance(t, type) and issubclass(t, ctypes._SimpleCData) for t in types)
        if (
            not isinstance(self._address, int)
            or task is not None
            or not plain
            or any(type(value) not in _PLAIN for value in args)
        ):
            return None
        return self.name, self._address, self._argtypes is None, types, repr(args)

    def __repr__(self) -> str:
        at = f"at {self._address:#x}" if isinstance(self._address, int) else "(an IFUNC, not used yet)"
        return f"<emu.Function {self.name} {at}>"


class Calls:
    """What functions need of their process: its engine and memory, and the
    functions of Python's that the guest knows.
    """

    def __init__(
        self,
        engine: Engine,
        memory: Memory,
        perform: Callable[[Callable[[], Hashable], Callable[[], Any]], Any],
    ) -> None:
        """`perform` does a call, by what it is (see `Process.perform`)."""
        self.engine, self.memory, self._perform = engine, memory, perform
        self._callbacks: weakref.WeakKeyDictionary[Callback, int] = weakref.WeakKeyDictionary()

    def call(self, function: Function, args: Sequence[Any], task: Task | None) -> Any:
        """Call `function` in the thread of `task`, or where the guest is now."""
        engine = self.engine
        engine.check()
        if function.library is not None and function.library.closed:
            raise ClosedError(f"{function.name}: {function.library.path} {function.library.refusal}")
        result = self._perform(lambda: function.key(args, task), lambda: self._call(function, args, task))
        return result if function.errcheck is None else function.errcheck(result, function, tuple(args))

    def _call(self, function: Function, args: Sequence[Any], task: Task | None) -> Any:
        engine = self.engine
        encoder = Encoder(self.memory, self.pointer_to)
        restype = function.restype
        in_memory = aggregates.travels_in_memory(restype)
        try:
            room = encoder.room_for(restype) if in_memory else 0
            arguments = encoder.arguments(function.name, args, function.argtypes)
        except ArgumentError:
            encoder.finish(copy_back=False)
            raise
        station = engine.at(task)
        outcome = engine.run(engine.caller.call(station.thread, function.address, arguments), station)
        error = engine.take_pending()
        if outcome.exception:
            process = engine.process
            assert process.rtld is not None
            frames = process.resolve(engine.frames_of(outcome.exception))
            work = caught(process.rtld, engine.caller, station.thread, outcome.exception, frames)
            error = error or engine.run(work, station)
        content = self.memory.read(room, ctypes.sizeof(restype)) if room and error is None else b""
        encoder.finish(copy_back=error is None)
        if error is not None:
            raise error
        if in_memory:
            return restype.from_buffer_copy(content)
        if aggregates.is_aggregate(restype):
            return aggregates.returned(restype, (outcome.rax, outcome.rdx), (outcome.xmm0, outcome.xmm1))
        if isinstance(restype, Prototype):
            name = f"result of {function.name}"
            return Function(self, name, outcome.rax, None, restype) if outcome.rax else None
        return decode(outcome.rax, outcome.xmm0, restype, self.memory)

    # -- the guest calls Python ------------------------------------------------------------------------------

    def pointer_to(self, callback: Callback) -> int:
        """Return the guest address of a callback, good as long as that lives."""
        address = self._callbacks.get(callback)
        if address is None:
            # The function, not the callback: that would never die.
            address = self._callbacks[callback] = self.engine.trap()
            self.answer(address, callback.prototype, callback.function)
            weakref.finalize(callback, self.engine.give_back, address)
        return address

    def answer(self, trap: int, prototype: Prototype, function: Callable[..., Any]) -> None:
        """Let `function` answer calls of the guest function at `trap`."""
        engine = self.engine

        def handler(_contract: Contract, call: HostedCall) -> Hosted:
            incoming = Incoming(call, engine.process.cpu, engine.process.arena)
            room = incoming.word() if aggregates.travels_in_memory(prototype.restype) else 0
            values = self._arguments(incoming, prototype.argtypes)
            name = getattr(function, "__qualname__", repr(function))

            def request() -> int:
                return self._result(name, run(function(*values)), prototype.restype, room)

            return engine.called(request)

        engine.contract.traps[trap] = handler

    def _arguments(self, incoming: Incoming, argtypes: Sequence[Any]) -> list[Any]:
        """Read the arguments of a call that the guest makes."""
        values: list[Any] = []
        for type_ in argtypes:
            if aggregates.is_aggregate(type_):
                values.append(incoming.aggregate(type_))
            elif is_floating(type_):
                values.append(decode(0, incoming.vector(), type_, self.memory))
            elif isinstance(type_, Prototype):
                word = incoming.word()
                values.append(Function(self, f"function at {word:#x}", word, None, type_) if word else None)
            else:
                values.append(decode(incoming.word(), b"", type_, self.memory))
        return values

    def _result(self, name: str, value: Any, restype: Any, room: int) -> int:
        """Put the result of a Python function where the guest finds it (`room`:
        for one that travels in memory); return rax.
        """
        if restype is None:
            return 0
        if isinstance(value, (bytes, str)):
            raise ArgumentError(
                f"{name}: a result must not be {type(value).__name__}: return an address that stays valid"
            )
        encoded = Encoder(self.memory, self.pointer_to).one(value, restype)
        if isinstance(encoded, int):
            return encoded
        if isinstance(encoded, aggregates.OnStack):
            return written(self.engine.process.arena, room, encoded, ctypes.sizeof(restype))
        parts: list[int | bytes] = encoded if isinstance(encoded, list) else [encoded]
        rax, self.engine.at_return = placed(self.engine.process.cpu, parts)
        return rax


def not_a_function(name: str, object_name: str, kind: str) -> NotAFunctionError:
    """Return the error for a call of something that is no function."""
    return NotAFunctionError(
        f"{object_name}: {name} is {kind}, not a function: use in_dll or Library.address"
    )
