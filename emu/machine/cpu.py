"""The CPU: Unicorn behind a small face. Runs the guest from trap to trap and answers its TLB misses.

A trap is a `syscall` instruction. Its handler is called inside Unicorn's hook, with the registers read in one
batch. The guest goes on with the registers as the handler leaves them, so most traps never leave Unicorn.
Nothing ever runs guest code from inside a hook.

One piece: hooks, registers and runs share what is known of the present trap.

Unicorn executes some instructions incorrectly without saying so: it takes a VEX.128 instruction for the SSE
one, for example. So each block is scanned for them once, when it is translated; see `emu.machine.scan` and
`emu.machine.special`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from emu.core.record import NamedTuple
from emu.machine import binding, regs
from emu.machine.answers import FEATURES, answer_instructions
from emu.machine.arena import BUS, PROT_EXEC, PROT_READ, PROT_WRITE, SHARED, Arena, physical
from emu.machine.binding import TlbEntry, Unicorn
from emu.machine.counter import BlockCounter
from emu.machine.counting import note_counter
from emu.machine.engine import (
    CodeWatch,
    CpuException,
    Guarded,
    Outcome,
    PageFault,
    Stopped,
    TrapHandler,
    Undo,
)
from emu.machine.features import Features
from emu.machine.handover import Handover
from emu.machine.late_stop import LateStop
from emu.machine.registers import Registers
from emu.machine.ring3 import enter_ring3
from emu.machine.segments import load_segment
from emu.machine.special import Specials

if TYPE_CHECKING:
    from emu.machine.debug_port import UnicornDebugPort
    from emu.machine.guard import PageGuards
    from emu.machine.locked import UnicornStepWatch
    from emu.machine.special import Seek
    from emu.machine.watch import MemoryWatch
    from emu.machine.x87_hook import NativeHooks

_FETCH, _WRITE = binding.UC_MEM_FETCH, binding.UC_MEM_WRITE
_FIRST_FLUSH = 2000
_BLOCKS_KEPT = 20_000
"""Translated blocks after which the next removal of code throws all of them away:
Unicorn gets no single block's memory back.
"""
_PROTECTION = 13
_CONTRIBUTORY = frozenset((0, 10, 11, 12, 13))
"""Exceptions that Unicorn keeps as being in flight for ever: the next one would become a double fault."""


class _Watched(NamedTuple):
    """A range of code that somebody watches, with the engine's hook for it."""

    start: int
    end: int
    handle: ctypes.c_size_t
    callback: ctypes._FuncPointer


