"""Backtraces in the user's terms: which function, at which line, called which.

Few runs need one, so what reads unwind information is imported when it is wanted.

Source: the form is gdb's and valgrind's; inlined functions have frames of their own, as there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.core.errors import EmuError
from emu.core.record import NamedTuple
from emu.core.text import printable
from emu.elf import constants as c
from emu.elf.header import Phdr, parse_ehdr, parse_phdrs
from emu.glibc.stubs import TRAP_SIZE
from emu.machine.arena import PAGE_SIZE, PROT_EXEC, physical
from emu.machine.regs import GPRS, RIP, RSP
from emu.process.known_walks import EMU, KnownWalks, NotingMemory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from emu.elf.cfi import UnwindTable
    from emu.kernel.exec import ExecImage
    from emu.kernel.run.task import Task
    from emu.process.process import Process
    from emu.process.unwind import UnwoundFrame

_SHOWN = 64
_STUB_NAMES = {
    "start": "_dl_start_user",
    "fini": "_dl_fini",
    "resolve": "_dl_runtime_resolve",
    "profile": "_dl_profile_fixup",
    "pltexit": "_dl_audit_pltexit",
}
_CAUGHT = ("call_init", "call_fini")
"""What the linker runs under a catch of errors, by glibc's names; else it is dl_open_worker."""
PYTHON = "[Python]"
"""The object of a frame of Python, which called the guest."""


_RSP, _RIP = GPRS.index(RSP), GPRS.index(RIP)


class FrameInfo(NamedTuple):
    """One frame, the innermost having `level` 0.

    A frame of the machine's stack may stand for several: functions inlined at its pc.

    `pc` is where the frame goes on; `cfa` the stack pointer of its caller before the call (0: unknown).
    `object` and `offset` (link-time address) say where `pc` lies, `object` being empty where no object is;
    `[emu]` is the loader's own part in the guest, its functions named as ld.so's that it takes the place of;
    `[Python]` is Python code that called the guest. `function` is demangled and empty if unknown, `file` and
    `line` are empty and 0 then. `inlined`: the function has no frame of the machine's; it was inlined into
    the next. `signal`: a signal handler returns here. `guess`: found without unwind information. `note` says
    what else there is to know: why the list ends early, when an object was unloaded.
    """

    level: int
    pc: int
    cfa: int
    object: str
    offset: int
    function: str
    file: str
    line: int
    inlined: bool = False
    signal: bool = False
    guess: bool = False
    note: str = ""


class Captured(NamedTuple):
    """A frame before anything was read of its function and line;
    `known` is complete where there is nothing to read.

    `path` is the object's file, `vaddr` the link-time address whose function and line are wanted. It stays
    true after the object has gone.
    """

    frame: UnwoundFrame
    known: FrameInfo
    path: str = ""
    vaddr: int = 0


