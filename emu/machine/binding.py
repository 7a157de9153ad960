"""A thin binding to libunicorn: the only module that touches it.

The `unicorn` package's own binding costs about 40 ms to import and about 8 us a trap; this one costs 5 ms and
1.6 us, because it calls `uc_reg_read_batch` on preallocated arrays. The library is the one that the `unicorn`
distribution ships, found without importing it.

Source: unicorn/unicorn.h of 2.1.4.
"""

from __future__ import annotations

import ctypes
import os
import sys
from ctypes import CFUNCTYPE, POINTER, c_bool, c_int, c_size_t, c_uint16, c_uint32, c_uint64, c_void_p
from typing import TYPE_CHECKING, Any, cast

from emu.core.errors import EmuError
from emu.machine.engine import HostPart

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.machine.engine import Context as AnyContext
    from emu.machine.registers import Context

UC_ARCH_X86, UC_MODE_64 = 4, 8
UC_ERR_OK, UC_ERR_READ_UNMAPPED, UC_ERR_INSN_INVALID, UC_ERR_EXCEPTION = 0, 6, 10, 21
UC_HOOK_INTR, UC_HOOK_INSN = 1 << 0, 1 << 1
UC_HOOK_CODE, UC_HOOK_BLOCK = 1 << 2, 1 << 3
UC_HOOK_EDGE_GENERATED, UC_HOOK_TLB_FILL = 1 << 15, 1 << 17
UC_MEM_READ, UC_MEM_WRITE, UC_MEM_FETCH = 16, 17, 18
INS_CPUID, INS_RDTSC, INS_RDTSCP, INS_SYSCALL = 113, 608, 609, 699
_CTL_TB_REMOVE, _CTL_TB_FLUSH, _CTL_TLB_FLUSH, _CTL_TLB_TYPE = 9, 10, 11, 12
_IO_WRITE = 1
_REG_MSR = 248
_CONTEXT_HEAD = 40
VERSION = (2, 1, 4)


class Msr(ctypes.Structure):
    """uc_x86_msr: a model-specific register."""

    _fields_ = (("number", c_uint32), ("value", c_uint64))


class TlbEntry(ctypes.Structure):
    """uc_tlb_entry: the physical page and the permissions that answer a TLB miss."""

    _fields_ = (("paddr", c_uint64), ("perms", c_uint32))


class TranslationBlock(ctypes.Structure):
    """uc_tb: a block just translated."""

    _fields_ = (("pc", c_uint64), ("icount", c_uint16), ("size", c_uint16))


TLB_FILL = CFUNCTYPE(c_bool, c_void_p, c_uint64, c_int, POINTER(TlbEntry), c_void_p)
EDGE_GENERATED = CFUNCTYPE(None, c_void_p, POINTER(TranslationBlock), c_void_p, c_void_p)
INSN_SYSCALL = CFUNCTYPE(None, c_void_p, c_void_p)
INSN_BOOL = CFUNCTYPE(c_int, c_void_p, c_void_p)
INTR = CFUNCTYPE(None, c_void_p, c_uint32, c_void_p)
DEVICE_READ = CFUNCTYPE(c_uint64, c_void_p, c_uint64, c_uint32, c_void_p)
DEVICE_WRITE = CFUNCTYPE(None, c_void_p, c_uint64, c_uint32, c_uint64, c_void_p)
BLOCK = CODE = CFUNCTYPE(None, c_void_p, c_uint64, c_uint32, c_void_p)


def library_path() -> str:
    """Return the path of libunicorn.so.2 as the `unicorn` distribution installed it.

    Raises EmuError when it is absent.
    """
    for folder in sys.path:
        path = os.path.join(folder, "unicorn", "lib", "libunicorn.so.2")
        if os.path.exists(path):
            return path
    raise EmuError("the unicorn library is not installed; install it with: pip install unicorn==2.1.4")


