"""Hooks on instructions, ranges of code and memory, by what the CPU itself offers:
INT3 in a copy of a page, rights that a page lacks, and TF.

After the callbacks the instruction is let through alone: its byte is put back, or its page is lent, and the
trap flag ends that behind it. So a hook costs two exits where it is met, and nothing elsewhere.

Source: Intel SDM volume 3, 17.3 (debug exceptions); volume 2, POPF, PUSHF, INT3.
"""

from __future__ import annotations

from collections.abc import Callable

from emu.core.errors import UnsupportedError
from emu.core.record import NamedTuple
from emu.machine.arena import PAGE_SIZE, Arena, physical
from emu.machine.engine import CodeWatch, Copy, DebugPort, MemoryWatch, PageGuards, StepWatch
from emu.machine.kvm.pages import PageTables
from emu.machine.kvm.registers import RFLAGS, RIP, RSP, KvmRegisters
from emu.machine.kvm.vm import Vm

TF = 0x100
_PUSHF, _POPF, _IRET, _REPEATS = 0x9C, 0x9D, 0xCF, (0xF2, 0xF3)
_PREFIXES = frozenset((0x66, 0xF2, 0xF3, *range(0x40, 0x50)))
_LONGEST = 15


class _Range(NamedTuple):
    """A watched range of code or memory, and who is told:
    of code with the address, of memory with the kind of access too.
    """

    start: int
    end: int
    code: bool
    callback: Callable[[int, bool], None]


class KvmStep:
    """One instruction that is let through alone.

    `hook` is its address if it has an INT3, `own` whether the guest itself has set TF.
    """

    __slots__ = ("address", "first", "hook", "own")

    def __init__(self, address: int, first: int, own: bool, hook: bool) -> None:
        self.address, self.first, self.own, self.hook = address, first, own, hook


