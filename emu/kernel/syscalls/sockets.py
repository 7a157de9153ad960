"""Sockets as far as a process without any neighbour has them, and socket calls on files that are none.

Programs ask with socket calls what a descriptor is (ENOTSOCK), and libc looks for a name service daemon: a Unix socket can be made, but nobody
listens. Everything else is not supported and says so.

Source: unix(7), socket(2), connect(2), getpeername(2).
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from emu.kernel import abi
from emu.kernel.inodes import Stat, fail
from emu.kernel.openfile import OpenFile
from emu.kernel.pipe import anonymous_stat
from emu.kernel.table import syscall

if TYPE_CHECKING:
    from emu.kernel.kernel import Kernel
    from emu.kernel.task import Task

_AF_UNIX = 1
_TYPES = (1, 2, 3, 5)
"""SOCK_STREAM, SOCK_DGRAM, SOCK_RAW (taken for SOCK_DGRAM), SOCK_SEQPACKET."""
_TYPE_MASK, _LAST_TYPE = 15, 10
_FAMILY_SIZE, _ADDRESS_SIZE = 2, 110
_CALLS = {
    43: ("accept", "fd", "ptr", "ptr"),
    44: ("sendto", "fd", "in", "size", "hex", "ptr", "uint"), 45: ("recvfrom", "fd", "ptr", "size", "hex", "ptr", "ptr"),
    46: ("sendmsg", "fd", "ptr", "hex"), 47: ("recvmsg", "fd", "ptr", "hex"), 48: ("shutdown", "fd", "int"),
    49: ("bind", "fd", "ptr", "uint"), 50: ("listen", "fd", "int"), 51: ("getsockname", "fd", "ptr", "ptr"),
    54: ("setsockopt", "fd", "int", "int", "ptr", "uint"),
    55: ("getsockopt", "fd", "int", "int", "ptr", "ptr"), 288: ("accept4", "fd", "ptr", "ptr", "hex"),
}  # fmt: skip
"""Number to name and argument formats."""


class UnixSocket(OpenFile):
    """A Unix socket that is connected to nothing."""

    __slots__ = ("_stat",)

    def __init__(self, kernel: Kernel, flags: int) -> None:
        self._stat = anonymous_stat(kernel, abi.S_IFSOCK | 0o777)
        super().__init__(f"socket:[{self._stat.ino}]", abi.O_RDWR | flags)

    def stat(self) -> Stat:
        """Return the attributes of an anonymous inode."""
        return self._stat

    def write(self, data: bytes) -> int:
        """Refuse: there is nobody."""
        raise fail(errno.ENOTCONN)

    def poll(self) -> int:
        """Return the conditions of a socket that is not connected."""
        return abi.POLLOUT | abi.POLLWRNORM | abi.POLLHUP


def _refuse(k: Kernel, what: str) -> int:
    k.report_once(f"system call {what}", f"emu: syscall {what} is not supported; the program was told ENOSYS")
    return -errno.ENOSYS


def _socket(k: Kernel, fd: int) -> OpenFile:
    file = k.file(fd)
    if file.stat().mode & abi.S_IFMT != abi.S_IFSOCK:
        raise fail(errno.ENOTSOCK)
    return file


@syscall(41, "socket", "int", "hex", "int")
def _sys_socket(k: Kernel, t: Task, family: int, kind: int, protocol: int) -> int:
    if family != _AF_UNIX:
        return _refuse(k, f"socket (41) of family {family}")
    flags = kind & ~_TYPE_MASK
    if flags & ~(abi.O_NONBLOCK | abi.O_CLOEXEC) or kind & _TYPE_MASK > _LAST_TYPE:
        raise fail(errno.EINVAL)
    if kind & _TYPE_MASK not in _TYPES:
        raise fail(errno.ESOCKTNOSUPPORT)
    if protocol not in (0, _AF_UNIX):
        raise fail(errno.EPROTONOSUPPORT)
    return k.fds.install(UnixSocket(k, flags & abi.O_NONBLOCK), bool(flags & abi.O_CLOEXEC))


@syscall(42, "connect", "fd", "ptr", "uint")
def _sys_connect(k: Kernel, t: Task, fd: int, address: int, size: int) -> int:
    if not isinstance(_socket(k, fd), UnixSocket):
        return _refuse(k, "connect (42) on a socket of the host")
    raw = k.arena.copy_in(address, min(size, _ADDRESS_SIZE))
    if not _FAMILY_SIZE < size <= _ADDRESS_SIZE or int.from_bytes(raw[:_FAMILY_SIZE], "little") != _AF_UNIX:
        raise fail(errno.EINVAL)
    path = raw[_FAMILY_SIZE:].partition(b"\0")[0]
    if path:
        k.fs.find(os.fsdecode(path))
    raise fail(errno.ECONNREFUSED)


@syscall(52, "getpeername", "fd", "ptr", "ptr")
def _sys_getpeername(k: Kernel, t: Task, fd: int, address: int, size: int) -> int:
    if isinstance(_socket(k, fd), UnixSocket):
        raise fail(errno.ENOTCONN)
    return _refuse(k, "getpeername (52) on a socket of the host")


def _enter(number: int, name: str, *formats: str) -> None:
    @syscall(number, name, *formats)
    def call(k: Kernel, t: Task, fd: int, *_rest: int) -> int:
        _socket(k, fd)
        return _refuse(k, f"{name} ({number}) on a socket")


for _number, (_name, *_formats) in _CALLS.items():
    _enter(_number, _name, *_formats)
