"""The CPU: Unicorn behind a small face. Runs the guest from trap to trap and answers its TLB misses.

A trap is a `syscall` instruction. The handler given to `run` is called inside Unicorn's hook with the registers read in one batch; what
it does to the registers is what the guest goes on with, so most traps never leave Unicorn. Nothing ever runs guest code from inside a hook.

One piece: hooks, registers and runs share what is known of the present trap.

Unicorn runs some instructions wrong, VEX.128 as its destructive SSE form for one: each newly translated block is scanned (once, not each
time that it runs) for them, see `emu.machine.scan` and `emu.machine.special`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, NamedTuple

from emu.machine import binding, regs
from emu.machine.answers import answer_instructions
from emu.machine.arena import BUS, PROT_EXEC, PROT_READ, PROT_WRITE, SHARED, Arena, physical
from emu.machine.binding import RegisterBatch, TlbEntry, Unicorn
from emu.machine.counter import BlockCounter
from emu.machine.ring3 import HiddenState, enter_ring3
from emu.machine.special import Specials
from emu.machine.xstate import INITIAL_FXSAVE, load_fxsave, store_fxsave

_FETCH, _WRITE = binding.UC_MEM_FETCH, binding.UC_MEM_WRITE
_FIRST_FLUSH = 2000
_BLOCKS_KEPT = 20_000
"""Translated blocks after which the next removal of code throws all of them away: Unicorn gets no single block's memory back."""


class PageFault(NamedTuple):
    """The guest touched a page that it may not. `page` is the page's address, `access` is read, write or execute.

    `mapped` tells a protection fault from an unmapped page, `bus` an access past the end of a mapped file.
    """

    page: int
    access: str
    mapped: bool
    bus: bool


class CpuException(NamedTuple):
    """The guest raised exception `vector` (0 divide error, 3 breakpoint, 4 overflow, 6 invalid opcode, 13 protection, 16/19 floating point).

    `error` is the error code that the CPU gives with it.
    """

    vector: int
    error: int = 0


class Stopped(NamedTuple):
    """The run ended because `Cpu.stop` was called."""


_CONTRIBUTORY = frozenset((0, 10, 11, 12, 13))
"""Exceptions that Unicorn keeps as being in flight for ever: the next one would become a double fault."""

Outcome = PageFault | CpuException | Stopped
TrapHandler = Callable[[], None]


class Context:
    """All registers of a guest thread, as Unicorn saves them; `in_trap` tells that RIP is still at the `syscall`."""

    __slots__ = ("handle", "in_trap", "_engine")

    def __init__(self, engine: Unicorn, in_trap: bool) -> None:
        self._engine = engine
        self.in_trap = in_trap
        self.handle = engine.context_alloc()

    def __del__(self) -> None:
        self._engine.context_free(self.handle)

    def state(self) -> memoryview:
        """Return the CPU's whole state as Unicorn keeps it, to read and to change."""
        return self._engine.context_view(self.handle)


