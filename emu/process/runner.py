"""The runner: interprets effects. The only place where hosted functions, system calls and the CPU meet.

At a trap the program counter says what is asked: a hosted function, the return of a guest function that a hosted one called, or
a system call. A hosted function's guest frame is just its caller's return address; to call the guest, the runner puts the target and
a return stub below it and lets the stub's `ret` go there. Frames are found again by the stack pointer with which the guest comes back, so one
that was jumped out of (longjmp, an exception, another context) is simply never asked for again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.core.effects import CallGuest, Exit, Hosted, Jump, RegistersSet, SystemCall
from emu.core.errors import ElfError, LoaderError, MemoryFault
from emu.glibc.call import Call
from emu.kernel.timers import NEVER
from emu.machine import regs
from emu.machine.cpu import BLOCKS_PER_CALL

if TYPE_CHECKING:
    from emu.glibc.contract import Contract
    from emu.kernel.kernel import Kernel
    from emu.kernel.signals import Killed
    from emu.kernel.task import Task
    from emu.machine.cpu import Context, Cpu

_M64 = (1 << 64) - 1
_RAX, _RCX, _RDX, _RSI, _RDI, _RSP, _R8, _R9, _R10, _RIP, _RFLAGS = 0, 2, 3, 4, 5, 7, 8, 9, 10, 16, 17
_CALL_REGS = (regs.RSP, regs.RAX, regs.RDI, regs.RSI, regs.RDX, regs.RCX, regs.R8, regs.R9)
_NS_PER_BLOCK = 5
"""What a basic block costs in virtual time, where blocks are counted."""
_SIGSEGV, _SEGV_MAPERR = 11, 1


class _Frame:
    """A hosted function in progress. `entry` is its trap, `rsp` the stack pointer there (at the caller's return address)."""

    __slots__ = ("back", "context", "entry", "generator", "preserve", "rsp")

    def __init__(self, generator: Hosted, entry: int, rsp: int, back: int, preserve: bool) -> None:
        self.generator, self.entry, self.rsp, self.back, self.preserve = generator, entry, rsp, back, preserve
        self.context: Context | None = None


class Runner:
    """Serves the traps of one process. `ended` becomes the Exit or Killed that ends it."""

    def __init__(self, cpu: Cpu, kernel: Kernel, task: Task, contract: Contract | None) -> None:
        self.cpu, self.kernel, self.task, self.contract = cpu, kernel, task, contract
        self.ended: Exit | Killed | None = None
        self.counting = False
        self._frames: dict[int, _Frame] = {}
        self._handlers = contract.traps if contract is not None else {}
        self._returns: set[int] = set()
        if contract is not None:
            stubs = contract.stubs
            self._returns = {stubs.return_call, stubs.return_plt, stubs.return_start}
        self._calls = cpu.batch(_CALL_REGS)
        self._stack = cpu.batch((regs.RSP, regs.RAX))
        self._result = cpu.batch((regs.RAX, regs.RCX, regs.R11))
        cpu.on_trap = self.on_trap

    def on_trap(self) -> None:
        """Serve one `syscall` instruction; `cpu.trap` holds the registers."""
        trap = self.cpu.trap
        rip = trap[_RIP]
        handler = self._handlers.get(rip)
        if handler is not None:
            assert self.contract is not None
            args = (trap[_RDI], trap[_RSI], trap[_RDX], trap[_RCX], trap[_R8], trap[_R9])
            rsp = trap[_RSP]
            try:
                result = handler(self.contract, Call(args, rsp, trap[_RAX]))
                if isinstance(result, int):
                    self.cpu.set(regs.RAX, result & _M64)
                else:
                    self._advance(_Frame(result, rip, rsp, *self._kind(rip)), None)
            except MemoryFault as fault:
                self._segfault(fault)
        elif rip in self._returns:
            frame = self._frames.pop(trap[_RSP])
            try:
                self._advance(frame, trap[_RAX])
            except MemoryFault as fault:
                self._segfault(fault)
        else:
            self._syscall(trap, rip)

    def hosted_entry(self, rsp: int) -> int | None:
        """Return where the hosted function was entered whose caller's return address lies at `rsp`, if one waits for the guest there."""
        return next((frame.entry for frame in self._frames.values() if frame.rsp == rsp), None)

    def keep_time(self) -> None:
        """While a timer is armed, let virtual time pass with the blocks executed, so that a program that spins gets its signal."""
        armed = self.kernel.timers.next_expiry < NEVER
        if armed is not self.counting:
            self.counting = armed
            self.cpu.count_blocks(self._on_work if armed else None)

    def _on_work(self) -> None:
        kernel = self.kernel
        kernel.clock.advance(BLOCKS_PER_CALL * _NS_PER_BLOCK)
        if kernel.clock.now >= kernel.timers.next_expiry:
            kernel.timers.expire()
            if kernel.signal_pending:
                self.cpu.stop()

    def _kind(self, rip: int) -> tuple[int, bool]:
        """Return the stub that a guest function called from the hosted one at `rip` returns to, and whether all registers are kept."""
        assert self.contract is not None
        stubs = self.contract.stubs
        if rip == self.contract.start_stub:
            return stubs.return_start, False
        preserve = rip in self.contract.preserving
        return (stubs.return_plt if preserve else stubs.return_call), preserve

    def _syscall(self, trap: memoryview, rip: int) -> None:
        args = (trap[_RDI], trap[_RSI], trap[_RDX], trap[_R10], trap[_R8], trap[_R9])
        flags = trap[_RFLAGS]
        kernel = self.kernel
        result = kernel.syscall(self.task, self.cpu, trap[_RAX], args)
        if isinstance(result, int):
            values = self._result.values
            values[0], values[1], values[2] = result & _M64, rip + 2, flags
            self._result.write()
        elif not isinstance(result, RegistersSet):
            self._end(result)
            return
        if (kernel.timers.next_expiry < NEVER) is not self.counting:
            self.cpu.stop()  # a timer was armed or is gone: the process changes how time passes
        if kernel.signal_pending:
            killed = kernel.deliver_signals(self.task, self.cpu)
            if killed is not None:
                self._end(killed)

    def _end(self, outcome: Exit | Killed) -> None:
        self.ended = outcome
        self.cpu.stop()

    def _segfault(self, fault: MemoryFault) -> None:
        """The hosted function touched memory that the guest does not have: the fault is the guest's."""
        killed = self.kernel.fault(self.task, self.cpu, _SIGSEGV, _SEGV_MAPERR, fault.address, 14, 6)
        if killed is not None:
            self._end(killed)

    def _advance(self, frame: _Frame, value: int | None) -> None:
        """Resume a hosted function with the result of its last effect, up to its next call of the guest or its end."""
        generator = frame.generator
        while True:
            try:
                effect = generator.send(value)  # type: ignore[arg-type]
            except StopIteration as stop:
                self._leave(frame, stop.value)
                return
            except (LoaderError, ElfError) as error:
                contract = self.contract
                if contract is None or not contract.rtld.started:
                    raise
                if isinstance(error, ElfError):
                    error = LoaderError(error.object_name, error.reason)
                frame.generator = generator = contract.errors.signal(error)
                value = None
                continue
            if isinstance(effect, CallGuest):
                self._call(frame, effect)
                return
            if isinstance(effect, SystemCall):
                result = self.kernel.syscall(
                    self.task, self.cpu, effect.number, (*effect.args, 0, 0, 0, 0, 0, 0)[:6]
                )
                value = result if isinstance(result, int) else 0
                continue
            generator.close()
            self._jump(frame, effect)
            return

    def _leave(self, frame: _Frame, result: int) -> None:
        if frame.context is not None:
            self.cpu.restore(frame.context)
        values = self._stack.values
        values[0], values[1] = frame.rsp, result & _M64
        self._stack.write()

    def _call(self, frame: _Frame, effect: CallGuest) -> None:
        if frame.preserve and frame.context is None:
            frame.context = self.cpu.save()
        slot = (frame.rsp - 8 & -16) - 8  # the callee finds its return address here, aligned as after a call
        arena = self.kernel.arena
        arena.write_u64(slot, frame.back)
        arena.write_u64(slot - 8, effect.address)
        values = self._calls.values
        values[0], values[1] = slot - 8, 0
        args = effect.args
        for index in range(6):
            values[2 + index] = args[index] & _M64 if index < len(args) else 0
        self._calls.write()
        abandoned = self._frames.get(slot + 8)
        self._frames[slot + 8] = frame
        if abandoned is not None:
            abandoned.generator.close()

    def _jump(self, frame: _Frame, effect: Jump) -> None:
        if frame.context is not None:
            self.cpu.restore(frame.context)
        top = frame.rsp + effect.pop - 8
        self.kernel.arena.write_u64(top, effect.address)
        for register, value in zip((regs.RDI, regs.RSI, regs.RDX, regs.RCX), effect.args, strict=False):
            self.cpu.set(register, value)
        self.cpu.set(regs.RSP, top)
