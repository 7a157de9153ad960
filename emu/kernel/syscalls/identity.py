"""What the process is and has: process ids, uname, limits, usage, arch_prctl, randomness.

Source: the man page of each call.
"""

from __future__ import annotations

import errno
import struct
from enum import IntEnum
from typing import TYPE_CHECKING

from emu.core.errors import MemoryFault
from emu.kernel import abi
from emu.kernel.errors import fail
from emu.kernel.stack import STACK_SIZE
from emu.kernel.syscalls.groups import find_process
from emu.kernel.syscalls.time import pack_timeval
from emu.kernel.table import syscall
from emu.kernel.uname import UNAME
from emu.machine import regs
from emu.machine.arena import HIGH_END

if TYPE_CHECKING:
    from emu.kernel.kernel import Kernel
    from emu.kernel.run.task import Task

_USER_END = 0x7FFF_FFFF_F000
_GRND_NONBLOCK, _GRND_RANDOM, _GRND_INSECURE = 1, 2, 4
_RANDOM_LIMIT = 1 << 25
"""The most that one getrandom call gives (32 MiB: Linux gives 33554431)."""
_PIECE = 1 << 16
_STACK_TO_COME = STACK_SIZE - (132 << 10)
"""Bytes of the stack that are mapped here, while Linux maps them when they are touched."""


class ArchCode(IntEnum):
    """ARCH_*: what arch_prctl is asked for."""

    SET_GS = 0x1001
    SET_FS = 0x1002
    GET_FS = 0x1003
    GET_GS = 0x1004


@syscall(39, "getpid")
def _sys_getpid(k: Kernel, t: Task) -> int:
    return k.pid


@syscall(186, "gettid")
def _sys_gettid(k: Kernel, t: Task) -> int:
    return t.tid


@syscall(110, "getppid")
def _sys_getppid(k: Kernel, t: Task) -> int:
    return k.family.parent


@syscall(111, "getpgrp")
def _sys_getpgrp(k: Kernel, t: Task) -> int:
    return k.family.group


@syscall(63, "uname", "ptr")
def _sys_uname(k: Kernel, t: Task, address: int) -> int:
    k.arena.copy_out(address, b"".join(text.encode().ljust(65, b"\0") for text in UNAME))
    return 0


@syscall(99, "sysinfo", "ptr")
def _sys_sysinfo(k: Kernel, t: Task, address: int) -> int:
    budget = k.arena.budget
    uptime = k.clock.monotonic // abi.NSEC_PER_SEC
    k.arena.copy_out(
        address,
        struct.pack(
            "<q3Q6QHH4xQQI4x", uptime, 0, 0, 0, budget.limit, budget.room(), 0, 0, 0, 0, 1, 0, 0, 0, 1
        ),
    )
    return 0


@syscall(98, "getrusage", "int", "ptr")
def _sys_getrusage(k: Kernel, t: Task, who: int, address: int) -> int:
    if who not in (0, 1, -1):
        raise fail(errno.EINVAL)
    used = k.cpu_time(t) if who == 1 else k.cpu_used if who == 0 else k.family.children_cpu
    resident = 0 if who == -1 else k.arena.resident * 4
    k.arena.copy_out(address, pack_timeval(used) + bytes(16) + resident.to_bytes(8, "little") + bytes(104))
    return 0


def _limit(k: Kernel, process: Kernel, resource: int, new: int, old: int) -> int:
    """Read and set a limit of `process`, for `k`. Raises OSError EINVAL, EPERM."""
    if not 0 <= resource < abi.RLIMIT_COUNT:
        raise fail(errno.EINVAL)
    before = process.rlimits[resource]
    if new:
        soft, hard = struct.unpack("<QQ", k.arena.copy_in(new, 16))
        if soft > hard:
            raise fail(errno.EINVAL)
        if hard > before[1] and (k.caller.uid or resource == abi.RLIMIT_NOFILE):
            raise fail(errno.EPERM)
        process.rlimits[resource] = (soft, hard)
        if resource == abi.RLIMIT_NOFILE:
            process.fds.limit = soft
        elif resource == abi.RLIMIT_AS:
            process.space.limit = soft + _STACK_TO_COME
    if old:
        k.arena.copy_out(old, struct.pack("<QQ", *before))
    return 0


@syscall(97, "getrlimit", "int", "ptr")
def _sys_getrlimit(k: Kernel, t: Task, resource: int, old: int) -> int:
    _limit(k, k, resource, 0, 0)
    k.arena.copy_out(old, struct.pack("<QQ", *k.rlimits[resource]))
    return 0


@syscall(160, "setrlimit", "int", "ptr")
def _sys_setrlimit(k: Kernel, t: Task, resource: int, new: int) -> int:
    return _limit(k, k, resource, new, 0)


@syscall(302, "prlimit64", "pid", "int", "ptr", "ptr")
def _sys_prlimit64(k: Kernel, t: Task, pid: int, resource: int, new: int, old: int) -> int:
    if pid == abi.PPID:
        if new:
            raise fail(errno.EPERM)
        pid = k.system.leader.pid  # which has them from there
    return _limit(k, find_process(k, pid) if pid else k, resource, new, old)


@syscall(158, "arch_prctl", "hex", "ptr")
def _sys_arch_prctl(k: Kernel, t: Task, code: int, address: int) -> int:
    match code:
        case ArchCode.SET_FS | ArchCode.SET_GS:
            if address >= _USER_END:
                raise fail(errno.EPERM)
            k.cpu.set(regs.FS_BASE if code == ArchCode.SET_FS else regs.GS_BASE, address)
        case ArchCode.GET_FS | ArchCode.GET_GS:
            value = k.cpu.get(regs.FS_BASE if code == ArchCode.GET_FS else regs.GS_BASE)
            k.arena.copy_out(address, value.to_bytes(8, "little"))
        case _:
            raise fail(errno.EINVAL)
    return 0


@syscall(135, "personality", "hex")
def _sys_personality(k: Kernel, t: Task, value: int) -> int:
    old = k.personality
    if value & abi.U32 != abi.U32:
        k.personality = value & abi.U32
    return old


@syscall(318, "getrandom", "out", "size", "uint")
def _sys_getrandom(k: Kernel, t: Task, address: int, size: int, flags: int) -> int:
    both = _GRND_RANDOM | _GRND_INSECURE
    if flags & ~(both | _GRND_NONBLOCK) or flags & both == both:
        raise fail(errno.EINVAL)
    size = min(size, _RANDOM_LIMIT - 1)
    if address + size > HIGH_END:
        raise fail(errno.EFAULT)
    for done in range(0, size, _PIECE):
        data = k.entropy.take(min(size - done, _PIECE))
        try:
            k.arena.copy_out(address + done, data)
        except MemoryFault as fault:  # what comes before the hole is there
            fits = fault.address - address - done
            k.arena.copy_out(address + done, data[:fits])
            if not done + fits:
                raise
            return done + fits
    return size
