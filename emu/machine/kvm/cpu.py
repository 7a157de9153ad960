"""The CPU as `emu.machine.engine.Cpu` has it:
the host's own, running the guest in ring 3 of a virtual machine.

An exit tells in the run page where ring 0 stands: at the `hlt` of a vector, with the frame that the CPU has
pushed on its stack. A signal of the host's ends the call too, and finds ring 0 before its `iretq` (nothing
has run), at a `hlt` (an exception is on its way), or ring 3 itself; then the segments must become ring 0's
again before the next `iretq`.

Source: Linux Documentation/virt/kvm/api.rst (KVM_RUN, KVM_CAP_SYNC_REGS); Intel SDM volume 3, 6.
"""

from __future__ import annotations

import errno
import fcntl
import signal
import struct
from _thread import get_ident
from collections.abc import Callable

from emu.core.errors import EmuError
from emu.machine.arena import BUS, PAGE_SIZE, PROT_EXEC, PROT_READ, PROT_WRITE, Arena, physical
from emu.machine.counting import note_counter
from emu.machine.engine import CpuException, Outcome, PageFault, Stopped, TrapHandler, Undo
from emu.machine.features import Features
from emu.machine.handover import Handover
from emu.machine.kvm import ring0, vm
from emu.machine.kvm.beat import KICK, NoLateStop, TrapCounter, catch_kicks
from emu.machine.kvm.cpuid import Shown, features_of, probe, shown_for
from emu.machine.kvm.hooks import TF, KvmHooks
from emu.machine.kvm.pages import PageTables
from emu.machine.kvm.registers import FS, GS, R11, RAX, RCX, RDX, RFLAGS, RIP, RSP
from emu.machine.kvm.ring0 import IRET, IRET_END, IRET_FLUSH, NO_CODE, TOP, TOP_AT, VECTORS, Ring0

_FRAME, _FRAME_WITH_ERROR = struct.Struct("<5Q"), struct.Struct("<6Q")
_FRAME_AT = TOP_AT - _FRAME.size
_REGS = vm.REGS
_USER_CS, _USER_SS = 0x33, 0x2B
_USER_FLAGS, _ALWAYS = 0x25_4DD5, 0x202
_RING0_FLAGS = 2
_RING = 3
_FS_BASE, _GS_BASE = 0xC000_0100, 0xC000_0101
_DEBUG, _BREAKPOINT, _OVERFLOW, _INVALID, _PROTECTION, _PAGE_FAULT = 1, 3, 4, 6, 13, 14
_SYSCALL, _UD2 = b"\x0f\x05", b"\x0f\x0b"
_INT, _RDTSC, _RDTSCP = 0xCD, b"\x0f\x31", b"\x0f\x01\xf9"
_WRITE, _FETCH = 2, 16
_SEGMENTS_TOO = 3
_REGISTERS_ONLY = 1