class Unicorn(HostPart):
    """One Unicorn engine for x86-64, with the functions that `emu` uses.

    Every failing call raises EmuError.
    """

    def __init__(self) -> None:
        self.handle = c_void_p()
        lib = ctypes.CDLL(library_path())
        self._lib = lib
        major, minor = c_uint32(), c_uint32()
        packed = lib.uc_version(ctypes.byref(major), ctypes.byref(minor))
        found = (major.value, minor.value, packed >> 8 & 0xFF)
        if found != VERSION:
            raise EmuError(
                f"unicorn {'.'.join(map(str, found))} is installed, but emu works with 2.1.4 only; "
                "install it with: pip install unicorn==2.1.4"
            )
        lib.uc_emu_start.argtypes = [c_void_p, c_uint64, c_uint64, c_uint64, c_size_t]
        lib.uc_mem_map_ptr.argtypes = [c_void_p, c_uint64, c_uint64, c_uint32, c_void_p]
        lib.uc_reg_read_batch.argtypes = [c_void_p, c_void_p, c_void_p, c_int]
        lib.uc_reg_write_batch.argtypes = [c_void_p, c_void_p, c_void_p, c_int]
        lib.uc_context_reg_read_batch.argtypes = [c_void_p, c_void_p, c_void_p, c_int]
        for name in ("uc_context_alloc", "uc_context_save", "uc_context_restore"):
            getattr(lib, name).argtypes = [c_void_p, c_void_p]
        lib.uc_context_free.argtypes = [c_void_p]
        lib.uc_emu_stop.argtypes = [c_void_p]
        lib.uc_strerror.restype = ctypes.c_char_p
        lib.uc_close.argtypes = [c_void_p]
        self._keep: list[object] = []
        self._check(lib.uc_open(UC_ARCH_X86, UC_MODE_64, ctypes.byref(self.handle)), "uc_open")
        self.reg_read_batch = lib.uc_reg_read_batch
        self.reg_write_batch = lib.uc_reg_write_batch
        self.context_reg_read_batch = lib.uc_context_reg_read_batch
        self.emu_start = lib.uc_emu_start
        self.raw_context_save = lib.uc_context_save

    def __del__(self) -> None:
        self.close()  # 3 MB, and 1 GB of addresses

    def __getattr__(self, name: str) -> Any:
        """Tell of an engine that is no more: libunicorn does not look, and Python would die in it."""
        if name == "handle":
            raise EmuError("the CPU of a program that is over is used")
        raise AttributeError(name)

    def _check(self, error: int, what: str) -> None:
        if error:
            raise EmuError(f"unicorn: {what}: {self.strerror(error)}")

    def strerror(self, error: int) -> str:
        """Return libunicorn's text for an error number."""
        text: bytes = self._lib.uc_strerror(error)
        return text.decode()

    def close(self) -> None:
        """Give the engine's memory back."""
        handle = self.__dict__.pop("handle", None)
        if handle:
            self._check(self._lib.uc_close(handle), "uc_close")

    def stop(self) -> None:
        """Ask the running engine to stop after the current block; allowed from another host thread."""
        self._lib.uc_emu_stop(self.handle)

    def map_host_memory(self, physical: int, size: int, host: int) -> None:
        """Make `size` bytes at the host address `host` the guest's physical memory at `physical`."""
        self._check(self._lib.uc_mem_map_ptr(self.handle, physical, size, 7, host), "uc_mem_map_ptr")

    def map_device(
        self,
        physical: int,
        size: int,
        read: Callable[[int, int, int, int], int],
        write: Callable[[int, int, int, int, int], None],
    ) -> None:
        """Make a range of physical memory a device's:
        `read(engine, offset, size, 0)` and `write(engine, offset, size, value, 0)` answer for it.
        """
        callbacks = DEVICE_READ(read), DEVICE_WRITE(write)
        self._keep.extend(callbacks)
        self._lib.uc_mmio_map.argtypes = [
            c_void_p, c_uint64, c_size_t, DEVICE_READ, c_void_p, DEVICE_WRITE, c_void_p,
        ]  # fmt: skip
        error = self._lib.uc_mmio_map(self.handle, physical, size, callbacks[0], None, callbacks[1], None)
        self._check(error, "uc_mmio_map")

    def jump(self, rip: int, address: int) -> None:
        """Store the program counter (register number `rip`):
        unlike a batch, this makes a running engine go on there.
        """
        value = c_uint64(address)
        self._check(self._lib.uc_reg_write(self.handle, c_int(rip), ctypes.byref(value)), "uc_reg_write(RIP)")

    def function(self, name: str) -> int:
        """Return the host's address of one of libunicorn's functions, for code that is not Python."""
        return ctypes.cast(getattr(self._lib, name), c_void_p).value or 0

    def write_msr(self, number: int, value: int) -> None:
        """Store a model-specific register."""
        msr = Msr(number, value)
        self._check(
            self._lib.uc_reg_write(self.handle, c_int(_REG_MSR), ctypes.byref(msr)), "uc_reg_write(MSR)"
        )

    def _ctl(self, control: int, *args: object) -> None:
        code = c_uint32(_IO_WRITE << 30 | len(args) << 26 | control)
        self._check(self._lib.uc_ctl(self.handle, code, *args), f"uc_ctl({control})")

    def use_virtual_tlb(self) -> None:
        """Let UC_HOOK_TLB_FILL answer every TLB miss (UC_TLB_VIRTUAL)."""
        self._ctl(_CTL_TLB_TYPE, c_int(1))

    def flush_tlb(self) -> None:
        """Forget every cached address translation."""
        self._ctl(_CTL_TLB_FLUSH)

    def flush_blocks(self) -> None:
        """Forget every translated block."""
        self._ctl(_CTL_TB_FLUSH)

    def remove_blocks(self, begin: int, end: int) -> None:
        """Forget the translated blocks that overlap [begin, end)."""
        self._ctl(_CTL_TB_REMOVE, c_uint64(begin), c_uint64(end))

    def hook(
        self, kind: int, callback: ctypes._FuncPointer, begin: int = 1, end: int = 0, instruction: int = 0
    ) -> None:
        """Install a hook over [begin, end], everywhere when begin > end; it stays until the engine goes."""
        self.removable_hook(kind, callback, begin, end, instruction)

    def removable_hook(
        self,
        kind: int,
        callback: ctypes._FuncPointer | c_void_p,
        begin: int = 1,
        end: int = 0,
        instruction: int = 0,
        user_data: int | None = None,
    ) -> c_size_t:
        """Install a hook and return the handle for `remove_hook`. `user_data` is a host address."""
        handle = c_size_t()
        extra = (c_int(instruction),) if kind == UC_HOOK_INSN else ()
        self._check(
            self._lib.uc_hook_add(
                self.handle,
                ctypes.byref(handle),
                c_int(kind),
                callback,
                c_void_p(user_data),
                c_uint64(begin),
                c_uint64(end),
                *extra,
            ),
            f"uc_hook_add({kind})",
        )
        self._keep.append(callback)
        return handle

    def remove_hook(self, handle: c_size_t, callback: ctypes._FuncPointer | None = None) -> None:
        """Take a hook away, and its callback if nobody else needs that;
        blocks translated with it must be flushed to forget it.
        """
        self._check(self._lib.uc_hook_del(self.handle, handle), "uc_hook_del")
        if callback is not None:
            self._keep.remove(callback)

    def context_alloc(self) -> c_void_p:
        """Return a new register context."""
        context = c_void_p()
        self._check(self._lib.uc_context_alloc(self.handle, ctypes.byref(context)), "uc_context_alloc")
        return context

    def context_save(self, context: c_void_p) -> None:
        """Store all registers in `context`."""
        self._check(self._lib.uc_context_save(self.handle, context), "uc_context_save")

    def context_restore(self, context: c_void_p) -> None:
        """Load all registers from `context`."""
        self._check(self._lib.uc_context_restore(self.handle, context), "uc_context_restore")

    def context_view(self, context: c_void_p, owner: object) -> memoryview:
        """Return the CPU's state in a saved context, to read and to change (`struct uc_context`: a size, then
        after a head the state).

        The view keeps `owner` alive, which frees the context.
        """
        assert context.value is not None
        size = c_size_t.from_address(context.value).value
        state = (ctypes.c_char * size).from_address(context.value + _CONTEXT_HEAD)
        state.owner = owner  # type: ignore[attr-defined]
        return memoryview(state).cast("B")

    def context_free(self, context: c_void_p) -> None:
        """Release `context`."""
        self._lib.uc_context_free(context)


