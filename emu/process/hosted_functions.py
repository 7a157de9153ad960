"""Hosted functions in progress: their effects, their calls of the guest, their own system calls.

A hosted function's guest frame is just its caller's return address; to call the guest, the target and a
return stub are put below it, and the stub's `ret` goes there. Frames are found again by the stack pointer
with which the guest comes back, so one that was jumped out of (longjmp, an exception, another context) is
simply never asked for again.
"""

from __future__ import annotations

from struct import Struct
from types import GeneratorType
from typing import TYPE_CHECKING, cast

from emu.core.effects import CallGuest, Jump, Pause, Resume, SystemCall
from emu.core.errors import ElfError, LoaderError
from emu.kernel.dispatch import syscall
from emu.kernel.run.block import Blocked
from emu.kernel.run.signal_info import clean_mask
from emu.machine import regs
from emu.process.frame import Frame

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.glibc.contract import Contract
    from emu.kernel.kernel import Kernel
    from emu.kernel.run.task import Task
    from emu.machine.engine import Context, Cpu
    from emu.process.process import Process

_M64 = (1 << 64) - 1
_AUDIT_ROOM = 16
_PAIR = Struct("<QQ")
_NO_ARGUMENTS = (0,) * 6
_CALL_REGS = (regs.RSP, regs.RAX, regs.RDI, regs.RSI, regs.RDX, regs.RCX, regs.R8, regs.R9)


_GLIBC_NAMES = {
    "start": "_dl_start", "fini": "_dl_fini", "resolve": "_dl_runtime_resolve", "operate": "_dl_catch_exception",
    "profile": "_dl_profile_fixup", "pltexit": "_dl_audit_pltexit",
}  # fmt: skip
"""What the linker's own stubs stand for."""


def hosted_name(process: Process, trap: int) -> str:
    """Return the name of the hosted function at a trap, the one that it has in glibc."""
    planted = process.contract.pointer_stubs if process.contract is not None else {}
    purpose = next((name for name, address in planted.items() if address == trap), "")
    found = _GLIBC_NAMES.get(purpose, purpose) or process.symbols.function(trap)
    return found or f"hosted function at {trap:#x}"


