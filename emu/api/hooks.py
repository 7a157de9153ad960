"""Handlers at places in guest code: in the place of a function, before an instruction, at each trap or event. No other code pays for them."""

from __future__ import annotations

import ctypes
import inspect
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from emu.api.convert import Prototype
from emu.api.errors import ArgumentError
from emu.api.function import Function
from emu.api.handlers import drive
from emu.kernel.names import syscall_name
from emu.machine import regs

if TYPE_CHECKING:
    from emu.api.process import Process
    from emu.core.events import Record
    from emu.machine.cpu import Context, Cpu
    from emu.process.backtrace import FrameInfo

_ARGUMENTS = (regs.RDI, regs.RSI, regs.RDX, regs.RCX, regs.R8, regs.R9)
_NOTHING = object()
_BY_NAME = {name: register for register, name in regs.NAMES.items()}


class Interposition:
    """A Python function in the place of a guest function. `original` is that function itself: called from the handler, it is not interposed."""

    def __init__(self, original: Function) -> None:
        self.original = original
        self.active = True

    def remove(self) -> None:
        """Let calls reach the function itself again."""
        self.active = False

    def __enter__(self) -> Interposition:
        return self

    def __exit__(self, *_error: object) -> None:
        self.remove()

    def __repr__(self) -> str:
        return f"<emu.Interposition of {self.original.name}{'' if self.active else ', removed'}>"


class _Original(Function):
    """A function that is interposed: its next entry by this thread is let through."""

    def __init__(self, hooks: Hooks, function: Function, prototype: Prototype) -> None:
        super().__init__(function._calls, function.name, function.address, None, prototype)
        self._hooks = hooks

    def __call__(self, *args: Any) -> Any:
        self._hooks.let_through(self.address)
        return super().__call__(*args)


class Breakpoint:
    """A place in guest code with a handler; `hits` counts how often it was reached. The registers, by name, are those of the thread that
    is about to run the instruction there.
    """

    def __init__(self, process: Process, address: int) -> None:
        self._process = process
        self.address = address
        self.hits = 0
        self.active = True
        self.context: Context | None = None
        """The registers there while the thread is elsewhere, called by the handler."""

    @contextmanager
    def _there(self) -> Iterator[Cpu]:
        """The CPU as it was at the breakpoint."""
        cpu = self._process.inner.cpu
        if self.context is None:
            yield cpu
            return
        elsewhere = cpu.save()
        cpu.restore(self.context)
        try:
            yield cpu
        finally:
            cpu.save(self.context)
            cpu.restore(elsewhere)

    def __getitem__(self, register: str) -> int:
        with self._there() as cpu:
            return cpu.get(_register(register))

    def __setitem__(self, register: str, value: int) -> None:
        with self._there() as cpu:
            cpu.set(_register(register), value)

    def argument(self, number: int) -> int:
        """Return integer argument `number` (from 0) at a function's entry: a register's, or a word of the stack."""
        if number < len(_ARGUMENTS):
            with self._there() as cpu:
                return cpu.get(_ARGUMENTS[number])
        rsp = self["rsp"]
        word = self._process.memory.read(rsp + 8 * (number - len(_ARGUMENTS) + 1), 8)
        return int.from_bytes(word, "little")

    @property
    def tid(self) -> int:
        """The id of the thread that is here."""
        return self._process.inner.kernel.scheduler.current.tid

    def backtrace(self) -> list[FrameInfo]:
        """Return the frames of the thread that is here, the innermost first."""
        with self._there() as cpu:
            return self._process.inner.frames(cpu.gprs())

    def remove(self) -> None:
        """Do not stop here any more."""
        self.active = False

    def __enter__(self) -> Breakpoint:
        return self

    def __exit__(self, *_error: object) -> None:
        self.remove()

    def __repr__(self) -> str:
        where = self._process.inner.symbols.where(self.address)
        return f"<emu.Breakpoint at {where}, {self.hits} hits{'' if self.active else ', removed'}>"


