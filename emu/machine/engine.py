"""What runs the guest's instructions, as the rest of emu sees it: one CPU over an arena.

Nothing outside of `emu.machine` knows which engine it is.

An engine runs the guest from trap to trap. A trap is a `syscall` instruction, or the engine's own trap code
at an address of which `is_trap` says so; its handler is called with all registers, and the guest goes on with
them as the handler leaves them. Nothing runs guest code from inside a handler.

One piece: the whole protocol of an engine, to be read at once by who writes one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeVar

from emu.core.record import NamedTuple

if TYPE_CHECKING:
    from emu.machine.arena import Arena
    from emu.machine.features import Features

_T = TypeVar("_T")


class Copy(Protocol):
    """Returns what stands for an object in a forked process."""

    def __call__(self, thing: _T, /) -> _T:
        """Return the counterpart."""


CodeWatch = tuple[int, int, Callable[[int], None]]
"""A range of code and who is called with the address of each instruction in it."""


class PageFault(NamedTuple):
    """The guest touched a page that it may not.

    `page` is the page's address, `access` is read, write or execute.

    `mapped` tells a protection fault from an unmapped page, `bus` an access past the end of a mapped file.
    `address` is the byte touched, where the engine knows more than the page. `exhausted` tells of the first
    access to a page for which there is no memory left.
    """

    page: int
    access: str
    mapped: bool
    bus: bool
    address: int | None = None
    exhausted: bool = False


class Guarded(NamedTuple):
    """The guest is about to access a page that a debugger watches (`DebugPort.guard`):
    its address, and whether it is a write.
    """

    page: int
    write: bool


class CpuException(NamedTuple):
    """The guest raised exception `vector` (0 divide error, 3 breakpoint, 4 overflow, 6 invalid opcode, 13
    protection, 16/19 floating point).

    `error` is the error code that the CPU gives with it.
    """

    vector: int
    error: int = 0


class Stopped(NamedTuple):
    """The run ended because `Cpu.stop` was called."""


Outcome = PageFault | Guarded | CpuException | Stopped
TrapHandler = Callable[[], None]
Undo = Callable[[], None]


class InstructionError(Exception):
    """An instruction that the machine cannot execute rightly, at `address`."""

    def __init__(self, address: int, name: str, why: str) -> None:
        super().__init__(f"{name} at {address:#x}: {why}")
        self.address, self.name, self.why = address, name, why


class Noted:
    """A part of an engine that a snapshot notes by asking it."""

    __slots__ = ()

    def note(self) -> Undo:
        """Return what puts the present state back."""
        raise NotImplementedError


class HostPart:
    """A part of an engine that is the host's: a snapshot leaves it alone."""

    __slots__ = ()


class Context(Protocol):
    """All registers of a guest thread; `in_trap` tells that it is in a trap."""

    in_trap: bool


class Batch(Protocol):
    """A fixed set of 64-bit registers; `values` is a memoryview of their words,
    filled by `read`, loaded by `write`.
    """

    values: memoryview

    def read(self) -> None:
        """Fill `values` from the CPU."""

    def read_saved(self, context: Context) -> None:
        """Fill `values` from the registers of a thread that does not run."""

    def write(self) -> None:
        """Load the CPU's registers from `values`."""


class Counter(Protocol):
    """Counts `left` down with what the guest executes, while installed; at 0 the CPU calls its `on_blocks`.

    The unit is a basic block, or what the engine has in its place. `block` is the address and size of the
    block at whose beginning the count came to 0, if that is known. `forced` is how often the host's clock has
    brought it there: what comes then is not the same every time.
    """

    left: int
    forced: int
    forced_ns: int
    """How long the guest had then run, at the least."""
    block: tuple[int, int]

    @property
    def installed(self) -> bool:
        """Whether it counts."""

    def install(self) -> None:
        """Begin to count; only while the CPU is stopped."""

    def remove(self) -> None:
        """Count no more; only while the CPU is stopped."""

    def rest(self) -> None:
        """Count no more for now: `install` soon comes again."""


class LateStop(Protocol):
    """Stops the CPU before one instruction of the block that it is about to run, once."""

    @property
    def planted(self) -> bool:
        """Whether a stop is still to come."""

    def plant(self, address: int, size: int, number: int) -> bool:
        """Stop before instruction `number`, modulo how many the block has;
        return false if that is where the CPU is, or nothing can be planted.
        """

    def remove(self) -> None:
        """Forget a stop, whether it came or not."""


class PageGuards(Protocol):
    """Guarded pages: the first look at code that should not run yet, and each access
    to data that should not be used any more.
    """

    def guard_code(self, start: int, end: int, callback: Callable[[int], None]) -> None:
        """Call `callback` with the program counter at the first fetch from a page of
        [start, end), and again after `watch_again`.
        """

    def release_code(self, start: int) -> None:
        """Guard the code that begins there no more."""

    def watch_again(self) -> None:
        """Ask for every page again."""

    def guard_data(self, page: int, callback: Callable[[int, int, bool], None]) -> None:
        """Call `callback` with address, size and whether it is a write before each access of the guest to a
        page that holds no code.
        """

    def release_data(self, page: int) -> None:
        """Guard a page of data no more."""

    def repeat(self, into: PageGuards, copy: Copy) -> None:
        """Guard the same pages of a child's CPU, `into` being its guards; `copy` gives the child's
        callbacks.
        """