class HostedFunctions:
    """The hosted functions of one process. `task` is the one that runs."""

    def __init__(self, cpu: Cpu, kernel: Kernel, contract: Contract | None) -> None:
        self.cpu, self.kernel, self.contract = cpu, kernel, contract
        self.task = kernel.scheduler.current
        self._frames: dict[int, Frame] = {}
        self._waiting: dict[Task, tuple[Frame, int]] = {}
        self._paused: tuple[Frame, int] | None = None
        self._calls = cpu.batch(_CALL_REGS)
        self._stack = cpu.batch((regs.RSP, regs.RAX))

    def standing(self) -> Iterator[Frame]:
        """Yield the hosted functions that have paused, or wait in a system call of their own."""
        if self._paused is not None:
            yield self._paused[0]
        for frame, _ in self._waiting.values():
            yield frame

    def calling(self) -> Iterator[Frame]:
        """Yield the hosted functions that wait for a guest function to return, those
        that were jumped out of included.
        """
        yield from self._frames.values()

    def adopt(self, frames: dict[int, Frame]) -> None:
        """Have frames, by the stack pointers with which the guest comes back to them:
        those of a process that was forked.
        """
        self._frames.update(frames)

    def frames_of(self, task: Task) -> dict[int, Frame]:
        """Return a thread's frames, by the stack pointers with which the guest comes back to them."""
        return {rsp: frame for rsp, frame in self._frames.items() if frame.task is task}

    def hosted_entry(self, rsp: int) -> int | None:
        """Return where the hosted function was entered whose caller's return address lies at `rsp`, if one
        waits for the guest there.
        """
        return next((frame.entry for frame in self._frames.values() if frame.rsp == rsp), None)

    def entry_of(self, rsp: int) -> int | None:
        """Return where the hosted function was entered to which a guest function
        returns with the stack pointer `rsp`.
        """
        frame = self._frames.get(rsp)
        return frame.entry if frame is not None else None

    def hosted_work(self, rsp: int) -> list[str]:
        """Return the names of the generators that are in progress in the hosted function at `rsp` (see
        `hosted_entry`), the outermost first.
        """
        work: object = next((frame.generator for frame in self._frames.values() if frame.rsp == rsp), None)
        names = []
        while isinstance(work, GeneratorType):
            names.append(work.__name__)
            work = work.gi_yieldfrom
        return names

    def _kind(self, rip: int) -> tuple[int, bool, int]:
        """Return the stub that a guest function called from the hosted one at `rip` returns to, whether all
        registers are kept, and the room for arguments on the stack. (Each stub has its own distance to the
        frame above it.)
        """
        assert self.contract is not None
        stubs = self.contract.stubs
        if rip == self.contract.start_stub:
            return stubs.return_start, False, 0
        if rip in self.contract.auditing:
            return stubs.return_plt, False, _AUDIT_ROOM
        preserve = rip in self.contract.preserving
        return (stubs.return_plt if preserve else stubs.return_call), preserve, 0

    def _advance(self, frame: Frame, value: int | None) -> bool:
        """Resume a hosted function with the result of its last effect, up to its next call of the guest or
        its end; true if it waits in a system call.
        """
        generator = frame.generator
        while True:
            try:
                effect = generator.send(value)  # type: ignore[arg-type]
            except StopIteration as stop:
                self._leave(frame, stop.value)
                return False
            except (LoaderError, ElfError) as error:
                contract = self.contract
                if contract is None or not contract.rtld.started or frame.entry == contract.start_stub:
                    raise
                if isinstance(error, ElfError):
                    error = LoaderError(error.object_name, error.reason)
                frame.generator = generator = contract.errors.signal(error)
                value = None
                continue
            if isinstance(effect, CallGuest):
                self._call(frame, effect)
                return False
            if isinstance(effect, SystemCall):
                result = self._own_call(frame, effect)
                if isinstance(result, Blocked):
                    return True
                value = result
                continue
            if isinstance(effect, Pause):
                # A handler could not return into the hosted function: signals wait until it goes on.
                self._paused = frame, self.task.mask
                self.kernel.signals.set_mask(self.task, clean_mask(_M64))
                self.cpu.stop()
                return False
            generator.close()
            if isinstance(effect, Resume):
                self.cpu.restore(cast("Context", effect.context))
            else:
                self._jump(frame, effect)
            return False

    def _own_call(self, frame: Frame, effect: SystemCall) -> int | Blocked:
        """Make a hosted function's system call.

        No signal comes between: a handler could not return into it.
        """
        task, signals = self.task, self.kernel.signals
        mask = task.mask
        signals.set_mask(task, clean_mask(_M64))
        result = syscall(self.kernel, task, self.cpu, effect.number, (*effect.args, 0, 0, 0, 0, 0, 0)[:6])
        if isinstance(result, Blocked):
            self._waiting[task] = (frame, mask)
            return result
        signals.set_mask(task, mask)
        return result if isinstance(result, int) else 0

    def _leave(self, frame: Frame, result: int) -> None:
        if frame.context is not None:
            self.cpu.restore(frame.context)
        values = self._stack.values
        values[0], values[1] = frame.rsp, result & _M64
        self._stack.write()

    def _call(self, frame: Frame, effect: CallGuest) -> None:
        if frame.preserve and frame.context is None:
            frame.context = self.cpu.save()
        # The callee finds its return address here, aligned as after a call, and its arguments beyond the
        # sixth above it.
        slot = (frame.rsp - 8 - frame.room & -16) - 8
        arena = self.kernel.arena
        for place, argument in enumerate(effect.args[6:], 1):
            arena.write_u64(slot + 8 * place, argument & _M64)
        _PAIR.pack_into(arena.bytes, arena.offset(slot - 8, 16), effect.address, frame.back)
        values = self._calls.values
        values[0], values[1] = slot - 8, 0
        for index, argument in enumerate((*effect.args, *_NO_ARGUMENTS)[:6], 2):
            values[index] = argument & _M64
        self._calls.write()
        abandoned = self._frames.get(slot + 8)
        self._frames[slot + 8] = frame
        if abandoned is not None:
            abandoned.generator.close()

    def _jump(self, frame: Frame, effect: Jump) -> None:
        if frame.context is not None:
            self.cpu.restore(frame.context)
        top = frame.rsp + effect.pop - 8
        self.kernel.arena.write_u64(top, effect.address)
        for register, value in zip((regs.RDI, regs.RSI, regs.RDX, regs.RCX), effect.args, strict=False):
            self.cpu.set(register, value)
        self.cpu.set(regs.RSP, top)
