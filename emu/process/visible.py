"""What an operation of one thread has in common with those of others: the things that it reads and writes.

A thing is a word of memory (its address over 8), a queue of a futex, the linker's state, a file, or all that
is left of the kernel. Two operations are independent if neither writes what the other uses: their order then
makes no difference to anybody.

Left out are locks and counters of libc's own by which it allocates memory and keeps its threads' stacks,
since they are right and order nothing that a program sees; the system calls that concern the caller alone,
and private anonymous memory that is mapped and unmapped: where it comes to lie may depend on the order, what
is in it does not.

Source: clone(2), CLONE_CHILD_CLEARTID; futex(2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.core.record import NamedTuple
from emu.kernel.syscall_names import syscall_name
from emu.process.hosted_functions import hosted_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.process.process import Process

Thing = int | str | tuple[str, int]


class Operation(NamedTuple):
    """A visible operation: its name, the instruction, and the things that it reads and those that it writes.

    `locks` is the address and size of the memory that it locks.
    """

    name: str
    pc: int
    reads: tuple[Thing, ...] = ()
    writes: tuple[Thing, ...] = ()
    locks: tuple[int, int] = (0, 0)

    def meets(self, other: Operation) -> bool:
        """Whether the order of the two may matter."""
        writes, theirs = self.writes, other.writes
        for thing in writes:
            if thing in theirs or thing in other.reads:
                return True
        return any(thing in theirs for thing in self.reads)


RESUME = Operation("goes on", 0)
"""What a thread begins with that has waited, or has not run yet: nobody notices."""

_RAX, _RDX, _RSI, _RDI, _RIP = 0, 3, 4, 5, 16
_LINKER = "the dynamic linker's state"
_LOADED = "what is loaded"
_KERNEL = "the kernel's state"
_OUTSIDE = "what the process shows"
_ALONE = frozenset((
    "brk", "clock_getres", "clock_gettime", "clock_nanosleep", "getcpu", "getegid", "geteuid", "getgid", "getpid",
    "getrandom", "gettid", "gettimeofday", "getuid", "madvise", "mmap", "mprotect", "mremap", "munmap", "nanosleep",
    "prctl", "rseq", "rt_sigprocmask", "rt_sigreturn", "sched_getaffinity", "sched_yield", "set_robust_list",
    "set_tid_address", "sigaltstack", "time", "arch_prctl", "restart_syscall", "membarrier",
))  # fmt: skip
_FILES = frozenset((
    "read", "write", "pread64", "pwrite64", "readv", "writev", "preadv", "pwritev", "lseek", "close", "fsync", "ftruncate",
    "fstat", "newfstatat", "fcntl", "ioctl", "flock", "sendfile", "getdents64", "preadv2", "pwritev2",
))  # fmt: skip
_READING = frozenset(
    ("_dl_fixup", "_dl_runtime_resolve", "__tls_get_addr", "_dl_find_object", "_dl_lookup_symbol_x")
)
_PRIVATE = frozenset((
    "__default_pthread_attr_lock", "__nptl_nthreads", "__nptl_stack_list_lock", "free_list_lock", "list_lock", "main_arena",
    "mp_", "narenas",
))  # fmt: skip
"""Variables of libc.so."""
_ENDED_THREADS = frozenset(("__nptl_free_tcb",))
"""Functions of libc.so that work on a thread that nobody knows any more."""
_LOADING = frozenset(("_dl_close", "_dl_fini", "_dl_catch_exception", "_dl_catch_error"))
"""What may load, unload or finish objects: the work that ld.so does under libc's catch, too."""
_FUTEX_COMMAND = 127
_FUTEX_WAKES = frozenset((1, 3, 4, 5, 7, 10, 12))


