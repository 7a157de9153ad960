"""Clocks, sleeps and timers, all on virtual time.

Source: clock_gettime(2), nanosleep(2), setitimer(2), timer_create(2), times(2).
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING

from emu.kernel import abi
from emu.kernel.errors import fail
from emu.kernel.fs.anonymous import TimerFile
from emu.kernel.run.block import Block
from emu.kernel.run.signal_info import Interrupted
from emu.kernel.run.timer import Timer
from emu.kernel.syscalls.waiting import resumable, wait
from emu.kernel.table import syscall

if TYPE_CHECKING:
    from emu.kernel.kernel import Kernel
    from emu.kernel.run.block import Waiting
    from emu.kernel.run.task import Task

_WALL = frozenset((abi.CLOCK_REALTIME, abi.CLOCK_REALTIME_COARSE, abi.CLOCK_REALTIME_ALARM, abi.CLOCK_TAI))
_UPTIME = frozenset((
    abi.CLOCK_MONOTONIC, abi.CLOCK_MONOTONIC_RAW, abi.CLOCK_MONOTONIC_COARSE, abi.CLOCK_BOOTTIME,
    abi.CLOCK_BOOTTIME_ALARM,
))  # fmt: skip
_COARSE = frozenset((abi.CLOCK_REALTIME_COARSE, abi.CLOCK_MONOTONIC_COARSE))
_COARSE_NS = 4_000_000
_TICK_NS = 10_000_000
_SIGEV_SIGNAL, _SIGEV_NONE, _SIGEV_THREAD_ID = 0, 1, 4
_LONGEST_NS = 1 << 62
_PER_THREAD = 4
_MOST_TIMERS = 1 << 16
"""As many as Linux lets wait for a signal on a machine with some gigabytes (RLIMIT_SIGPENDING)."""


def clock_base(k: Kernel, clock: int) -> int:
    """Return what a clock shows at virtual time 0. Raises OSError(EINVAL) for a clock that does not exist.

    The CPU clocks go on while the process or the thread runs; negative ids name one. Source: Linux
    kernel/time/posix-cpu-timers.c.
    """
    if clock in _WALL:
        return k.clock.realtime_offset + (37 * abi.NSEC_PER_SEC if clock == abi.CLOCK_TAI else 0)
    if clock in _UPTIME:
        return k.clock.monotonic - k.clock.now
    if clock == abi.CLOCK_PROCESS_CPUTIME_ID:
        return k.cpu_used - k.clock.now
    if clock == abi.CLOCK_THREAD_CPUTIME_ID:
        return k.cpu_time(k.scheduler.current) - k.clock.now
    if clock < 0 and clock & 3 != 3:
        number = ~(clock >> 3)
        if clock & _PER_THREAD:
            task = k.tasks.get(number) if number else k.scheduler.current
            if task is not None:
                return k.cpu_time(task) - k.clock.now
        elif (process := k.system.processes.get(number or k.pid)) is not None:
            return process.cpu_used - k.clock.now
    raise fail(errno.EINVAL)


def read_timespec(k: Kernel, address: int) -> int:
    """Return a timespec in nanoseconds. Raises OSError(EINVAL) when it is not canonical."""
    seconds, nanoseconds = struct.unpack("<qq", k.arena.copy_in(address, 16))
    if seconds < 0 or not 0 <= nanoseconds < abi.NSEC_PER_SEC:
        raise fail(errno.EINVAL)
    return min(int(seconds) * abi.NSEC_PER_SEC + int(nanoseconds), _LONGEST_NS)


def pack_timespec(nanoseconds: int) -> bytes:
    """Return a struct timespec."""
    return struct.pack("<qq", *divmod(nanoseconds, abi.NSEC_PER_SEC))


def pack_timeval(nanoseconds: int) -> bytes:
    """Return a struct timeval."""
    seconds, rest = divmod(nanoseconds, abi.NSEC_PER_SEC)
    return struct.pack("<qq", seconds, rest // 1000)


@syscall(228, "clock_gettime", "clock", "ptr")
def _sys_clock_gettime(k: Kernel, t: Task, clock: int, address: int) -> int:
    value = clock_base(k, clock) + k.clock.now
    if clock in _COARSE:
        value -= value % _COARSE_NS
    k.arena.copy_out(address, pack_timespec(value))
    return 0


@syscall(229, "clock_getres", "clock", "ptr")
def _sys_clock_getres(k: Kernel, t: Task, clock: int, address: int) -> int:
    clock_base(k, clock)
    if address:
        k.arena.copy_out(address, pack_timespec(_COARSE_NS if clock in _COARSE else 1))
    return 0


@syscall(227, "clock_settime", "clock", "ptr")
def _sys_clock_settime(k: Kernel, t: Task, clock: int, address: int) -> int:
    if clock != abi.CLOCK_REALTIME:
        raise fail(errno.EINVAL)
    raise fail(errno.EPERM)


@syscall(96, "gettimeofday", "ptr", "ptr")
def _sys_gettimeofday(k: Kernel, t: Task, value: int, zone: int) -> int:
    if value:
        k.arena.copy_out(value, pack_timeval(k.clock.realtime))
    if zone:
        k.arena.copy_out(zone, bytes(8))
    return 0


@syscall(201, "time", "ptr")
def _sys_time(k: Kernel, t: Task, address: int) -> int:
    seconds = k.clock.realtime // abi.NSEC_PER_SEC
    if address:
        k.arena.copy_out(address, seconds.to_bytes(8, "little"))
    return seconds


@syscall(100, "times", "ptr")
def _sys_times(k: Kernel, t: Task, address: int) -> int:
    if address:
        k.arena.copy_out(
            address, struct.pack("<4q", k.cpu_used // _TICK_NS, 0, k.family.children_cpu // _TICK_NS, 0)
        )
    return k.clock.monotonic // _TICK_NS


@resumable
def _sleep(k: Kernel, t: Task, deadline: int, remaining: int) -> Waiting:
    try:
        yield from wait(k, t, Block("in a sleep", deadline), restart=False)
    except Interrupted:
        if remaining:
            k.arena.copy_out(remaining, pack_timespec(max(deadline - k.clock.now, 0)))
        raise
    return 0


@syscall(35, "nanosleep", "ptr", "ptr")
def _sys_nanosleep(k: Kernel, t: Task, request: int, remaining: int) -> Waiting:
    return _sleep(k, t, k.clock.now + read_timespec(k, request), remaining)


@syscall(230, "clock_nanosleep", "clock", "int", "ptr", "ptr")
def _sys_clock_nanosleep(k: Kernel, t: Task, clock: int, flags: int, request: int, remaining: int) -> Waiting:
    base = clock_base(k, clock)
    if clock == abi.CLOCK_THREAD_CPUTIME_ID or clock in _COARSE or clock == abi.CLOCK_MONOTONIC_RAW:
        raise fail(errno.EOPNOTSUPP if clock in _COARSE else errno.EINVAL)
    value = read_timespec(k, request)
    if flags & abi.TIMER_ABSTIME:
        return _sleep(k, t, value - base, 0)
    return _sleep(k, t, k.clock.now + value, remaining)


# -- interval timers -----------------------------------------------------------------------------------------


@syscall(37, "alarm", "uint")
def _sys_alarm(k: Kernel, t: Task, seconds: int) -> int:
    expiry = k.clock.now + seconds * abi.NSEC_PER_SEC if seconds else 0
    left, _ = k.timers.arm(k.timers.interval[0], expiry, 0)
    return (left + abi.NSEC_PER_SEC // 2) // abi.NSEC_PER_SEC or int(left > 0)


def _itimer(k: Kernel, which: int) -> Timer:
    if not 0 <= which <= 2:
        raise fail(errno.EINVAL)
    return k.timers.interval[which]


def _timeval(seconds: int, microseconds: int) -> int:
    if seconds < 0 or not 0 <= microseconds < 1_000_000:
        raise fail(errno.EINVAL)
    return min(int(seconds) * abi.NSEC_PER_SEC + microseconds * 1000, _LONGEST_NS)


@syscall(36, "getitimer", "int", "ptr")
def _sys_getitimer(k: Kernel, t: Task, which: int, address: int) -> int:
    left, interval = k.timers.remaining(_itimer(k, which))
    k.arena.copy_out(address, pack_timeval(interval) + pack_timeval(left))
    return 0


@syscall(38, "setitimer", "int", "ptr", "ptr")
def _sys_setitimer(k: Kernel, t: Task, which: int, new: int, old: int) -> int:
    timer = _itimer(k, which)
    words = struct.unpack("<4q", k.arena.copy_in(new, 32)) if new else (0, 0, 0, 0)
    interval, value = _timeval(words[0], words[1]), _timeval(words[2], words[3])
    left, old_interval = k.timers.arm(timer, k.clock.now + value if value else 0, interval)
    if old:
        k.arena.copy_out(old, pack_timeval(old_interval) + pack_timeval(left))
    return 0


# -- POSIX timers --------------------------------------------------------------------------------------------


@syscall(222, "timer_create", "clock", "ptr", "ptr")
def _sys_timer_create(k: Kernel, t: Task, clock: int, event: int, address: int) -> int:
    clock_base(k, clock)
    signo: int = abi.SIGALRM
    value: int | None = None
    thread = 0
    if event:
        value, signo, notify, tid = struct.unpack("<Qiii", k.arena.copy_in(event, 20))
        if notify == _SIGEV_THREAD_ID:
            thread = tid
        if notify == _SIGEV_NONE:
            signo = 0
        elif (
            notify not in (_SIGEV_SIGNAL, _SIGEV_THREAD_ID)
            or not 0 < signo <= abi.NSIG
            or thread
            and thread not in k.tasks
        ):
            raise fail(errno.EINVAL)
    k.arena.copy_out(address, bytes(4))  # a bad address makes no timer
    if len(k.timers.posix) >= _MOST_TIMERS:
        raise fail(errno.EAGAIN)
    ident = k.timers.create(clock, signo, value, thread)
    k.arena.copy_out(address, ident.to_bytes(4, "little"))
    return 0


def _posix_timer(k: Kernel, ident: int) -> Timer:
    timer = k.timers.posix.get(ident)
    if timer is None:
        raise fail(errno.EINVAL)
    return timer


def _pack_remaining(k: Kernel, timer: Timer) -> bytes:
    left, interval = k.timers.remaining(timer)
    return pack_timespec(interval) + pack_timespec(left)


def _arm(k: Kernel, timer: Timer, clock: int, flags: int, new: int, old: int) -> None:
    interval, value = read_timespec(k, new), read_timespec(k, new + 16)
    before = _pack_remaining(k, timer)
    expiry = 0
    if value:
        expiry = value - clock_base(k, clock) if flags & abi.TIMER_ABSTIME else k.clock.now + value
        expiry = max(expiry, 1)
    if old:
        k.arena.copy_out(old, before)
    k.timers.arm(timer, expiry, interval)


@syscall(223, "timer_settime", "int", "int", "ptr", "ptr")
def _sys_timer_settime(k: Kernel, t: Task, ident: int, flags: int, new: int, old: int) -> int:
    timer = _posix_timer(k, ident)
    _arm(k, timer, timer.clock, flags, new, old)
    return 0


@syscall(224, "timer_gettime", "int", "ptr")
def _sys_timer_gettime(k: Kernel, t: Task, ident: int, address: int) -> int:
    k.arena.copy_out(address, _pack_remaining(k, _posix_timer(k, ident)))
    return 0


@syscall(225, "timer_getoverrun", "int")
def _sys_timer_getoverrun(k: Kernel, t: Task, ident: int) -> int:
    return _posix_timer(k, ident).overrun


@syscall(226, "timer_delete", "int")
def _sys_timer_delete(k: Kernel, t: Task, ident: int) -> int:
    _posix_timer(k, ident)
    del k.timers.posix[ident]
    k.timers.plan_again()
    return 0


def _timer_file(k: Kernel, fd: int) -> TimerFile:
    file = k.file(fd)
    if not isinstance(file, TimerFile):
        raise fail(errno.EINVAL)
    return file


@syscall(286, "timerfd_settime", "fd", "int", "ptr", "ptr")
def _sys_timerfd_settime(k: Kernel, t: Task, fd: int, flags: int, new: int, old: int) -> int:
    k.arena.copy_in(new, 32)
    read_timespec(k, new), read_timespec(k, new + 16)
    if flags & ~3:
        raise fail(errno.EINVAL)
    file = _timer_file(k, fd)
    _arm(k, file.timer, file.clock, flags, new, old)
    return 0


@syscall(287, "timerfd_gettime", "fd", "ptr")
def _sys_timerfd_gettime(k: Kernel, t: Task, fd: int, address: int) -> int:
    k.arena.copy_out(address, _pack_remaining(k, _timer_file(k, fd).timer))
    return 0