class UnicornCpu(Handover, Registers):
    """Unicorn's CPU over an arena; see `emu.machine.engine.Cpu`."""

    def __init__(self, arena: Arena) -> None:
        self.arena = arena
        super().__init__(Unicorn())
        self.engine.map_host_memory(0, len(arena.mapping), arena.host_base)
        self.engine.use_virtual_tlb()
        self.on_trap: TrapHandler = self._no_handler
        self.is_trap: Callable[[int], bool] = lambda address: False
        self.read_tsc: Callable[[], int] = lambda: 0
        self.pending: BaseException | None = None
        self._fault: tuple[int, int] | None = None
        self._guarded: Guarded | None = None
        self.debugged = False
        """Whether there is a debugger's view, which counts all blocks."""
        self.fetched: set[int] = set()
        self.stored: set[int] = set()
        """Pages that were executed and written since a debugger asked."""
        self.guarded: dict[int, bool] = {}
        """Pages that a debugger watches: the CPU stops before each write, where true before each access."""
        self._exception: CpuException | None = None
        self._stop = False
        self._force_fetch = self._exhausted = False
        self.tlb_misses = 0
        self._flush_at = _FIRST_FLUSH
        self._want_flush = self._want_retranslation = False
        self.blocks = self._blocks_at_flush = 0
        self._specials = Specials(self)
        self.on_blocks: Callable[[], None] = lambda: None
        self.counter = BlockCounter(self.engine, self._blocks_counted)
        self.late_stop = LateStop(self)
        self._watched: list[_Watched] = []
        self._install_hooks()
        self.on_shared: Callable[[int, int], None] = lambda page, granted: None
        self.on_fill: Callable[[int, int, TlbEntry], None] | None = None
        arena.on_code = self.flush_code
        self.reset_fpu()
        self.hidden = enter_ring3(self)
        self.blocks = self.tlb_misses = 0
        self.watched: list[tuple[int, Callable[[], None]]] = []
        """What `watch` was given."""
        self.watched_code: list[CodeWatch] = []
        """What `watch_code` was given."""

    @property
    def features(self) -> Features:
        """Unicorn's Haswell without AVX."""
        return FEATURES

    # -- running ---------------------------------------------------------------------------------------------

    def run(self, address: int) -> Outcome:
        """Run from `address` until a fault, an exception or `stop`; errors raised by handlers come out here.

        On return RIP is where the guest would go on. Raises UnsupportedError for an instruction that cannot
        run right.
        """
        while True:
            self._fault = self._exception = self._guarded = None
            self._stop = self._exhausted = False
            error = self.engine.emu_start(self.engine.handle, address, 0, 0, 0)
            self.in_trap = False
            if self.pending is not None:
                pending, self.pending = self.pending, None
                raise pending
            if self._exception is not None:
                if self.hidden is not None and self._exception.vector in _CONTRIBUTORY:
                    self.hidden.forget_exception()
                if self._exception.vector == _PROTECTION and load_segment(self):
                    address = self.get(regs.RIP)
                    continue
                return self._exception
            if self._specials.waiting:
                self._specials.plant()
                if not self._stop:
                    address = self.get(regs.RIP)
                    continue
            if error == binding.UC_ERR_INSN_INVALID:
                return CpuException(6)
            if error and self._guarded is not None:
                return self._guarded
            if error and self._fault is not None:
                page, kind = self._fault
                at = physical(page)
                perms = self.arena.perm(at >> 12) if at >= 0 else 0
                access = "execute" if kind == _FETCH else "write" if kind == _WRITE else "read"
                return PageFault(page, access, bool(perms), bool(perms & BUS), exhausted=self._exhausted)
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
                if not self.debugged:
                    self.engine.stop()
        self.engine.flush_tlb()

    def before_change(self, start: int, end: int, had_exec: bool) -> None:
        """Drop translations as `range_changes` does, if there can be any: a page counts as accessed when it
        enters the TLB. Translated code may outlive that, where a snapshot was restored.
        """
        first = physical(start) >> 12
        counted = self.arena.counted(first, first + (end - start >> 12)) if first >= 0 else []
        if had_exec or any(1 in pages for _, pages in counted):
            self.range_changes(start, end, had_exec)

    def permissions_replaced(self) -> None:
        """Forget every translation of an address."""
        self.engine.flush_tlb()

    def watch_shared(self, callback: Callable[[int, int], None]) -> None:
        """Call `callback` with each page of a shared mapping that enters the TLB, and what is granted."""
        self.on_shared = callback

    def flush_code(self, address: int, size: int) -> None:
        """Forget translated code in the range, after the host has written over it or before it goes."""
        self._remove_blocks(address, size)
        self.engine.flush_tlb()

    def _remove_blocks(self, address: int, size: int) -> None:
        """Remove translated code; the TLB must be flushed then, for it has
        pages that nobody came to execute.
        """
        self._force_fetch = True  # Unicorn looks the address up as a fetch
        self.engine.remove_blocks(address, address + size)
        self._force_fetch = False

    def watch(self, address: int, callback: Callable[[], None]) -> None:
        """Call `callback` whenever the instruction at `address` is about to run; other code pays nothing.

        Must be set before that code first runs. The callback may read registers and memory, not change them.
        """
        self.watched.append((address, callback))
        self.hook_address(address, callback)

    def hook_address(self, address: int, callback: Callable[[], None]) -> None:
        """Call `callback` before the instruction at `address` runs;
        blocks already translated do not know of it.
        """

        def hook(_uc: int, _address: int, _size: int, _data: int) -> None:
            try:
                callback()
            except BaseException as error:
                self.abandon(error)

        self.engine.hook(binding.UC_HOOK_CODE, binding.CODE(hook), address, address)

    def hook_special(
        self, address: int, code: bytes, callback: Callable[[], None], hooks: NativeHooks
    ) -> None:
        """As `hook_address` for an x87 instruction that the host executes; `callback` has unusual cases."""

        def hook(_uc: int, _address: int, _size: int, _data: int) -> None:
            try:
                callback()
            except BaseException as error:
                self.abandon(error)

        python = binding.CODE(hook)
        hooks.keep(python)
        place = self.arena.host_base + physical(address)
        native, record = hooks.make(address, place, code, ctypes.cast(python, ctypes.c_void_p).value or 0)
        self.engine.removable_hook(binding.UC_HOOK_CODE, native, address, address, user_data=record)

    def watch_code(self, start: int, end: int, callback: Callable[[int], None]) -> None:
        """Call `callback` with the address before each instruction in [start,
        end) runs, those already translated too.
        """

        def hook(_uc: int, address: int, _size: int, _data: int) -> None:
            try:
                callback(address)
            except BaseException as error:
                self.abandon(error)

        called = binding.CODE(hook)
        handle = self.engine.removable_hook(binding.UC_HOOK_CODE, called, start, end - 1)
        self._watched.append(_Watched(start, end, handle, called))
        self.watched_code.append((start, end, callback))
        self.flush_code(start, end - start)

    def _watch_no_more(self, since: int) -> None:
        """Forget the ranges of code watched since there were so many:
        after a restore whoever wants them asks again.
        """
        while len(self._watched) > since:
            self.watched_code.pop()
            start, end, handle, called = self._watched.pop()
            self.engine.remove_hook(handle, called)
            self.flush_code(start, end - start)

    def memory_watch(self) -> MemoryWatch:
        """Make ready to watch memory; code translated before does not know of it."""
        from emu.machine.watch import MemoryWatch

        return MemoryWatch(self)

    def page_guards(self) -> PageGuards:
        """Return the guards of this CPU's pages."""
        from emu.machine.guard import PageGuards

        return PageGuards(self)

    def debug_port(self, halt: Callable[[], None], on_reached: Callable[[int], bool]) -> UnicornDebugPort:
        """Return the debugger's view."""
        from emu.machine.debug_port import UnicornDebugPort

        return UnicornDebugPort(self, halt, on_reached)

    def note(self) -> Undo:
        """Return what puts the registers, and how blocks are counted, back."""
        self.late_stop.remove()
        context, count_again, watched = self.save(), note_counter(self.counter), len(self._watched)

        def undo() -> None:
            self.pending = None
            self.restore(context)
            self.late_stop.remove()
            self._watch_no_more(watched)
            count_again()

        return undo

    def close(self) -> None:
        """Give the engine's memory back, and the guest's."""
        self.engine.close()
        self.arena.close()

    def step_watch(self) -> UnicornStepWatch:
        """Return what tells of the guest's synchronisation; the CPU stands still."""
        from emu.machine.locked import UnicornStepWatch

        return UnicornStepWatch(self)

    def seek_in_blocks(self, seek: Seek) -> None:
        """Ask `seek` (see `emu.machine.special`) of each block that is translated from now on;
        the CPU stands still.
        """
        self._specials.seek(seek)
        self.engine.flush_blocks()

    # -- hooks -----------------------------------------------------------------------------------------------

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
        perms, touched = self.arena.perms, self.arena.touched
        arena = self.arena

        def fill(_uc: int, page: int, kind: int, result: ctypes._Pointer[TlbEntry], _data: int) -> bool:
            at = physical(page)
            allowed = (perms[at >> 12] or arena.perm(at >> 12)) if at >= 0 else 0
            if kind == _FETCH:
                granted = PROT_READ | PROT_EXEC | allowed & PROT_WRITE
                wanted = PROT_EXEC
            else:
                granted = allowed & (PROT_READ | PROT_WRITE | PROT_EXEC)
                wanted = PROT_WRITE if kind == _WRITE else PROT_READ
            if allowed & (wanted | BUS) != wanted and not (kind == _FETCH and self._force_fetch and at >= 0):
                self._fault = (page, kind)
                return False
            if not touched[at >> 12] and not self._force_fetch:
                if not arena.touch_one(at >> 12):
                    self._fault, self._exhausted = (page, kind), True
                    return False
            entry = result[0]
            entry.paddr = at
            if page in self.guarded and kind != _FETCH and not self._force_fetch:
                if kind == _WRITE or self.guarded[page]:
                    self._guarded = Guarded(page, kind == _WRITE)
                    return False
                granted &= ~PROT_WRITE  # the first write is to come here, too
            if self.debugged and not self._force_fetch:
                if kind == _FETCH:
                    self.fetched.add(page)
                elif kind == _WRITE:
                    self.stored.add(page)
                else:
                    granted &= ~PROT_WRITE  # the first write is to come here, too
            entry.perms = granted
            if allowed & SHARED and not self._force_fetch:
                self.on_shared(page, granted)
            if self.on_fill is not None and not self._force_fetch:
                try:
                    self.on_fill(page, kind, entry)
                except BaseException as error:
                    self.abandon(error)
            self.tlb_misses += 1
            if self.tlb_misses >= self._flush_at:
                self._flush_at *= 2
                self._want_flush = True
                if not self.counter.installed and not self.debugged:
                    # counted code is not stopped here: how many misses there are depends on the host
                    self.engine.stop()
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

    def _on_exception(self, _uc: int, vector: int, _data: int) -> None:
        self.raise_exception(vector, 0)

    def _on_block(
        self, _uc: int, block: ctypes._Pointer[binding.TranslationBlock], _previous: int, _data: int
    ) -> None:
        current = block[0]
        self.blocks += 1
        if self._specials.look(current.pc, current.size):
            self.engine.stop()

    # -- for special instructions, inside their hooks --------------------------------------------------------

    def raise_exception(self, vector: int, error: int) -> None:
        """End the run with an exception at the instruction that is about to run."""
        self._exception = CpuException(vector, error)
        self.engine.stop()

    def jump(self, address: int) -> None:
        """Go on at `address` in place of the instruction that is about to run."""
        self.engine.jump(regs.RIP, address)
