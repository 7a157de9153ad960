"""A guest to be maltreated: one process with a bit of everything in it, a snapshot
to go back to, and wild values.

A case begins at the snapshot, so that it is the same each time. Whatever the guest is told or does to itself,
only what users are told of may come out: EmuError. A fault that nobody has foreseen comes as it is
(EMU_STRICT=1).
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable, Sequence
from random import Random
from typing import TYPE_CHECKING, Any

from emu import Process
from emu.core.errors import EmuError
from emu.machine.arena import PAGE_SIZE
from tools.fuzzing.native import SEED

if TYPE_CHECKING:
    from emu.api.function import Function

MEMORY = 128 << 20
"""The guest's `--max-memory`."""
_SECONDS = 0.5
_SETUP_SECONDS = 60
_ROOM = 16 * PAGE_SIZE
_WORDS = [ctypes.c_uint64] * 6
_SMALL = (0, 1, 2, 3, 4, 5, 6, 7, 8, 15, 16, 24, 63, 64, 100, 255, 1000, 4095, 4096, 65536)
_EDGES = (
    0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 32, 1 << 40, (1 << 47) - 4096, (1 << 47) - 8192, 1 << 47, (1 << 63) - 1, 1 << 63,
    (1 << 64) - 4096, (1 << 64) - 100, (1 << 64) - 2, (1 << 64) - 1,
)  # fmt: skip
_TEXTS = (
    b"", b"/", b".", b"..", b"/proc/self/maps", b"/proc/self/fd/3", b"/proc/self/mem", b"/proc/self/exe", b"/dev/zero", b"/dev/null", b"/dev/full",
    b"/dev/tty", b"/dev/shm/x", b"/tmp/file", b"/tmp/folder", b"/tmp/folder/deeper", b"/tmp/link", b"/tmp/socket", b"/tmp/fifo", b"/etc/passwd",
    b"/etc/passwd/", b"/nowhere", b"a" * 255, b"a" * 256, b"/a" * 3000, b"\xff\x1b[2J", b"x\ny", b"user.name", b"security.capability", b"libseed.so",
    b"libc.so.6", b"libm.so.6", b"puts", b"count", b"scale", b"SEED_1", b"GLIBC_2.2.5", b"$ORIGIN/${LIB}/x", b"%s%n",
)  # fmt: skip

CALLED = (
    "dlopen", "dlmopen", "dlclose", "dlsym", "dlvsym", "dlinfo", "dladdr", "dladdr1", "dlerror", "dl_iterate_phdr", "_dl_find_object", "pthread_create",
    "pthread_join", "pthread_getattr_np", "pthread_setname_np", "pthread_kill", "pthread_cancel", "pthread_detach", "pthread_key_create",
    "pthread_setspecific", "pthread_getspecific", "pthread_key_delete", "pthread_mutex_lock", "pthread_mutex_unlock", "pthread_cond_wait", "sem_wait",
    "__cxa_thread_atexit_impl", "__cxa_atexit", "__cxa_finalize", "__tls_get_addr", "__libc_start_main", "longjmp", "swapcontext", "setcontext",
    "makecontext", "sigaltstack", "sigaction", "raise", "abort", "exit", "quick_exit", "atexit", "backtrace", "error", "gnu_get_libc_version", "free",
    "realloc", "getauxval", "_dl_mcount_wrapper_check", "__register_frame", "__deregister_frame", "_Unwind_RaiseException", "_Unwind_Backtrace",
    "_dl_audit_preinit",
)  # fmt: skip
"""Functions of libc and libgcc that lead into the linker, the kernel or unwinding."""


