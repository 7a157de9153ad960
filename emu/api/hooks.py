"""Handlers at places in guest code: in the place of a function, before an instruction, at each trap or event.

No other code pays for them.
"""

from __future__ import annotations

import ctypes
import inspect
import weakref
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from emu.api.config import address_of
from emu.api.convert import Prototype
from emu.api.errors import ArgumentError, SymbolNotFoundError
from emu.api.function import Function
from emu.api.handlers import drive
from emu.api.where import find_code
from emu.core.events import InitStarted
from emu.kernel.syscall_names import syscall_name
from emu.machine import regs
from emu.process.hosted_functions import hosted_name

if TYPE_CHECKING:
    from emu.api.process import Process
    from emu.core.events import Record
    from emu.machine.engine import Context, Cpu
    from emu.process.backtrace import FrameInfo
    from emu.rtld.link_map import LinkMap

_ARGUMENTS = (regs.RDI, regs.RSI, regs.RDX, regs.RCX, regs.R8, regs.R9)
_NOTHING = object()
_BY_NAME = {name: register for register, name in regs.NAMES.items()}


class Interposition:
    """A Python function in the place of a guest function.

    `original` is that function itself: called from the handler, it is not interposed.
    """

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
    """A place in guest code with a handler; `hits` counts how often it was reached.

    The registers, by name, are those of the thread that is about to run the instruction there.

    `addresses` has the instructions: several where a line's code is in several functions, none as long as the
    place is `pending`, in a library that has not come yet.
    """

    def __init__(self, process: Process, where: str, addresses: list[int]) -> None:
        self._process = process
        self.where, self.addresses = where, addresses
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
        """Return integer argument `number` (from 0) at a function's entry:
        a register's, or a word of the stack.
        """
        if number < len(_ARGUMENTS):
            with self._there() as cpu:
                return cpu.get(_ARGUMENTS[number])
        rsp = self["rsp"]
        word = self._process.memory.read(rsp + 8 * (number - len(_ARGUMENTS) + 1), 8)
        return int.from_bytes(word, "little")

    @property
    def address(self) -> int:
        """Where the first instruction is, 0 as long as it is pending."""
        return self.addresses[0] if self.addresses else 0

    @property
    def pending(self) -> bool:
        """Whether no object that is loaded has the place yet."""
        return not self.addresses

    @property
    def tid(self) -> int:
        """The id of the thread that is here."""
        return self._process.inner.kernel.scheduler.current.tid

    def backtrace(self) -> list[FrameInfo]:
        """Return the frames of the thread that is here, the innermost first."""
        with self._there() as cpu:
            return self._process.inner.backtraces.of(cpu.gprs())

    def remove(self) -> None:
        """Do not stop here any more."""
        self.active = False

    def __enter__(self) -> Breakpoint:
        return self

    def __exit__(self, *_error: object) -> None:
        self.remove()

    def __repr__(self) -> str:
        where = f"{self.where}, pending" if self.pending else self._process.inner.symbols.where(self.address)
        return f"<emu.Breakpoint at {where}, {self.hits} hits{'' if self.active else ', removed'}>"


class Hooks:
    """The handlers of one process."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._placed: weakref.WeakSet[Interposition | Breakpoint] = weakref.WeakSet()
        self._pending: list[tuple[Breakpoint, Callable[[Breakpoint], object] | None]] = []
        """Breakpoints by name, whose place may be in objects that come later, too."""
        self._following = False

    @property
    def active(self) -> bool:
        """Whether there is an interposition or a breakpoint."""
        return any(placed.active for placed in self._placed)

    def forget(self) -> None:
        """Take all interpositions and breakpoints away."""
        for placed in self._placed:
            placed.remove()
        self._pending.clear()
        self._following = False  # listeners are forgotten, too

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
        self._placed.add(interposition)
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
        stop = Breakpoint(self._process, str(where), [])
        self._placed.add(stop)
        if isinstance(where, str):
            self._place(stop, self._addresses(where), handler)
            self._pending.append((stop, handler))
            self._follow()
        else:
            self._place(
                stop, [address_of("breakpoint", where) if isinstance(where, int) else where.address], handler
            )
        return stop

    def _addresses(self, where: str) -> list[int]:
        """Return where a place is in the objects that are loaded: an exported function's comes first."""
        try:
            return [self._process.function(where).address]
        except SymbolNotFoundError:
            return find_code(self._process, where, list(self._process.link_maps))

    def _follow(self) -> None:
        """Look for the places of breakpoints in each object that comes from now on."""
        if self._following:
            return
        self._following = True
        self._process.listen(self._come, ("init",))

    def _come(self, record: Record) -> None:
        event = record.event
        if not isinstance(event, InitStarted):
            return
        maps = [
            m for m in self._process.link_maps if m.display_name == event.name and m.ns == event.namespace
        ]
        for stop, handler in self._pending:
            if stop.active:
                self._place(stop, find_code(self._process, stop.where, maps), handler)

    def _place(
        self, stop: Breakpoint, addresses: list[int], handler: Callable[[Breakpoint], object] | None
    ) -> None:
        for address in addresses:
            if address not in stop.addresses:
                stop.addresses.append(address)
            self._hook(address, partial(self._reached, stop, handler, self._owner(address)))

    def _owner(self, address: int) -> LinkMap | None:
        rtld = self._process.inner.rtld
        return rtld.find_map(address) if rtld is not None else None

    def _reached(
        self,
        stop: Breakpoint,
        handler: Callable[[Breakpoint], object] | None,
        owner: LinkMap | None,
        address: int,
    ) -> None:
        process = self._process
        here = process.inner.thread_pointer(), address
        if self._owner(address) is not owner:
            return  # another object has come in its place, with a hook of its own
        if here in process.place.skip:
            process.place.skip.remove(here)
        elif stop.active:
            process.engine.interrupt(partial(self._handle, stop, handler, here))

    def _handle(
        self, stop: Breakpoint, handler: Callable[[Breakpoint], object] | None, here: tuple[int, int]
    ) -> None:
        stop.hits += 1
        asked: object = _NOTHING
        handling: object = None
        try:
            handling = handler(stop) if handler is not None else None
            if isinstance(handling, Generator):
                asked = next(handling, _NOTHING)
        finally:
            if asked is _NOTHING:
                self._process.place.skip.add(here)
        if isinstance(handling, Generator) and asked is not _NOTHING:
            self._call_from(stop, here, partial(drive, handling, asked))

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

        def trap() -> None:
            rip, number = cpu.trap[16], cpu.trap[0]
            hosted = contract is not None and rip in contract.traps
            name = hosted_name(inner, rip) if hosted else syscall_name(number)
            serve()
            tell(name)
            inner.halt()

        serve = cpu.take_traps(trap)

        def restore() -> None:
            cpu.take_traps(serve)

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
