"""The registers of Unicorn's CPU, one by one, in batches and as contexts.

In a trap, which is a hook before the `syscall`, Unicorn's RIP is still at that instruction; callers see the
one behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from ctypes import c_void_p
from typing import TYPE_CHECKING, cast

from emu.machine import regs
from emu.machine.binding import RegisterBatch, Unicorn
from emu.machine.engine import Noted, Undo
from emu.machine.xstate import FXSAVE_SIZE, INITIAL_FXSAVE, load_fxsave, store_fxsave

if TYPE_CHECKING:
    from emu.machine.engine import Context as AnyContext
    from emu.machine.ring3 import HiddenState


class Context(Noted):
    """All registers of a guest thread, as Unicorn saves them;
    `in_trap` tells that RIP is still at the `syscall`.
    """

    __slots__ = ("handle", "in_trap", "_engine")

    def __init__(self, engine: Unicorn, in_trap: bool) -> None:
        self._engine = engine
        self.in_trap = in_trap
        self.handle = c_void_p()
        self.handle = engine.context_alloc()

    def __del__(self) -> None:
        if self.handle:
            self._engine.context_free(self.handle)

    def state(self) -> memoryview:
        """Return the CPU's whole state as Unicorn keeps it, to read and to change.

        As long as there is the view, there is the context.
        """
        return self._engine.context_view(self.handle, self)

    def note(self) -> Undo:
        """Return what puts the present registers back."""
        in_trap, state = self.in_trap, bytes(self.state())

        def undo() -> None:
            self.in_trap = in_trap
            self.state()[:] = state

        return undo


class Registers(Noted):
    """The part of `UnicornCpu` that is about registers; see `emu.machine.engine.Cpu`."""

    def __init__(self, engine: Unicorn) -> None:
        self.engine = engine
        self._all = RegisterBatch(engine, regs.GPRS)
        self.trap = self._all.values
        self._one: dict[int, RegisterBatch] = {}
        self._thread = RegisterBatch(engine, (regs.RAX, regs.RCX, regs.R11, regs.RSP, regs.FS_BASE))
        self.in_trap = False
        self.hidden: HiddenState | None = None

    def get(self, register: int) -> int:
        """Return a 64-bit register."""
        batch = self._batch(register)
        batch.read()
        value = batch.values[0]
        return value + 2 if self.in_trap and register == regs.RIP else value

    def set(self, register: int, value: int) -> None:
        """Store a 64-bit register. Setting RIP in a trap makes the guest go on there."""
        if self.in_trap and register == regs.RIP:
            value -= 2  # Unicorn adds the length of `syscall` after the hook
        batch = self._batch(register)
        batch.values[0] = value & 0xFFFF_FFFF_FFFF_FFFF
        batch.write()

    def _batch(self, register: int) -> RegisterBatch:
        batch = self._one.get(register)
        if batch is None:
            batch = self._one[register] = RegisterBatch(self.engine, (register,))
        return batch

    def batch(self, registers: tuple[int, ...]) -> RegisterBatch:
        """Return a batch over `registers` for repeated use."""
        return RegisterBatch(self.engine, registers)

    def gprs(self) -> list[int]:
        """Return the registers in the order of `regs.GPRS`."""
        self._all.read()
        values = list(self.trap)
        if self.in_trap:
            values[16] += 2
        return values

    def gprs_of(self, context: AnyContext) -> list[int]:
        """Return the registers of a thread that does not run, in the order of `regs.GPRS`;
        in a trap RIP is at the `syscall`.
        """
        batch = self.batch(regs.GPRS)
        batch.read_saved(context)
        return list(batch.values)

    def set_gprs(self, values: list[int]) -> None:
        """Load the registers in the order of `regs.GPRS`."""
        for index, value in enumerate(values):
            self.trap[index] = value & 0xFFFF_FFFF_FFFF_FFFF
        if self.in_trap:
            self.trap[16] = (values[16] - 2) & 0xFFFF_FFFF_FFFF_FFFF
        self._all.write()

    def reset_fpu(self) -> None:
        """Give x87 and SSE the state in which Linux starts a program and each signal handler."""
        self.fxrstor(INITIAL_FXSAVE)

    def fxsave(self) -> bytes:
        """Return the x87 and SSE state as a 512-byte FXSAVE64 image."""
        if self.hidden is not None:
            self.hidden.gather_sse_flags()
        return store_fxsave(self.engine)

    def fxrstor(self, image: bytes) -> None:
        """Load the x87 and SSE state from a 512-byte FXSAVE64 image."""
        if self.hidden is not None:
            self.hidden.clear_sse_flags()
        load_fxsave(self.engine, image)

    def signal_state(self) -> bytes:
        """Return the x87 and SSE state as it lies in a signal's frame: a plain FXSAVE image."""
        return self.fxsave()

    def load_signal_state(self, read: Callable[[int, int], bytes]) -> None:
        """Load the x87 and SSE state from a signal's frame."""
        self.fxrstor(read(0, FXSAVE_SIZE))

    def save(self, into: AnyContext | None = None) -> Context:
        """Return a copy of all registers, in `into` if given."""
        context = Context(self.engine, self.in_trap) if into is None else cast("Context", into)
        context.in_trap = self.in_trap
        self.engine.context_save(context.handle)
        return context

    def restore(self, context: AnyContext) -> None:
        """Load all registers from `context`; in or out of a trap, the CPU goes
        on where it would have then.
        """
        self.engine.context_restore(cast("Context", context).handle)
        if self.hidden is not None:
            self.hidden.registers_replaced()
        if context.in_trap is not self.in_trap:
            rip = self._peek(regs.RIP)
            self._raw_set(regs.RIP, rip + 2 if context.in_trap else rip - 2)

    def fork(self, stack: int | None, fs_base: int | None) -> Context:
        """Return the registers of a new thread: at a trap, those of the running one as `syscall` leaves them,
        with 0 in rax and another stack pointer and fs base where given.
        """
        batch = self._thread
        values = batch.values
        batch.read()
        old = tuple(values)
        values[0], values[1], values[2] = 0, self.trap[16] + 2, self.trap[17]
        if stack is not None:
            values[3] = stack
        if fs_base is not None:
            values[4] = fs_base
        batch.write()
        context = self.save()
        for index, value in enumerate(old):
            values[index] = value
        batch.write()
        return context

    def _peek(self, register: int) -> int:
        batch = self._batch(register)
        batch.read()
        return batch.values[0]

    def _raw_set(self, register: int, value: int) -> None:
        batch = self._batch(register)
        batch.values[0] = value
        batch.write()