class Guest:
    """One process, and how to get back to its beginning.

    `room` is memory of its own to be filled and pointed to, `calls` how often something was done in it.
    """

    def __init__(self) -> None:
        nothing = os.open(os.devnull, os.O_RDWR)
        self.calls = 0
        self.process = p = Process(
            stdin=nothing, stdout=nothing, stderr=nothing, max_memory=MEMORY, timeout=_SETUP_SECONDS
        )
        p.inner.kernel.system.report_to(lambda line: None)
        self.libc, self.seed = p.dlopen("libc.so.6"), p.dlopen(str(SEED / "libseed.so"))
        p.dlopen("libgcc_s.so.1")
        self.syscall = self.function("syscall", 7)
        self.thread = p.thread("other")
        self.room = self._call("mmap", 0, _ROOM, 3, 0x22, -1, 0)
        self._call("mprotect", self.room + _ROOM - 2 * PAGE_SIZE, PAGE_SIZE, 1)
        self._call("munmap", self.room + _ROOM - PAGE_SIZE, PAGE_SIZE)
        self._open_files()
        self.called = [address for name in CALLED if (address := self._found(name))]
        self.pointers = self._pointers()
        self.files = sorted(p.inner.kernel.fds.files)
        self.snapshot = p.snapshot()
        p.engine.interrupts.limit = _SECONDS

    def _open_files(self) -> None:
        at = self.room
        for text, flags in (
            (b"/tmp/file", 0o102),
            (b"/tmp", 0o200000),
            (b"/etc/passwd", 0),
            (b"/dev/zero", 2),
        ):
            self.process.memory.write(at, text + b"\0")
            self._call("open", at, flags, 0o600)
        self._call("pipe", at)
        self._call("socketpair", 1, 1, 0, at)
        self._call("socketpair", 1, 2, 0, at)
        for domain, kind in ((2, 1), (2, 2), (1, 1)):
            self._call("socket", domain, kind, 0)
        self._call("epoll_create1", 0)
        self._call("eventfd", 3, 0)
        self._call("timerfd_create", 1, 0)
        self._call("inotify_init1", 0)
        self._call("memfd_create", at, 0)
        self.process.memory.write(at, struct.pack("<Q", (1 << 64) - 1))
        self._call("signalfd", -1, at, 0)

    def _found(self, name: str) -> int:
        try:
            return self.process.lookup(name).address
        except EmuError:
            return 0

    def function(self, name: str, words: int = 6) -> Function:
        """Return a function of libc that takes words and gives one."""
        function = self.libc[name]
        function.argtypes, function.restype = [ctypes.c_uint64] * words, ctypes.c_uint64
        return function

    def _call(self, name: str, *args: int) -> int:
        return int(self.function(name, len(args))(*(arg & (1 << 64) - 1 for arg in args)))

    def call(self, address: int, args: Sequence[int], task: Any = None) -> None:
        """Call the function at an address with six words."""
        function = self.process.function_at(address)
        function.argtypes, function.restype = _WORDS, ctypes.c_uint64
        if task is None:
            function(*args)
        else:
            self.thread.call(function, *args)

    def _pointers(self) -> list[int]:
        """What lies about in a process: objects, threads, stacks, code, data."""
        rtld, contract = self.process.rtld, self.process.engine.contract
        found = [map_.address for map_ in self.process.link_maps]
        found += [map_.addr for map_ in self.process.link_maps] + [map_.ld for map_ in self.process.link_maps]
        found += [*contract.mirror.threads(), contract.mirror.rtld_global, contract.mirror.rtld_global_ro]
        found += [contract.mirror.r_debug, contract.stubs.start, *self.called[:20]]
        found += [scope.address for scope in rtld.namespaces[0].maps[0].scopes if hasattr(scope, "address")]
        return found

    def fill(self, random: Random) -> None:
        """Put names, numbers and pointers into the room."""
        memory = self.process.inner.arena
        words = [self.value(random) for _ in range(64)]
        memory.write(self.room, struct.pack("<64Q", *words))
        for number in range(8):
            memory.write(self.room + 0x1000 + 0x200 * number, random.choice(_TEXTS)[:8000] + b"\0")

    def text(self, random: Random) -> int:
        """Return the address of a string."""
        return self.room + 0x1000 + 0x200 * random.randrange(8)

    def pointer(self, random: Random) -> int:
        """Return an address: of the room mostly, of its edges, of what the linker knows, of nothing."""
        match random.randrange(10):
            case 0 | 1 | 2 | 3:
                return self.room + 8 * random.randrange(64)
            case 4:
                return self.text(random)
            case 5:
                return (
                    self.room
                    + _ROOM
                    - random.choice((1, 2)) * PAGE_SIZE
                    - random.choice((0, 1, 4, 8, 16, 64))
                )
            case 6 | 7:
                return random.choice(self.pointers) + random.choice((0, 0, 0, 8, 1, -8))
            case 8:
                return 0
            case _:
                return random.choice((0x10, 0x1234, (1 << 47) - 4097, 1 << 47, (1 << 64) - 8, 0xDEADBEEF000))

    def value(self, random: Random) -> int:
        """Return a word of any kind."""
        match random.randrange(8):
            case 0 | 1:
                return random.choice(_SMALL)
            case 2:
                return random.choice(_EDGES) + random.choice((0, 0, 1, -1)) & (1 << 64) - 1
            case 3 | 4:
                return self.pointer(random) & (1 << 64) - 1
            case 5:
                return random.choice(self.files)
            case 6:
                return 1 << random.randrange(64)
            case _:
                return random.getrandbits(random.choice((8, 16, 32, 64)))

    def begin(self, random: Random) -> None:
        """Go back to the snapshot, and fill the room."""
        self.process.restore(self.snapshot)
        self.fill(random)

    def attempt(self, action: Callable[[], object]) -> bool:
        """Do something; false if the process is over. What users are told of is an answer."""
        self.calls += 1
        try:
            action()
        except EmuError:
            return not self.process.ended and not self.process.engine.broken and self.process.engine.usable
        return not self.process.ended