class KvmHooks(KvmRegisters):
    """The part of `KvmCpu` that stops at chosen places; see `emu.machine.engine.Cpu`."""

    def __init__(self, vm: Vm, arena: Arena, pages: PageTables, state_mask: int, state_size: int) -> None:
        super().__init__(vm, state_mask, state_size)
        self.arena, self.pages = arena, pages
        self.pending: BaseException | None = None
        self.stopping = False
        self.step: KvmStep | None = None
        self.watched: list[tuple[int, Callable[[], None]]] = []
        self.watched_code: list[CodeWatch] = []
        self._hooks: dict[int, list[Callable[[], None]]] = {}
        self._ranges: list[_Range] = []
        self._jumped: int | None = None
        self.guards: KvmGuards | None = None

    # -- what callers set ------------------------------------------------------------------------------------

    def watch(self, address: int, callback: Callable[[], None]) -> None:
        """Call `callback` whenever the instruction at `address` is about to run; other code pays nothing."""
        self.watched.append((address, callback))
        self.hook_address(address, callback)

    def hook_address(self, address: int, callback: Callable[[], None]) -> None:
        """Call `callback` before the instruction at `address` runs."""
        if address not in self._hooks:
            self._hooks[address] = []
            self.pages.watch(address & -PAGE_SIZE).hooks.add(address)
        self._hooks[address].append(callback)

    def watch_code(self, start: int, end: int, callback: Callable[[int], None]) -> None:
        """Call `callback` with the address before each instruction in [start, end) runs."""
        self.watched_code.append((start, end, callback))
        if end - start == 1:
            self.hook_address(start, lambda: callback(start))
            return
        self._ranges.append(_Range(start, end, True, lambda address, _write: callback(address)))
        for page in range(start & -PAGE_SIZE, end, PAGE_SIZE):
            self.pages.watch(page).no_exec += 1

    def memory_watch(self) -> KvmWatch:
        """Make ready to watch memory."""
        return KvmWatch(self)

    def page_guards(self) -> KvmGuards:
        """Return the guards of this CPU's pages."""
        self.guards = KvmGuards(self)
        return self.guards

    def step_watch(self) -> StepWatch:
        """Raise UnsupportedError: nothing is looked at before it runs, and no blocks are counted."""
        raise UnsupportedError(
            "--engine kvm", "a search of schedules", "it needs blocks that are counted: --engine unicorn"
        )

    def debug_port(self, halt: Callable[[], None], on_reached: Callable[[int], bool]) -> DebugPort:
        """Raise UnsupportedError: a debugger's places in a run are told by the blocks that went before."""
        raise UnsupportedError(
            "--engine kvm", "a debugger", "it needs blocks that are counted: --engine unicorn"
        )

    def watch_memory(self, start: int, end: int, callback: Callable[[int, bool], None]) -> None:
        """Call `callback` with the address of each access that begins in [start,
        end), and whether it is a write.
        """
        self._ranges.append(_Range(start, end, False, callback))
        for page in range(start & -PAGE_SIZE, end, PAGE_SIZE):
            self.pages.watch(page).hidden += 1

    def jump(self, address: int) -> None:
        """Inside a hook, go on at `address` in place of the instruction that is about to run."""
        self._jumped = address

    def abandon(self, error: BaseException) -> None:
        """Stop, and raise `error` out of `run`."""
        if self.pending is None:
            self.pending = error
        self.stopping = True

    # -- what the run meets ----------------------------------------------------------------------------------

    def hooked(self, address: int) -> bool:
        """Whether an INT3 at `address` is one of ours, not to be passed by."""
        return address in self._hooks and (self.step is None or self.step.address != address)

    def hit(self, address: int) -> None:
        """The guest has come to an INT3 of ours."""
        self.words[RIP] = address
        self._jumped = None
        for callback in self._hooks[address]:
            try:
                callback()
            except BaseException as error:
                self.abandon(error)
        if self._jumped is not None:
            self.words[RIP] = self._jumped
        elif not self.stopping:
            self._let_through(address, hook=True)

    def watched_access(self, address: int, *, fetch: bool, write: bool) -> bool:
        """The guest has touched a page that it sees otherwise than it is.

        Tell who wants to know; whether it was such a page.
        """
        page = address & -PAGE_SIZE
        watched = self.pages.watched.get(page)
        if watched is None or self.pages.is_lent(page):
            return False
        if not (watched.hidden or fetch and watched.no_exec or write and watched.copy):
            return False
        if self.guards is not None and self.guards.met(address, page, fetch=fetch, write=write):
            return True
        for start, end, code, callback in self._ranges:
            if start <= address < end and code is fetch:
                try:
                    callback(address, write)
                except BaseException as error:
                    self.abandon(error)
        if not self.stopping:
            self.pages.lend(page)
            if self.step is None:
                self._let_through(self.words[RIP], hook=False)
        return True

    def _let_through(self, address: int, *, hook: bool) -> None:
        """Let one instruction run as if nobody watched."""
        at = physical(address)
        self.step = KvmStep(address, self._opcode(at), bool(self.words[RFLAGS] & TF), hook)
        if hook:
            self.pages.poke(address, hook=False)

    def _opcode(self, at: int) -> int:
        """Return the first byte of an instruction, behind prefixes that PUSHF and POPF may have;
        of a repeated one the prefix.
        """
        code = self.arena.mapping[at : at + _LONGEST]
        if code[:1] and code[0] in _REPEATS:
            return code[0]
        return next((byte for byte in code if byte not in _PREFIXES), 0)

    def stepped(self) -> bool:
        """The trap flag has stopped the guest; whether that was for a step of ours alone."""
        step = self.step
        if step is None:
            return False
        if step.first in _REPEATS and self.words[RIP] == step.address:
            return True  # one iteration of many
        self.end_step()
        if step.first == _PUSHF and not step.own:
            pointer = self.words[RSP]
            at = self.arena.offset(pointer, 8)
            self.arena.bytes[at + 1] &= 0xFE
        if step.first in (_POPF, _IRET):
            return True
        return not step.own

    def end_step(self) -> None:
        """The instruction that was let through has run, or will not run now."""
        step, self.step = self.step, None
        if step is None:
            return
        if step.hook:
            self.pages.poke(step.address, hook=True)
        self.pages.take_back()
        if not step.own and step.first not in (_POPF, _IRET):
            self.words[RFLAGS] &= ~TF


