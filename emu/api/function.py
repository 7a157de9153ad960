"""Functions of the guest, called as ctypes calls them; and Python functions, called by the guest."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from emu.api.convert import Callback, Encoder, Prototype, _check_type, decode, is_floating
from emu.api.errors import ArgumentError, ClosedError, NotAFunctionError
from emu.api.exceptions import caught
from emu.api.handlers import run
from emu.glibc.call_page import INTEGER_REGISTERS, SSE_REGISTERS

_XMM_OFFSET = 160
"""Of XMM0 in an FXSAVE image."""

if TYPE_CHECKING:
    from emu.api.engine import Engine
    from emu.api.library import Library
    from emu.api.memory import Memory
    from emu.core.effects import Hosted
    from emu.glibc.call import Call
    from emu.glibc.contract import Contract
    from emu.kernel.task import Task


class Function:
    """A function of the guest. `argtypes` (None: by the values) and `restype` (c_int at first, None for void) are ctypes types.

    Calling it runs the guest until the function returns. Raises ArgumentError, GuestException, GuestFault, ProcessEnded.

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

    @property
    def argtypes(self) -> Sequence[Any] | None:
        """The types of the arguments, None as long as nobody has said; further arguments are passed as to a variadic function."""
        return self._argtypes

    @argtypes.setter
    def argtypes(self, types: Sequence[Any] | None) -> None:
        for type_ in types or ():
            _check_type(type_)
        self._argtypes = tuple(types) if types is not None else None

    @property
    def restype(self) -> Any:
        """The type of the result."""
        return self._restype

    @restype.setter
    def restype(self, type_: Any) -> None:
        if type_ is not None:
            _check_type(type_)
        self._restype = type_

    def __call__(self, *args: Any) -> Any:
        """Call the function where the guest is now: in the main thread, or in that of the Python function that the guest is calling."""
        return self._calls.call(self, args, None)

    @property
    def address(self) -> int:
        """Where the function is entered; that of an IFUNC is found at its first use."""
        if not isinstance(self._address, int):
            self._address = self._address()
        return self._address

    def __repr__(self) -> str:
        at = f"at {self._address:#x}" if isinstance(self._address, int) else "(an IFUNC, not used yet)"
        return f"<emu.Function {self.name} {at}>"


class Calls:
    """What functions need of their process: its engine and memory, and the functions of Python's that the guest knows."""

    def __init__(self, engine: Engine, memory: Memory) -> None:
        self.engine, self.memory = engine, memory
        self._callbacks: weakref.WeakKeyDictionary[Callback, int] = weakref.WeakKeyDictionary()

    def call(self, function: Function, args: Sequence[Any], task: Task | None) -> Any:
        """Call `function` in the thread of `task`, or where the guest is now."""
        engine = self.engine
        engine.check()
        if function.library is not None and function.library.closed:
            raise ClosedError(f"{function.name}: {function.library.path} {function.library.refusal}")
        encoder = Encoder(self.memory, self.pointer_to)
        try:
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
            work = caught(process.rtld, process.arena, engine.caller, station.thread, outcome.exception)
            error = error or engine.run(work, station)
        encoder.finish(copy_back=error is None)
        if error is not None:
            raise error
        restype = function.restype
        if isinstance(restype, Prototype):
            return (
                Function(self, f"result of {function.name}", outcome.rax, None, restype)
                if outcome.rax
                else None
            )
        return decode(outcome.rax, outcome.xmm0, restype, self.memory)

    # -- the guest calls Python ------------------------------------------------------------------------------------------

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

        def handler(_contract: Contract, call: Call) -> Hosted:
            values = self._arguments(call, prototype.argtypes)
            name = getattr(function, "__qualname__", repr(function))

            def request() -> int:
                return self._result(name, run(function(*values)), prototype.restype)

            return engine.called(request)

        engine.contract.traps[trap] = handler

    def _arguments(self, call: Call, argtypes: Sequence[Any]) -> list[Any]:
        """Read the arguments of a call that the guest makes. Source: psABI 3.2.3."""
        integers, floats, words, stack = iter(call.args), 0, 0, call.rsp + 8
        state = self.engine.process.cpu.fxsave() if any(map(is_floating, argtypes)) else b""
        values = []
        for type_ in argtypes:
            word, xmm = 0, bytes(8)
            if is_floating(type_) and floats < SSE_REGISTERS:
                at = _XMM_OFFSET + 16 * floats
                xmm, floats = state[at : at + 8], floats + 1
            elif not is_floating(type_) and words < INTEGER_REGISTERS:
                word, words = next(integers), words + 1
            else:
                word, stack = self.engine.process.arena.read_u64(stack), stack + 8
                xmm = word.to_bytes(8, "little")
            if isinstance(type_, Prototype):
                values.append(Function(self, f"function at {word:#x}", word, None, type_) if word else None)
            else:
                values.append(decode(word, xmm, type_, self.memory))
        return values

    def _result(self, name: str, value: Any, restype: Any) -> int:
        """Put the result of a Python function where the guest finds it; return rax."""
        if restype is None:
            return 0
        if isinstance(value, (bytes, str)):
            raise ArgumentError(
                f"{name}: a result must not be {type(value).__name__}: return an address that stays valid"
            )
        encoded = Encoder(self.memory, self.pointer_to).one(value, restype)
        if isinstance(encoded, int):
            return encoded
        cpu = self.engine.process.cpu

        def load_xmm0() -> None:
            image = cpu.fxsave()
            cpu.fxrstor(image[:_XMM_OFFSET] + encoded + bytes(8) + image[_XMM_OFFSET + 16 :])

        self.engine.at_return = load_xmm0
        return 0


def not_a_function(name: str, object_name: str, kind: str) -> NotAFunctionError:
    """Return the error for a call of something that is no function."""
    return NotAFunctionError(
        f"{object_name}: {name} is {kind}, not a function: use in_dll or Library.address"
    )