class MemoryWatch(Protocol):
    """Watched memory of one CPU."""

    def add(self, start: int, end: int, callback: Callable[[int, bool], None]) -> None:
        """Call `callback` with the address of each access that begins in [start,
        end), and whether it is a write.

        The registers are those before the instruction; the callback may not change them.
        """

    def repeat(self, into: MemoryWatch, copy: Copy) -> None:
        """Watch the same memory on a child's CPU; `copy` gives the child's callbacks."""


class StepWatch(Protocol):
    """Tells of the guest's synchronisation, between any two instructions, of
    one CPU whose blocks are counted.
    """

    def locked(self, reached: Callable[[int, int, int, str], None]) -> None:
        """Call `reached(instruction, address, size, mnemonic)` before each instruction that locks memory;
        it may stop the CPU, which has not run it then.
        """

    def blocks(self, start: int, end: int, reached: Callable[[int], None]) -> None:
        """Call `reached` with the address before each basic block that begins in [start, end) runs.

        It may stop the CPU.
        """

    def at(self, instruction: int, reached: Callable[[int, int, int, bool], None]) -> None:
        """Call `reached(instruction, address, size, write)` before an instruction that uses memory runs;
        it may stop the CPU.
        """

    def accesses(self, reached: Callable[[int, int, int, bool], None]) -> None:
        """Call `reached(instruction, address, size, write)` at each access to memory, from now on:
        everything becomes several times slower.
        """

    def before(self, block: int) -> int:
        """Return the address of the block that ran before that at `block`, which is about to run."""

    def number(self, instruction: int) -> int:
        """Return the number of an instruction in the block that runs."""


FAR = 1 << 62
"""A count of blocks that no run comes to."""


class DebugPort(Protocol):
    """What a debugger asks of one CPU: a count of the blocks that were executed, stops
    at addresses, stops at accesses to pages.

    The count is a place in time: the same run has the same count at the same instruction, however often it
    was stopped on the way. Together with the program counter, which only rises within a block, it names every
    instruction that was ever executed.

    `hit` is the address of the planted stop that was reached, None if none was.
    """

    count: int
    hit: int | None

    @property
    def reached(self) -> bool:
        """Whether the CPU stands at the block that `stop_at` names."""

    def stop_at(self, count: int) -> None:
        """Stop at the beginning of block number `count`, or of the next one if that was before.

        May be called from another host thread.
        """

    def go_on(self) -> None:
        """Take back what the present stop will have counted twice, here and for the
        scheduler, if the same instruction runs next.
        """

    @property
    def planted(self) -> frozenset[int]:
        """The addresses at which the CPU stops."""

    def plant(self, address: int) -> None:
        """Ask `on_reached` before the instruction at `address`; the guest's memory does not change.

        The CPU stands still.
        """

    def remove(self, address: int) -> None:
        """Ask no more there. The CPU stands still."""

    def next_address(self) -> int | None:
        """Return where the instruction at the program counter ends, None if it also ends its block."""

    def touched(self) -> tuple[set[int], set[int]]:
        """Return the pages that were executed, and those that were written, since this was asked last.

        The CPU stands still.
        """

    def guard(self, pages: dict[int, bool]) -> dict[int, bool]:
        """Stop before each instruction that writes one of `pages` (their addresses), or accesses one that is
        true; `run` then tells `Guarded`.

        Return the pages that were guarded before.
        """