class Cpu:
    """One CPU over an arena.

    `trap` holds the registers at a trap in the order of `regs.GPRS`; `get` and `set` read and write single ones. In a
    trap RIP is already the instruction after the `syscall`.
    """

    def __init__(self, arena: Arena) -> None:
        self.arena = arena
        self.engine = Unicorn()
        self.engine.map_host_memory(0, len(arena.mapping), arena.host_base)
        self.engine.use_virtual_tlb()
        self._all = RegisterBatch(self.engine, regs.GPRS)
        self.trap = self._all.values
        self._one: dict[int, RegisterBatch] = {}
        self.in_trap = False
        self.on_trap: TrapHandler = self._no_handler
        self.read_tsc: Callable[[], int] = lambda: 0
        self.pending: BaseException | None = None
        self._fault: tuple[int, int] | None = None
        self._exception: CpuException | None = None
        self._stop = False
        self._force_fetch = False
        self.tlb_misses = 0
        self._flush_at = _FIRST_FLUSH
        self._want_flush = self._want_retranslation = False
        self.blocks = self._blocks_at_flush = 0
        self._specials = Specials(self)
        self.on_blocks: Callable[[], None] = lambda: None
        self.counter = BlockCounter(self.engine, self._blocks_counted)
        self._thread = RegisterBatch(self.engine, (regs.RAX, regs.RCX, regs.R11, regs.RSP, regs.FS_BASE))
        self._install_hooks()
        self.on_shared: Callable[[int, int], None] = lambda page, granted: None
        arena.on_code = self.flush_code
        self.hidden: HiddenState | None = None
        self.reset_fpu()
        self.hidden = enter_ring3(self)
        self.blocks = self.tlb_misses = 0

    def _no_handler(self) -> None:
        raise RuntimeError("no trap handler")

    # -- registers ------------------------------------------------------------------------------------------------

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

    def gprs_of(self, context: Context) -> list[int]:
        """Return the registers of a thread that does not run, in the order of `regs.GPRS`; in a trap RIP is at the `syscall`."""
        batch = self.batch(regs.GPRS)
        batch.read_saved(context.handle)
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

    def save(self, into: Context | None = None) -> Context:
        """Return a copy of all registers, in `into` if given."""
        context = Context(self.engine, self.in_trap) if into is None else into
        context.in_trap = self.in_trap
        self.engine.context_save(context.handle)
        return context

    def restore(self, context: Context) -> None:
        """Load all registers from `context`; in or out of a trap, the CPU goes on where it would have then."""
        self.engine.context_restore(context.handle)
        if self.hidden is not None:
            self.hidden.registers_replaced()
        if context.in_trap is not self.in_trap:
            rip = self._peek(regs.RIP)
            self._raw_set(regs.RIP, rip + 2 if context.in_trap else rip - 2)

    def fork(self, stack: int | None, fs_base: int | None) -> Context:
        """Return the registers of a new thread: at a trap, those of the running one as `syscall` leaves them, with 0 in rax
        and another stack pointer and fs base where given.
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

    # -- running --------------------------------------------------------------------------------------------------

    def run(self, address: int) -> Outcome:
        """Run from `address` until a fault, an exception or `stop`; errors raised by handlers come out here.

        On return RIP is where the guest would go on. Raises UnsupportedError for an instruction that cannot run right.
        """
        while True:
            self._fault = self._exception = None
            self._stop = False
            error = self.engine.emu_start(self.engine.handle, address, 0, 0, 0)
            self.in_trap = False
            if self.pending is not None:
                pending, self.pending = self.pending, None
                raise pending
            if self._exception is not None:
                if self.hidden is not None and self._exception.vector in _CONTRIBUTORY:
                    self.hidden.forget_exception()
                return self._exception
            if self._specials.waiting:
                self._specials.plant()
                if not self._stop:
                    address = self.get(regs.RIP)
                    continue
            if error == binding.UC_ERR_INSN_INVALID:
                return CpuException(6)
            if error and self._fault is not None:
                page, kind = self._fault
                at = physical(page)
                perms = self.arena.perms[at >> 12] if at >= 0 else 0
                access = "execute" if kind == _FETCH else "write" if kind == _WRITE else "read"
                return PageFault(page, access, bool(perms), bool(perms & BUS))
            if error:
                raise RuntimeError(
                    f"unicorn stopped at {self.get(regs.RIP):#x}: {self.engine.strerror(error)}"
                )
            if self._want_flush or self._want_retranslation:
                if self._want_retranslation:
                    self.engine.flush_blocks()
                self._want_flush = self._want_retranslation = False
                self.engine.flush_tlb()  # the TLB grows only when it is flushed
                if not self._stop:
                    address = self.get(regs.RIP)
                    continue
            if self._stop:
                return Stopped()
            raise RuntimeError(f"unicorn stopped at {self.get(regs.RIP):#x} for no reason")

    def stop(self) -> None:
        """Make `run` return as soon as possible; may be called from another host thread."""
        self._stop = True
        self.engine.stop()

    def range_changes(self, start: int, end: int, had_exec: bool) -> None:
        """Drop translations (of addresses, and of code where it was executable) before a range changes."""
        if had_exec:
            self._remove_blocks(start, end - start)
            if self.blocks - self._blocks_at_flush > _BLOCKS_KEPT:
                self._blocks_at_flush = self.blocks
                self._want_retranslation = True
                self.engine.stop()
        self.engine.flush_tlb()

    def flush_code(self, address: int, size: int) -> None:
        """Forget translated code in the range, after the host has written over it or before it goes."""
        self._remove_blocks(address, size)
        self.engine.flush_tlb()

    def _remove_blocks(self, address: int, size: int) -> None:
        """Remove translated code; the TLB must be flushed then, for it has pages that nobody came to execute."""
        self._force_fetch = True  # Unicorn looks the address up as a fetch
        self.engine.remove_blocks(address, address + size)
        self._force_fetch = False

    def watch(self, address: int, callback: Callable[[], None]) -> None:
        """Call `callback` whenever the instruction at `address` is about to run; other code pays nothing.

        Must be set before that code first runs. The callback may read registers and memory, not change them.
        """
        self.hook_address(address, callback)

    def hook_address(self, address: int, callback: Callable[[], None]) -> None:
        """Call `callback` before the instruction at `address` runs; blocks already translated do not know of it."""

        def hook(_uc: int, _address: int, _size: int, _data: int) -> None:
            try:
                callback()
            except BaseException as error:
                self.abandon(error)

        self.engine.hook(binding.UC_HOOK_CODE, binding.CODE(hook), address, address)

    # -- hooks ----------------------------------------------------------------------------------------------------

    def _install_hooks(self) -> None:
        engine = self.engine
        engine.hook(binding.UC_HOOK_TLB_FILL, binding.TLB_FILL(self._on_tlb_fill()))
        engine.hook(
            binding.UC_HOOK_INSN, binding.INSN_SYSCALL(self._on_syscall), instruction=binding.INS_SYSCALL
        )
        answer_instructions(engine, lambda: self.read_tsc())
        engine.hook(binding.UC_HOOK_INTR, binding.INTR(self._on_exception))
        engine.hook(binding.UC_HOOK_EDGE_GENERATED, binding.EDGE_GENERATED(self._on_block))

    def _on_tlb_fill(self) -> Callable[[Any, int, int, Any, Any], bool]:
        perms = self.arena.perms

        def fill(_uc: int, page: int, kind: int, result: ctypes._Pointer[TlbEntry], _data: int) -> bool:
            at = physical(page)
            allowed = perms[at >> 12] if at >= 0 else 0
            if kind == _FETCH:
                granted = PROT_READ | PROT_EXEC | allowed & PROT_WRITE
                wanted = PROT_EXEC
            else:
                granted = allowed & (PROT_READ | PROT_WRITE | PROT_EXEC)
                wanted = PROT_WRITE if kind == _WRITE else PROT_READ
            if allowed & (wanted | BUS) != wanted and not (kind == _FETCH and self._force_fetch and at >= 0):
                self._fault = (page, kind)
                return False
            entry = result[0]
            entry.paddr = at
            entry.perms = granted
            if allowed & SHARED and not self._force_fetch:
                self.on_shared(page, granted)
            self.tlb_misses += 1
            if self.tlb_misses >= self._flush_at:
                self._flush_at *= 2
                self._want_flush = True
                if not self.counter.installed:
                    self.engine.stop()  # counted code is not stopped here: how many misses there are depends on the host
            return True

        return fill

    def _on_syscall(self, _uc: int, _data: int) -> None:
        self._all.read()
        self.in_trap = True
        try:
            self.on_trap()
        except BaseException as error:  # a Python exception cannot cross Unicorn's C frames: `run` raises it
            self.abandon(error)
        self.in_trap = False

    def _blocks_counted(self) -> None:
        if self._want_flush:
            self._want_flush = False
            self.engine.flush_tlb()
        try:
            self.on_blocks()
        except BaseException as error:
            self.abandon(error)

    def abandon(self, error: BaseException) -> None:
        """Stop, and raise `error` out of `run`: for hooks, which must not raise."""
        if self.pending is None:
            self.pending = error
        self.engine.stop()

    def _peek(self, register: int) -> int:
        batch = self._batch(register)
        batch.read()
        return batch.values[0]

    def _raw_set(self, register: int, value: int) -> None:
        batch = self._batch(register)
        batch.values[0] = value
        batch.write()

    def _on_exception(self, _uc: int, vector: int, _data: int) -> None:
        self.raise_exception(vector, 0)

    def _on_block(
        self, _uc: int, block: ctypes._Pointer[binding.TranslationBlock], _previous: int, _data: int
    ) -> None:
        current = block[0]
        self.blocks += 1
        if self._specials.look(current.pc, current.size):
            self.engine.stop()

    # -- for special instructions, inside their hooks ---------------------------------------------------------------

    def raise_exception(self, vector: int, error: int) -> None:
        """End the run with an exception at the instruction that is about to run."""
        self._exception = CpuException(vector, error)
        self.engine.stop()

    def jump(self, address: int) -> None:
        """Go on at `address` in place of the instruction that is about to run."""
        self.engine.jump(regs.RIP, address)