class RegisterBatch(HostPart):
    """A fixed set of 64-bit registers read or written in one call: 0.4 us in place of 1 us each.

    `values` is a memoryview of unsigned 64-bit words in the order of `registers`.
    """

    __slots__ = ("_engine", "_ids", "_pointers", "_storage", "_count", "values")

    def __init__(self, engine: Unicorn, registers: tuple[int, ...]) -> None:
        self._engine = engine
        count = self._count = len(registers)
        self._ids = (c_int * count)(*registers)
        self._storage = (c_uint64 * count)()
        base = ctypes.addressof(self._storage)
        self._pointers = (c_void_p * count)(*(base + 8 * i for i in range(count)))
        self.values = memoryview(self._storage).cast("B").cast("Q")

    def read(self) -> None:
        """Fill `values` from the CPU."""
        self._engine.reg_read_batch(self._engine.handle, self._ids, self._pointers, self._count)

    def read_saved(self, context: AnyContext) -> None:
        """Fill `values` from a saved context."""
        handle = cast("Context", context).handle
        self._engine.context_reg_read_batch(handle, self._ids, self._pointers, self._count)

    def write(self) -> None:
        """Load the CPU's registers from `values`."""
        self._engine.reg_write_batch(self._engine.handle, self._ids, self._pointers, self._count)