class Cpu(Protocol):
    """One CPU over an arena.

    `trap` holds the registers at a trap in the order of `regs.GPRS`; `get` and `set` read and write single
    ones. In a trap RIP is already the instruction after it, but for `trap`, where it is the trap's. `on_trap`
    serves traps, `on_blocks` is called at the end of a slice: see `take_traps`, `take_blocks`. `pending`
    is an error that a hook has raised and `run` has not yet. `watched` is what `watch` was given,
    `watched_code` what `watch_code` was.
    """

    arena: Arena
    trap: memoryview
    in_trap: bool
    watched: list[tuple[int, Callable[[], None]]]
    watched_code: list[CodeWatch]
    on_trap: TrapHandler
    is_trap: Callable[[int], bool]
    on_blocks: Callable[[], None]
    read_tsc: Callable[[], int]
    pending: BaseException | None

    @property
    def features(self) -> Features:
        """What this CPU can do, and how it is trapped."""

    @property
    def counter(self) -> Counter:
        """What measures slices and the time that computing takes."""

    @property
    def late_stop(self) -> LateStop:
        """How a slice ends inside a block."""

    def take_traps(self, handler: TrapHandler) -> TrapHandler:
        """Have `handler` serve traps from now on; return who has served them."""

    def take_blocks(self, handler: Callable[[], None]) -> Callable[[], None]:
        """Have `handler` called at the end of slices from now on; return who was."""

    def know_traps(self, is_trap: Callable[[int], bool]) -> None:
        """Ask `is_trap` of an address whether a trap there is ours."""

    def count_cycles_by(self, read_tsc: Callable[[], int]) -> None:
        """Give the guest what `read_tsc` gives for its time stamp counter."""

    def get(self, register: int) -> int:
        """Return a 64-bit register."""

    def set(self, register: int, value: int) -> None:
        """Store a 64-bit register. Setting RIP in a trap makes the guest go on there."""

    def batch(self, registers: tuple[int, ...]) -> Batch:
        """Return a batch over `registers` for repeated use."""

    def gprs(self) -> list[int]:
        """Return the registers in the order of `regs.GPRS`."""

    def gprs_of(self, context: Context) -> list[int]:
        """Return the registers of a thread that does not run, in the order of `regs.GPRS`;
        in a trap RIP is at the trap.
        """

    def set_gprs(self, values: list[int]) -> None:
        """Load the registers in the order of `regs.GPRS`."""

    def reset_fpu(self) -> None:
        """Give x87 and vector registers the state in which Linux starts a program and each signal handler."""

    def fxsave(self) -> bytes:
        """Return the x87 and SSE state as a 512-byte FXSAVE64 image."""

    def fxrstor(self, image: bytes) -> None:
        """Load the x87 and SSE state from a 512-byte FXSAVE64 image."""

    def signal_state(self) -> bytes:
        """Return the x87 and vector state as Linux writes it into a signal's frame:
        plain FXSAVE, or XSAVE with its marks.
        """

    def load_signal_state(self, read: Callable[[int, int], bytes]) -> None:
        """Load the state from a signal's frame; `read(offset, size)` returns
        bytes of it, and raises MemoryFault.
        """

    def save(self, into: Context | None = None) -> Context:
        """Return a copy of all registers, in `into` if given."""

    def restore(self, context: Context) -> None:
        """Load all registers from `context`; in or out of a trap, the CPU goes
        on where it would have then.
        """

    def fork(self, stack: int | None, fs_base: int | None) -> Context:
        """Return the registers of a new thread: at a trap, those of the running one as `syscall` leaves them,
        with 0 in rax and another stack pointer and fs base where given.
        """

    def run(self, address: int) -> Outcome:
        """Run from `address` until a fault, an exception or `stop`; errors raised by handlers come out here.

        On return RIP is where the guest would go on. Raises InstructionError for an instruction that cannot
        run right.
        """

    def stop(self) -> None:
        """Make `run` return as soon as possible; may be called from another host thread."""

    def abandon(self, error: BaseException) -> None:
        """Stop, and raise `error` out of `run`: for hooks, which must not raise."""

    def jump(self, address: int) -> None:
        """Inside a hook, go on at `address` in place of the instruction that is about to run."""

    def range_changes(self, start: int, end: int, had_exec: bool) -> None:
        """Drop what is kept of a range of guest addresses (and of code where it
        was executable) before it changes.
        """

    def before_change(self, start: int, end: int, had_exec: bool) -> None:
        """The same for a range of one window whose pages still count as accessed if they were: what the
        engine keeps of others may stay.
        """

    def permissions_replaced(self) -> None:
        """The permission bytes have changed anywhere, without a word of where."""

    def watch_shared(self, callback: Callable[[int, int], None]) -> None:
        """Call `callback` with page and permissions when a page of a shared mapping comes into use, if code
        in other mappings of it could become stale.
        """

    def flush_code(self, address: int, size: int) -> None:
        """Forget code in the range, after the host has written over it or before it goes."""

    def watch(self, address: int, callback: Callable[[], None]) -> None:
        """Call `callback` whenever the instruction at `address` is about to run; other code pays nothing.

        Must be set before that code first runs. The callback may read registers and memory, not change them.
        """

    def hook_address(self, address: int, callback: Callable[[], None]) -> None:
        """Call `callback` before the instruction at `address` runs;
        code that has run must be flushed to know of it.
        """

    def watch_code(self, start: int, end: int, callback: Callable[[int], None]) -> None:
        """Call `callback` with the address before each instruction in [start, end)
        runs, those that have run already too.
        """

    def memory_watch(self) -> MemoryWatch:
        """Make ready to watch memory, before the guest first runs."""

    def page_guards(self) -> PageGuards:
        """Return the guards of this CPU's pages, none set."""

    def step_watch(self) -> StepWatch:
        """Return what tells of synchronisation; the CPU stands still.

        Raises UnsupportedError for an engine that cannot.
        """

    def debug_port(self, halt: Callable[[], None], on_reached: Callable[[int], bool]) -> DebugPort:
        """Return the debugger's view, before the guest first runs; `halt` is called, inside a hook,
        where the CPU is to stop, `on_reached` at each planted stop: it says whether the CPU stops there.

        Raises UnsupportedError for an engine that cannot.
        """

    def note(self) -> Undo:
        """Return what puts the CPU's present state back, for a snapshot."""

    def close(self) -> None:
        """Give back what the engine holds of the host; nothing runs any more."""