class Visible:
    """Tells the operations of one process."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._handlers = process.contract.traps if process.contract is not None else {}
        stubs = process.contract.stubs if process.contract is not None else None
        self._returns = (
            {stubs.return_call, stubs.return_plt, stubs.return_start} if stubs is not None else set()
        )
        self._names: dict[int, str] = {}
        self._private: dict[int, bool] = {}
        self._alone: dict[int, bool] = {}

    def atomic(self, instruction: int, address: int, size: int, mnemonic: str) -> Operation | None:
        """Return that of an instruction that locks `size` bytes at `address`;
        None for one that is libc's own affair.
        """
        if self._is_private(address) or self._is_alone(instruction):
            return None
        return Operation(mnemonic, instruction, (), _words(address, size), (address, size))

    def plain(self, instruction: int, address: int, size: int, write: bool) -> Operation:
        """Return that of a load or store by which threads synchronise."""
        words = _words(address, size)
        return Operation("store", instruction, (), words) if write else Operation("load", instruction, words)

    def code(self, block: int) -> Operation:
        """Return that of a thread that comes to code of an object which may be closed."""
        return Operation(f"enters {self._process.symbols.function(block) or '??'}", block, (_LOADED,))

    def _is_alone(self, instruction: int) -> bool:
        alone = self._alone.get(instruction)
        if alone is None:
            alone = self._alone[instruction] = self._process.symbols.function(instruction) in _ENDED_THREADS
        return alone

    def _is_private(self, address: int) -> bool:
        private = self._private.get(address)
        if private is None:
            rtld = self._process.rtld
            map_ = rtld.find_map(address) if rtld is not None else None
            name = self._process.symbols.variable(address).partition("+")[0] if map_ is not None else ""
            loaders = rtld is not None and address in rtld.locks.values()
            private = name in _PRIVATE or name == "_rtld_global" and not loaders
            self._private[address] = private
        return private

    def trap(self, registers: memoryview) -> Operation | None:
        """Return that of the trap with these registers, in the order of `regs.GPRS`;
        None for one that concerns nobody else.
        """
        pc = registers[_RIP]
        if pc in self._handlers:
            return self._hosted(pc)
        if pc in self._returns:
            return None
        name = syscall_name(registers[_RAX])
        if name in _ALONE:
            return None
        args = registers[_RDI], registers[_RSI], registers[_RDX]
        reads, writes = self._things(name, args)
        return Operation(name, pc, reads, writes)

    def _hosted(self, pc: int) -> Operation | None:
        name = self._names.get(pc)
        if name is None:
            name = self._names[pc] = hosted_name(self._process, pc)
        if name in _READING:
            return Operation(name, pc, (_LINKER,))
        if name == "__call_tls_dtors" and not self._has_dtors():
            return None
        written = (_LINKER, _LOADED) if name in _LOADING else (_LINKER,)
        return Operation(name, pc, (_OUTSIDE,), written)

    def _has_dtors(self) -> bool:
        contract = self._process.contract
        atexit = contract.atexit if contract is not None else None
        return atexit is None or any(atexit.pending(self._process.thread_pointer()))

    def _things(self, name: str, args: Sequence[int]) -> tuple[tuple[Thing, ...], tuple[Thing, ...]]:
        """Return what a system call reads and writes."""
        if name == "futex":
            word, queue = args[0] >> 3, ("futex", args[0])
            return ((), (queue,)) if args[1] & _FUTEX_COMMAND in _FUTEX_WAKES else ((word,), (queue,))
        if name == "exit":
            cleared = self._process.kernel.scheduler.current.clear_child_tid
            return (_OUTSIDE,), (cleared >> 3, ("futex", cleared))
        if name == "exit_group":
            return (), (_OUTSIDE, _LINKER)
        if name in ("clone", "clone3"):
            return (), ("the threads' ids",)
        if name in _FILES:
            return (_OUTSIDE,), (self._file(args[0]),)
        return (_OUTSIDE,), (_KERNEL,)

    def _file(self, descriptor: int) -> Thing:
        """Return a regular file, or one of the terminal's, by its number;
        pipes and what is like them are one.
        """
        return ("file", descriptor) if descriptor < 3 else "pipes and files"


def _words(address: int, size: int) -> tuple[int, ...]:
    first, last = address >> 3, address + size - 1 >> 3
    return (first,) if first == last else tuple(range(first, last + 1))
