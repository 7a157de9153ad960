"""Backtraces in the user's terms: which function, at which line, called which.

Source: the form is gdb's and valgrind's; inlined functions have frames of their own, as there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from emu.core.errors import EmuError
from emu.elf import constants as c
from emu.elf.cfi import UnwindTable
from emu.elf.header import Phdr, parse_ehdr, parse_phdrs
from emu.glibc.stubs import TRAP_SIZE
from emu.machine.arena import PAGE_SIZE, PROT_EXEC, physical
from emu.process.unwind import Frame, Surroundings, from_gprs, walk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from emu.kernel.exec import MappedImage
    from emu.kernel.task import Task
    from emu.process.process import Process
    from emu.rtld.link_map import LinkMap

_SHOWN = 64
_STUB_NAMES = {
    "start": "_dl_start_user",
    "fini": "_dl_fini",
    "resolve": "_dl_runtime_resolve",
    "profile": "_dl_profile_fixup",
    "pltexit": "_dl_audit_pltexit",
}
_EMU = "[emu]"
PYTHON = "[Python]"
"""The object of a frame of Python, which called the guest."""


class FrameInfo(NamedTuple):
    """One frame, the innermost having `level` 0. A frame of the machine's stack may stand for several: functions inlined at its pc.

    `pc` is where the frame goes on; `cfa` the stack pointer of its caller before the call (0: unknown). `object` and `offset` (link-time address)
    say where `pc` lies, `object` being empty where no object is; `[emu]` is the loader's own part in the guest, its functions named as
    ld.so's that it takes the place of; `[Python]` is Python code that called the guest.
    `function` is demangled and empty if unknown, `file` and `line` are empty and 0 then. `inlined`: the
    function has no frame of the machine's; it was inlined into the next. `signal`: a signal handler returns here. `guess`: found without unwind
    information. `note` says what else there is to know: why the list ends early, when an object was unloaded.
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
    """A frame before anything was read of its function and line; `known` is complete where there is nothing to read.

    `path` is the object's file, `vaddr` the link-time address whose function and line are wanted. It stays true after the object has gone.
    """

    frame: Frame
    known: FrameInfo
    path: str = ""
    vaddr: int = 0