class Backtraces:
    """Makes backtraces of one process. What is known of an object is kept until `forget`."""

    HOST_SIDE = frozenset(("_known",))

    def __init__(self, process: Process) -> None:
        self._process = process
        self._tables: dict[int, UnwindTable | None] = {}
        self._departed: dict[int, UnwindTable | None] = {}
        self._entered: Callable[[Captured], list[Captured]] = lambda frame: []
        self._known = KnownWalks(process.arena, self._hosted)

    def end_where(self, entered: Callable[[Captured], list[Captured]]) -> None:
        """Ask `entered` of each frame of the running thread who has entered the guest there:
        these frames take the place of how that was done.
        """
        self._entered = entered

    def frames(self, task: Task | None = None) -> list[FrameInfo]:
        """Return the frames of the running thread, the innermost first:
        at a fault, or where it called a hosted function.

        Those of another thread begin where it waits. Raises EmuError for one that has ended.
        """
        return self.resolve(self.capture(task))

    def capture(self, task: Task | None = None, *, pc: int = 0) -> list[Captured]:
        """Return the same frames with their functions and lines unread, which is cheap:
        `resolve` reads them, at any later time.

        Those of another thread begin where it waits. `pc` takes the place of the running thread's. Raises
        EmuError for one that has ended.
        """
        process = self._process
        running = process.kernel.scheduler.current
        if task is not None and task is not running:
            if task.context is None or process.kernel.tasks.get(task.tid) is not task:
                raise EmuError(f"backtrace of thread {task.tid}: it has ended")
            return self._walk(process.cpu.gprs_of(task.context))
        registers = process.cpu.gprs()
        if pc:
            registers[16] = pc
        elif process.cpu.in_trap:
            registers[16] -= (
                2  # a trap stands at a function's first instruction, which unwind information knows
            )
        return self._walk(registers, self._entered)

    def callers(self) -> list[Captured]:
        """Return two frames, without unwinding: the function that the running thread has just entered, and
        the place that it was called from.
        """
        from emu.process.unwind import UnwoundFrame

        cpu, arena = self._process.cpu, self._process.arena
        stack = cpu.get(RSP)
        inner = UnwoundFrame(cpu.get(RIP), stack + 8, exact=True, signal=False, guess=False)
        caller = UnwoundFrame(arena.read_u64(stack), 0, exact=False, signal=False, guess=False)
        return [self._place(inner), self._place(caller)]

    def capture_callers(self) -> list[Captured]:
        """Return the frames of the running thread, at a trap, without that of the
        hosted function that it called.
        """
        gprs = self._process.cpu.gprs()
        stack = gprs[_RSP]
        gprs[_RSP], gprs[_RIP] = stack + 8, self._process.arena.read_u64(stack)
        return self._walk(gprs, self._entered)

    def of(self, gprs: Sequence[int]) -> list[FrameInfo]:
        """Return the frames from registers in the order of `regs.GPRS`."""
        return self.resolve(self._walk(gprs))

    def resolve(self, captured: Iterable[Captured]) -> list[FrameInfo]:
        """Return captured frames with functions and lines, those inlined at each included."""
        found: list[FrameInfo] = []
        for frame, known, path, vaddr in captured:
            if not path:
                found.append(known._replace(level=len(found)))
                continue
            logical = self._process.symbols.code(path, vaddr, frame.place)
            for at, (function, file, line) in enumerate(logical):
                found.append(
                    known._replace(
                        level=len(found), function=function, file=file, line=line, inlined=at + 1 < len(logical),
                        signal=frame.signal, guess=frame.guess,
                    )
                )  # fmt: skip
        return found

    def _walk(
        self, gprs: Sequence[int], entered: Callable[[Captured], list[Captured]] | None = None
    ) -> list[Captured]:
        from emu.process.unwind import Surroundings, from_gprs, walk

        found: list[Captured] = []
        process = self._process
        maps = () if process.rtld is None else process.rtld.index.present()
        start = tuple(gprs), maps
        if maps and (before := self._known.find(start, entered)) is not None:
            return before
        memory = NotingMemory(process.arena)
        around = Surroundings(
            memory, self._table, self._executable, process.space.find, process.symbols.function_start, self._returns,
        )  # fmt: skip
        steps = walk(from_gprs(gprs), around)
        while True:
            try:
                frame = next(steps)
            except StopIteration as stop:
                if stop.value and found:
                    known = found[-1].known
                    note = f"{known.note}; {stop.value}" if known.note else stop.value
                    found[-1] = found[-1]._replace(known=known._replace(note=note))
                if maps and not stop.value:
                    self._known.keep(start, found, memory.reads, whole=True)
                return found
            one = self._place(frame)
            if entered is not None and (outer := entered(one)):
                if maps:
                    self._known.keep(start, (*found, one), memory.reads, whole=False)
                return found + outer
            found.append(one)

    def forget(self, start: int) -> None:
        """Drop what is known of an object that goes: the one that begins at `start`."""
        self._tables.pop(start, None)

    # -- frames to names -------------------------------------------------------------------------------------

    def _place(self, frame: UnwoundFrame) -> Captured:
        symbols = self._process.symbols
        pc, cfa = frame.pc, frame.cfa
        hosted = self._hosted(frame)
        if hosted is not None:
            return Captured(
                frame,
                FrameInfo(
                    0, pc, cfa, EMU, hosted[1], hosted[0], "", 0, signal=frame.signal, guess=frame.guess
                ),
            )
        place, note = symbols.place(pc) or symbols.place(frame.place), ""
        if place is None and (gone := symbols.departed_place(pc)) is not None:
            place, note = gone[:3], gone[3]
        if place is None:
            area = self._process.space.find(pc)
            name, start = (area.name or "anonymous memory", area.start) if area is not None else ("", 0)
            return Captured(frame, FrameInfo(0, pc, cfa, name, pc - start, "", "", 0, guess=frame.guess))
        known = FrameInfo(0, pc, cfa, place[0], place[1], "", "", 0, note=note)
        return Captured(frame, known, place[2], place[1] - (pc - frame.place))

    def _hosted(self, frame: UnwoundFrame) -> tuple[str, int] | None:
        """Return (name, offset in the stub page) of one of the loader's frames in the guest;
        None for any other.
        """
        contract, runner = self._process.contract, self._process.runner
        page = contract.call_page if contract is not None else None
        if page is not None and page.start <= frame.pc < page.end:
            return page.name(frame.place), frame.pc - page.start
        if contract is None or not contract.stubs.start <= frame.pc < contract.stubs.end:
            return None
        stubs = contract.stubs
        entry = frame.pc
        if entry == stubs.return_start:
            entry = contract.start_stub
        elif runner is not None and entry in (stubs.return_call, stubs.return_plt):
            # A PLT has pushed two words before it came to the linker; the code that auditors hear of calls
            # without one.
            above = frame.cfa - 8
            found = runner.hosted_entry(above - 16) if entry == stubs.return_plt else None
            entry = found or runner.hosted_entry(above) or entry
        elif entry >= stubs.profile:
            return "_dl_runtime_profile", entry - stubs.start
        elif entry >= stubs.tls_get_addr:
            fast = entry <= stubs.tls_get_addr_slow
            return ("__tls_get_addr" if fast else "_dl_tlsdesc_dynamic"), entry - stubs.start
        name = next((name for name, at in contract.pointer_stubs.items() if at <= entry < at + TRAP_SIZE), "")
        if name == "operate" and runner is not None:
            work = runner.hosted_work(frame.cfa - 8)
            return next((one for one in _CAUGHT if one in work), "dl_open_worker"), frame.pc - stubs.start
        if not name and entry != frame.pc:
            name = self._process.symbols.function(entry)
        return _STUB_NAMES.get(name, name), frame.pc - stubs.start

    # -- the process, for the walk ---------------------------------------------------------------------------

    def _executable(self, address: int) -> bool:
        at = physical(address)
        return at >= 0 and bool(self._process.arena.perm(at // PAGE_SIZE) & PROT_EXEC)

    def _returns(self, address: int) -> bool:
        """Whether it is where what the loader calls returns to."""
        contract = self._process.contract
        return contract is not None and contract.stubs.start <= address < contract.stubs.end

    def caught_types(self, pc: int) -> list[int] | None:
        """Return the typeinfo of the handlers around the call at `pc` as `emu.elf.lsda` does;
        empty for a function without any.

        Raises EmuError, MemoryFault for tables that are malformed.
        """
        from emu.elf.lsda import caught_types

        table = self._table(pc)
        found = table.exception_table(pc) if table is not None else None
        return caught_types(self._process.arena, *found, pc) if found is not None else []

    def _table(self, address: int) -> UnwindTable | None:
        process = self._process
        contract = process.contract
        for stubs in (contract.stubs, contract.call_page) if contract is not None else ():
            if stubs is None or not stubs.start <= address < stubs.end:
                continue
            if stubs.start not in self._tables:
                from emu.elf.cfi import UnwindTable

                size = stubs.end - stubs.eh_frame_hdr
                self._tables[stubs.start] = UnwindTable(process.arena, stubs.eh_frame_hdr, size, EMU)
            return self._tables[stubs.start]
        if process.rtld is not None:
            map_ = process.rtld.find_map(address)
            if map_ is None:
                return self._of_departed(address)
            if map_.map_start not in self._tables:
                self._tables[map_.map_start] = self._open(map_.display_name, map_.addr, map_.phdrs)
            return self._tables[map_.map_start]
        loaded = process.loaded
        if loaded is None:
            return None
        program = loaded.program
        if program.start <= address < program.end:
            if program.start not in self._tables:
                table = self._open(program.path, program.bias, program.phdrs)
                self._tables[program.start] = table or self._without_header(program)
            return self._tables[program.start]
        if (image := process.images.find(address)) is not None:
            if image.start not in self._tables:
                self._tables[image.start] = self._open(image.path, image.bias, image.phdrs)
            return self._tables[image.start]
        return self._vdso_table(loaded.vdso, address)

    def _of_departed(self, address: int) -> UnwindTable | None:
        """The table of an object that is gone, which lies in its file (if that is still the same)."""
        found = self._process.symbols.departed_image(address)
        if found is None:
            return None
        image, bias, phdrs, name = found
        if bias not in self._departed:
            from emu.elf.cfi import UnwindTable

            header = next((p for p in phdrs if p.type == c.PT_GNU_EH_FRAME), None)
            self._departed[bias] = (
                UnwindTable(image, bias + header.vaddr, header.memsz, name) if header is not None else None
            )
        return self._departed[bias]

    def _vdso_table(self, base: int, address: int) -> UnwindTable | None:
        """The vDSO of a static program, which no link map tells of."""
        area = self._process.space.find(address)
        if not base or area is None or area.start != base:
            return None
        if base not in self._tables:
            name = "linux-vdso.so.1"
            data = self._process.arena.read(base, area.end - base)
            self._tables[base] = self._open(name, base, parse_phdrs(data, parse_ehdr(data, name), name))
        return self._tables[base]

    def _without_header(self, program: ExecImage) -> UnwindTable | None:
        """A static program has no PT_GNU_EH_FRAME, since it registers its .eh_frame;
        only its section headers tell where that is.
        """
        frames = self._process.symbols.section_address(program.path, ".eh_frame")
        if not frames:
            return None
        from emu.elf.cfi import UnwindTable

        return UnwindTable(self._process.arena, 0, 0, program.path, frames=program.bias + frames)

    def _open(self, name: str, bias: int, phdrs: Iterable[Phdr]) -> UnwindTable | None:
        from emu.elf.cfi import UnwindTable

        for phdr in phdrs:
            if phdr.type == c.PT_GNU_EH_FRAME:
                return UnwindTable(self._process.arena, bias + phdr.vaddr, phdr.memsz, name)
        return None


def render(frames: Sequence[FrameInfo], *, everything: bool = False) -> str:
    """Return the frames as indented lines; what repeats or says little is folded unless `everything` is
    wanted, and a long list is cut in the middle.
    """
    from emu.process.folding import folded

    shown = folded(frames, everything=everything)
    lines = [f"    {frame}" if isinstance(frame, str) else _line(frame) for frame in shown]
    if len(lines) > _SHOWN and not everything:
        left = len(lines) - _SHOWN
        lines[_SHOWN // 2 : -_SHOWN // 2] = [f"    ... {left} more frames ..."]
    return "\n".join(lines)


def _line(frame: FrameInfo) -> str:
    function = "<signal handler called>" if frame.signal else frame.function or "??"
    source = f" ({frame.file}:{frame.line})" if frame.file else ""
    place = f"{frame.object}+{frame.offset:#x}" if frame.object else f"{frame.pc:#x}"
    where = frame.object if frame.object in (EMU, PYTHON) else f"[{place}]"
    remarks = ["inlined"] if frame.inlined else ["a guess"] if frame.guess else []
    remarks += [frame.note] if frame.note else []
    remark = f" ({'; '.join(remarks)})" if remarks else ""
    return printable(f"    #{frame.level} {function}{source} {where}{remark}")