class KvmCpu(Handover, KvmHooks):
    """One CPU over an arena, of a microarchitecture level (None: the host's).

    Raises EmuError where KVM cannot be used.
    """

    def __init__(self, arena: Arena, level: int | None = None) -> None:
        machine = vm.Vm()
        shown = shown_for(machine.supported_cpuid(), level)
        self._ring0 = Ring0(machine, shown.state_mask, shown.leaves)
        super().__init__(
            machine, arena, PageTables(machine, self._ring0, arena), shown.state_mask, shown.state_size
        )
        self.on_trap: TrapHandler = self._no_handler
        self.is_trap: Callable[[int], bool] = lambda address: False
        self.on_blocks: Callable[[], None] = lambda: None
        self.read_tsc: Callable[[], int] = lambda: 0
        self.counter = TrapCounter(self._counted)
        self.late_stop = NoLateStop()
        self._running = False
        self._thread = 0
        self._loaded = [0, 0]
        self._in_ring3 = False
        self.lstar_entered = False
        """Whether a `syscall` has gone where LSTAR leads:
        EFER.SCE cannot be off, so there is no virtualisation in hardware.
        """
        arena.on_code = self.flush_code
        catch_kicks()
        self.reset_fpu()
        self.shown: Shown = probe(self, shown, level)
        self.features: Features = features_of(self.shown)

    # -- running ---------------------------------------------------------------------------------------------

    def run(self, address: int) -> Outcome:
        """Run from `address` until a fault, an exception or `stop`;
        errors raised by handlers come out here.
        """
        self.words[RIP] = address
        self.stopping = False
        self.vm.run[1] = 0
        self._thread = get_ident()
        while True:
            if self.pending is not None:
                self.end_step()
                pending, self.pending = self.pending, None
                raise pending
            self._running = True
            if self.stopping and self.step is None:
                self._running = False
                return Stopped()
            vector = self._enter()
            if vector is None:
                continue
            outcome = self._exception(vector)
            if outcome is not None:
                self.end_step()
                return outcome

    def _enter(self) -> int | None:
        """Let the guest run; return the vector of the exception that it has met, None
        if the host has stopped it.
        """
        words, machine, pages = self.words, self.vm, self.pages
        if pages.stale:
            pages.refresh()
        loaded = self._loaded
        if words[FS] != loaded[0]:
            machine.set_msr(_FS_BASE, words[FS])
            loaded[0] = words[FS]
        if words[GS] != loaded[1]:
            machine.set_msr(_GS_BASE, words[GS])
            loaded[1] = words[GS]
        flags = words[RFLAGS] & _USER_FLAGS | _ALWAYS
        if self.step is not None:
            flags |= TF
        memory, q = self._ring0.memory, machine.q
        _FRAME.pack_into(memory, _FRAME_AT, words[RIP], _USER_CS, flags, words[RSP], _USER_SS)
        q[_REGS : _REGS + 16] = words[:16]
        q[_REGS + 7] = words[6]  # struct kvm_regs has rsp before rbp
        if pages.flush:
            pages.flush = False
            struct.pack_into("<Q", memory, _FRAME_AT - 8, words[RAX])
            q[_REGS + 6], q[_REGS + 16] = TOP - 48, IRET_FLUSH
        else:
            q[_REGS + 6], q[_REGS + 16] = TOP - 40, IRET
        q[_REGS + 17] = _RING0_FLAGS
        q[vm.DIRTY] = _REGISTERS_ONLY
        if (
            self._in_ring3
        ):  # the run page's segments are loaded, bases included: another thread's may be wanted by now
            q[vm.FS_BASE], q[vm.GS_BASE], q[vm.DIRTY] = words[FS], words[GS], _SEGMENTS_TOO
            self._in_ring3 = False
        try:
            fcntl.ioctl(machine.vcpu, vm.RUN, 0)
        except OSError as error:
            self._running = False
            if error.errno != errno.EINTR:
                raise self._broken(error) from None
            if not self._interrupted():
                return None
        else:
            self._running = False
            if machine.d[vm.EXIT_REASON] != vm.EXIT_HLT:
                raise self._broken(None)
        self.counter.exits += 1
        return q[_REGS + 16] - VECTORS >> 4

    def _interrupted(self) -> bool:
        """A signal of the host's has come. Whether an exception of the guest's is on its way all the same."""
        machine, q = self.vm, self.vm.q
        machine.run[1] = 0
        rip = q[_REGS + 16]
        if VECTORS <= rip < IRET:
            return True
        if not IRET <= rip < IRET_END:  # else nothing has run: the registers are those that we have
            words = self.words
            words[:16] = q[_REGS : _REGS + 16]
            words[6], words[RSP] = q[_REGS + 7], q[_REGS + 6]
            words[RIP], words[RFLAGS] = rip, q[_REGS + 17]
            self._take_bases()
            if self.step is not None and not self.step.own:
                words[RFLAGS] &= ~TF
            code, stack = self._ring0.kernel_segments
            at = vm.SREGS_AT
            machine.run[at : at + 24], machine.run[at + 120 : at + 144] = code, stack
            self._in_ring3 = True
        self.counter.interrupted()
        return False

    def _take_bases(self) -> None:
        q, words = self.vm.q, self.words
        words[FS] = self._loaded[0] = q[vm.FS_BASE]
        words[GS] = self._loaded[1] = q[vm.GS_BASE]

    def _broken(self, error: OSError | None) -> EmuError:
        if error is None:
            reason, rip = self.vm.d[vm.EXIT_REASON], self.vm.q[_REGS + 16]
            return EmuError(
                f"--engine kvm: KVM stopped with exit {reason} at {rip:#x}; --engine unicorn needs no KVM"
            )
        if error.errno == errno.EFAULT:
            return EmuError(
                "--engine kvm: memory of the program is gone, perhaps of a file that has become shorter"
            )
        return vm.failure(error.errno or 0, "KVM_RUN")

    # -- exceptions ------------------------------------------------------------------------------------------

    def _exception(self, vector: int) -> Outcome | None:
        """Take the guest's registers after an exception and see what it is; None if the guest goes on."""
        words, q, memory = self.words, self.vm.q, self._ring0.memory
        if vector in ring0.WITH_ERROR:
            error, rip, cs, flags, rsp, _ = _FRAME_WITH_ERROR.unpack_from(memory, _FRAME_AT - 8)
        else:
            error = 0
            rip, cs, flags, rsp, _ = _FRAME.unpack_from(memory, _FRAME_AT)
        if not cs & _RING:
            return CpuException(_PROTECTION)  # `iretq` itself, to an address that is none
        words[:16] = q[_REGS : _REGS + 16]
        words[6], words[RSP] = q[_REGS + 7], rsp
        self._take_bases()
        step = self.step
        words[RIP], words[RFLAGS] = rip, flags & ~TF if step is not None and not step.own else flags
        if vector == _PAGE_FAULT:
            return self._page_fault(error, rip)
        code = self._code(rip, 3)
        if vector == _INVALID:
            if code[:2] == _SYSCALL or code[:2] == _UD2 and self.is_trap(rip):
                self._serve()
                return None
            if (
                code[:1] and code[0] == _INT
            ):  # a host without virtualisation in hardware takes INT n for no instruction
                return self._int(code[1], rip)
        elif vector == _DEBUG:
            if step is not None:
                words[RFLAGS] = flags if step.first in (0x9D, 0xCF) else words[RFLAGS]
                if self.stepped():
                    return None
        elif vector == _BREAKPOINT and self.hooked(rip - 1):
            self.hit(rip - 1)
            return None
        elif vector == _PROTECTION and (code[:2] == _RDTSC or code == _RDTSCP):
            self._read_clock(code)
            return None
        return CpuException(vector, error)

    def _int(self, number: int, rip: int) -> CpuException:
        if number in (_BREAKPOINT, _OVERFLOW):
            self.words[RIP] = rip + 2
            return CpuException(number)
        return CpuException(_PROTECTION, number << 3 | 2)

    def _page_fault(self, error: int, rip: int) -> Outcome | None:
        """The tables have no such entry: they are a cache of the arena's permissions, which decide."""
        words = self.words
        if rip == NO_CODE and self._code(words[RCX] - 2, 2) == _SYSCALL:
            self.lstar_entered = True
            step = self.step
            words[RIP], flags = words[RCX] - 2, words[R11]
            words[RFLAGS] = flags & ~TF if step is not None and not step.own else flags
            self._serve()
            return None
        address: int = self.vm.q[vm.CR2]
        at = physical(address)
        allowed = self.arena.perm(at >> 12) if at >= 0 else 0
        fetch, write = bool(error & _FETCH), bool(error & _WRITE)
        wanted = PROT_EXEC if fetch else PROT_WRITE if write else PROT_READ | PROT_WRITE | PROT_EXEC
        if allowed & wanted and not allowed & BUS:
            if self.watched_access(address, fetch=fetch, write=write) or self.pages.enter(address):
                return None
            access = "execute" if fetch else "write" if write else "read"
            return PageFault(address & -PAGE_SIZE, access, True, False, address, exhausted=True)
        access = "execute" if fetch else "write" if write else "read"
        return PageFault(address & -PAGE_SIZE, access, bool(allowed), bool(allowed & BUS), address)

    def _serve(self) -> None:
        """Serve a trap."""
        self.end_step()
        self.in_trap = True
        try:
            self.on_trap()
        except BaseException as error:
            self.abandon(error)
        self.in_trap = False
        self.words[RIP] += 2
        self.counter.trapped()

    def _counted(self) -> None:
        try:
            self.on_blocks()
        except BaseException as error:
            self.abandon(error)

    def _code(self, address: int, size: int) -> bytes:
        at = physical(address)
        return self.arena.mapping[at : at + size] if at >= 0 else b""

    def _read_clock(self, code: bytes) -> None:
        """RDTSC and RDTSCP are not allowed in ring 3: answer them."""
        value, words = self.read_tsc(), self.words
        words[RAX], words[RDX] = value & 0xFFFFFFFF, value >> 32 & 0xFFFFFFFF
        if code[:2] == _RDTSC:
            words[RIP] += 2
        else:
            words[RCX] = 0
            words[RIP] += 3

    # -- what callers ask ------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Make `run` return as soon as possible; may be called from another host thread."""
        self.stopping = True
        if self._running and get_ident() != self._thread:
            self.vm.run[1] = 1  # a signal that comes before the call is none too early
            signal.pthread_kill(self._thread, KICK)

    def range_changes(self, start: int, end: int, had_exec: bool) -> None:
        """Drop what the tables know of a range before it changes."""
        self.pages.range_changes(start, end)

    def before_change(self, start: int, end: int, had_exec: bool) -> None:
        """As `range_changes`: the tables have entries for pages that nobody has accessed, too."""
        self.range_changes(start, end, had_exec)

    def permissions_replaced(self) -> None:
        """Begin with empty tables."""
        self.pages.reset()

    def watch_shared(self, callback: Callable[[int, int], None]) -> None:
        """Nothing: no translated code can become stale."""

    def flush_code(self, address: int, size: int) -> None:
        """Show code that the host has written in copies of its pages; the CPU itself sees it."""
        self.pages.code_changes(address, address + size)

    def note(self) -> Undo:
        """Return what puts the registers, and how traps are counted, back."""
        context, count_again = self.save(), note_counter(self.counter)

        def undo() -> None:
            self.pending = None
            self.end_step()
            self.restore(context)
            count_again()

        return undo

    def close(self) -> None:
        """Give the virtual machine back, and the guest's memory."""
        self.counter.remove()
        self.vm.close()
        self.arena.close()