class Backtraces:
    """Makes backtraces of one process. What is known of an object is kept until `forget`."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._tables: dict[int, UnwindTable | None] = {}
        self._around = Surroundings(process.arena, self._table, self._executable, process.space.find)
        self.complete: Callable[[list[Captured]], list[Captured]] = lambda found: found
        """What a list of the running thread becomes where somebody beyond the guest called it."""

    def frames(self, task: Task | None = None) -> list[FrameInfo]:
        """Return the frames of the running thread, the innermost first: at a fault, or where it called a hosted function.

        Those of another thread begin where it waits. Raises EmuError for one that has ended.
        """
        return self.resolve(self.capture(task))

    def capture(self, task: Task | None = None) -> list[Captured]:
        """Return the same frames with their functions and lines unread, which is cheap: `resolve` reads them, at any later time.

        Those of another thread begin where it waits. Raises EmuError for one that has ended.
        """
        process = self._process
        running = process.kernel.scheduler.current
        if task is not None and task is not running:
            if task.context is None or process.kernel.tasks.get(task.tid) is not task:
                raise EmuError(f"backtrace of thread {task.tid}: it has ended")
            return self._walk(process.cpu.gprs_of(task.context))
        registers = process.cpu.gprs()
        if process.cpu.in_trap:
            registers[16] -= (
                2  # a trap stands at a function's first instruction, which unwind information knows
            )
        return self.complete(self._walk(registers))

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

    def _walk(self, gprs: Sequence[int]) -> list[Captured]:
        found: list[Captured] = []
        steps = walk(from_gprs(gprs), self._around)
        while True:
            try:
                frame = next(steps)
            except StopIteration as stop:
                if stop.value and found:
                    known = found[-1].known
                    note = f"{known.note}; {stop.value}" if known.note else stop.value
                    found[-1] = found[-1]._replace(known=known._replace(note=note))
                return found
            found.append(self._place(frame))

    def forget(self, map_: LinkMap) -> None:
        """Drop what is known of an object that goes."""
        self._tables.pop(map_.map_start, None)

    # -- frames to names ------------------------------------------------------------------------------------------------

    def _place(self, frame: Frame) -> Captured:
        symbols = self._process.symbols
        pc, cfa = frame.pc, frame.cfa
        hosted = self._hosted(frame)
        if hosted is not None:
            return Captured(
                frame,
                FrameInfo(
                    0, pc, cfa, _EMU, hosted[1], hosted[0], "", 0, signal=frame.signal, guess=frame.guess
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

    def _hosted(self, frame: Frame) -> tuple[str, int] | None:
        """Return (name, offset in the stub page) of one of the loader's frames in the guest; None for any other."""
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
            entry = runner.hosted_entry(frame.cfa - 8) or entry
        elif entry >= stubs.profile:
            return "_dl_runtime_profile", entry - stubs.start
        elif entry >= stubs.tls_get_addr:
            fast = entry <= stubs.tls_get_addr_slow
            return ("__tls_get_addr" if fast else "_dl_tlsdesc_dynamic"), entry - stubs.start
        name = next((name for name, at in contract.pointer_stubs.items() if at <= entry < at + TRAP_SIZE), "")
        if not name and entry != frame.pc:
            name = self._process.symbols.function(entry)
        return _STUB_NAMES.get(name, name), frame.pc - stubs.start

    # -- the process, for the walk ----------------------------------------------------------------------------------------

    def _executable(self, address: int) -> bool:
        at = physical(address)
        return at >= 0 and bool(self._process.arena.perms[at // PAGE_SIZE] & PROT_EXEC)

    def _table(self, address: int) -> UnwindTable | None:
        process = self._process
        contract = process.contract
        for stubs in (contract.stubs, contract.call_page) if contract is not None else ():
            if stubs is None or not stubs.start <= address < stubs.end:
                continue
            if stubs.start not in self._tables:
                size = stubs.end - stubs.eh_frame_hdr
                self._tables[stubs.start] = UnwindTable(process.arena, stubs.eh_frame_hdr, size, _EMU)
            return self._tables[stubs.start]
        if process.rtld is not None:
            map_ = process.rtld.find_map(address)
            if map_ is None:
                return None
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
        return self._vdso_table(loaded.vdso, address)

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

    def _without_header(self, program: MappedImage) -> UnwindTable | None:
        """A static program has no PT_GNU_EH_FRAME, since it registers its .eh_frame; only its section headers tell where that is."""
        frames = self._process.symbols.section_address(program.path, ".eh_frame")
        if not frames:
            return None
        return UnwindTable(self._process.arena, 0, 0, program.path, frames=program.bias + frames)

    def _open(self, name: str, bias: int, phdrs: Iterable[Phdr]) -> UnwindTable | None:
        for phdr in phdrs:
            if phdr.type == c.PT_GNU_EH_FRAME:
                return UnwindTable(self._process.arena, bias + phdr.vaddr, phdr.memsz, name)
        return None


def render(frames: Sequence[FrameInfo]) -> str:
    """Return the frames as indented lines; a long list is cut in the middle."""
    lines = [_line(frame) for frame in frames]
    if len(lines) > _SHOWN:
        left = len(lines) - _SHOWN
        lines[_SHOWN // 2 : -_SHOWN // 2] = [f"    ... {left} more frames ..."]
    return "\n".join(lines)


def _line(frame: FrameInfo) -> str:
    function = "<signal handler called>" if frame.signal else frame.function or "??"
    source = f" ({frame.file}:{frame.line})" if frame.file else ""
    place = f"{frame.object}+{frame.offset:#x}" if frame.object else f"{frame.pc:#x}"
    where = frame.object if frame.object in (_EMU, PYTHON) else f"[{place}]"
    remarks = ["inlined"] if frame.inlined else ["a guess"] if frame.guess else []
    remarks += [frame.note] if frame.note else []
    remark = f" ({'; '.join(remarks)})" if remarks else ""
    return f"    #{frame.level} {function}{source} {where}{remark}"