class KvmWatch:
    """Watched memory of one CPU."""

    HOST_SIDE = frozenset(("_cpu", "_ranges"))

    def __init__(self, cpu: KvmHooks) -> None:
        self._cpu = cpu
        self._ranges: list[tuple[int, int, Callable[[int, bool], None]]] = []

    def add(self, start: int, end: int, callback: Callable[[int, bool], None]) -> None:
        """Call `callback` with the address of each access that begins in [start,
        end), and whether it is a write.
        """
        self._ranges.append((start, end, callback))
        self._cpu.watch_memory(start, end, callback)

    def repeat(self, into: MemoryWatch, copy: Copy) -> None:
        """Watch the same memory on a child's CPU; `copy` gives the child's callbacks."""
        for start, end, callback in self._ranges:
            into.add(start, end, copy(callback))


class KvmGuards:
    """The guarded pages of one CPU; see `emu.machine.engine.PageGuards`."""

    def __init__(self, cpu: KvmHooks) -> None:
        self._cpu = cpu
        self._code: list[tuple[int, int, Callable[[int], None]]] = []
        self._data: dict[int, Callable[[int, int, bool], None]] = {}
        self._seen: set[int] = set()

    def guard_code(self, start: int, end: int, callback: Callable[[int], None]) -> None:
        """Call `callback` with the program counter at the first fetch from a page of
        [start, end), and again after `watch_again`.
        """
        self._code.append((start, end, callback))
        for page in range(start & -PAGE_SIZE, end, PAGE_SIZE):
            self._cpu.pages.watch(page).no_exec += 1

    def release_code(self, start: int) -> None:
        """Guard the code that begins there no more."""
        for first, end, _ in [guard for guard in self._code if guard[0] == start]:
            for page in range(first & -PAGE_SIZE, end, PAGE_SIZE):
                if page in self._seen:
                    self._seen.discard(page)
                else:
                    self._cpu.pages.watch(page).no_exec -= 1
        self._code = [guard for guard in self._code if guard[0] != start]

    def watch_again(self) -> None:
        """Ask for every page again."""
        for page in self._seen:
            self._cpu.pages.watch(page).no_exec += 1
        self._seen.clear()

    def guard_data(self, page: int, callback: Callable[[int, int, bool], None]) -> None:
        """Call `callback` with address, size and whether it is a write before each access of the guest to a
        page that holds no code.
        """
        if page not in self._data:
            self._cpu.pages.watch(page).hidden += 1
        self._data[page] = callback

    def release_data(self, page: int) -> None:
        """Guard a page of data no more."""
        if self._data.pop(page, None) is not None:
            self._cpu.pages.watch(page).hidden -= 1

    def repeat(self, into: PageGuards, copy: Copy) -> None:
        """Guard the same pages of a child's CPU, `into` being its guards; `copy` gives the child's
        callbacks.
        """
        for start, end, callback in self._code:
            into.guard_code(start, end, copy(callback))
        for page, told in self._data.items():
            into.guard_data(page, copy(told))

    def met(self, address: int, page: int, *, fetch: bool, write: bool) -> bool:
        """A watched page is touched; whether that needs no more than telling: guarded code may run now."""
        cpu = self._cpu
        try:
            if fetch:
                for start, end, callback in self._code:
                    if start & -PAGE_SIZE <= page < end and page not in self._seen:
                        self._seen.add(page)
                        callback(cpu.words[RIP])
                        cpu.pages.watch(page).no_exec -= 1
                        return True
            elif (told := self._data.get(page)) is not None:
                told(address, access_size(cpu, address), write)
        except BaseException as error:
            cpu.abandon(error)
        return False


def access_size(cpu: KvmHooks, address: int) -> int:
    """Return how many bytes at `address` the instruction that is about to run
    touches, 1 if that cannot be told.
    """
    import capstone  # wanted only where data is touched that should not be

    at = physical(cpu.words[RIP])
    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    decoder.detail = True
    instruction = next(decoder.disasm(cpu.arena.mapping[at : at + _LONGEST], cpu.words[RIP], 1), None)
    if instruction is None:
        return 1
    sizes = [operand.size for operand in instruction.operands if operand.type == capstone.x86.X86_OP_MEM]
    return max(1, min(sizes[0] if sizes else 8, PAGE_SIZE - (address & PAGE_SIZE - 1)))