class Hooks:
    """The handlers of one process."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def interpose(
        self, where: str | Function | int, handler: Callable[..., Any], prototype: Prototype | None
    ) -> Interposition:
        """See `Process.interpose`."""
        process, engine = self._process, self._process.engine
        function = self._function(where)
        if prototype is None:
            count = len(inspect.signature(handler).parameters)
            prototype = Prototype(ctypes.c_uint64, (ctypes.c_uint64,) * count)
        trap = engine.trap()
        process.calls.answer(trap, prototype, handler)
        interposition = Interposition(_Original(self, function, prototype))
        cpu = process.inner.cpu

        def enter(address: int) -> None:
            key = process.inner.thread_pointer(), address
            if self._process.place.through[key]:
                self._process.place.through[key] -= 1
            elif interposition.active:
                cpu.jump(trap)

        self._hook(function.address, enter)
        return interposition

    def let_through(self, address: int) -> None:
        """The next entry at `address` of the thread that calls from Python is not interposed."""
        self._process.place.through[self._process.engine.at(None).thread, address] += 1

    def breakpoint(
        self, where: str | Function | int, handler: Callable[[Breakpoint], object] | None
    ) -> Breakpoint:
        """See `Process.breakpoint`."""
        process = self._process
        address = where if isinstance(where, int) else self._function(where).address
        stop = Breakpoint(process, address)

        def handle() -> None:
            here = process.inner.thread_pointer(), address
            stop.hits += 1
            asked: object = _NOTHING
            handling: object = None
            try:
                handling = handler(stop) if handler is not None else None
                if isinstance(handling, Generator):
                    asked = next(handling, _NOTHING)
            finally:
                if asked is _NOTHING:
                    process.place.skip.add(here)
            if isinstance(handling, Generator) and asked is not _NOTHING:
                self._call_from(stop, here, partial(drive, handling, asked))

        def reach(_address: int) -> None:
            here = process.inner.thread_pointer(), address
            if here in process.place.skip:
                process.place.skip.remove(here)
            elif stop.active:
                process.engine.interrupt(handle)

        self._hook(address, reach)
        return stop

    def _call_from(self, stop: Breakpoint, here: tuple[int, int], handling: Callable[[], object]) -> None:
        """Let a handler that is a generator call the guest from a breakpoint."""
        engine = self._process.engine

        def request() -> int:
            outer, stop.context = stop.context, context
            try:
                handling()
            finally:
                stop.context = outer
            return 0

        context = engine.divert(request, partial(self._process.place.skip.add, here))

    def _function(self, where: str | Function | int) -> Function:
        if isinstance(where, Function):
            return where
        return self._process.function_at(where) if isinstance(where, int) else self._process.function(where)

    def _hook(self, address: int, callback: Callable[[int], None]) -> None:
        cpu = self._process.inner.cpu
        cpu.hook_address(address, partial(callback, address))
        cpu.flush_code(address, 1)  # blocks that are translated do not know of the hook

    def on_trap(self, tell: Callable[[str], None]) -> Callable[[], None]:
        """Halt at each trap, and tell its name; return what ends that."""
        inner = self._process.inner
        cpu, contract = inner.cpu, inner.contract
        serve = cpu.on_trap

        def trap() -> None:
            rip, number = cpu.trap[16], cpu.trap[0]
            hosted = contract is not None and rip in contract.traps
            name = inner.hosted_name(rip) if hosted else syscall_name(number)
            serve()
            tell(name)
            inner.halt()

        cpu.on_trap = trap

        def restore() -> None:
            cpu.on_trap = serve

        return restore

    def on_event(self, wanted: frozenset[type[Any]] | None) -> Callable[[], None]:
        """Halt at each event of the kinds `wanted` (None: all); return what ends that."""
        process = self._process

        def halt(record: Record) -> None:
            if wanted is None or type(record.event) in wanted:
                process.inner.halt()

        process.watch = halt

        def restore() -> None:
            process.watch = None

        return restore


def _register(name: str) -> int:
    register = _BY_NAME.get(name)
    if register is None:
        raise ArgumentError(f"no register {name!r}: choose from {', '.join(_BY_NAME)}")
    return register
