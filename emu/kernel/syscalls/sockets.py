"""Socket calls on files that are no sockets: programs ask with them what a descriptor is. Real sockets are not supported.

Source: getpeername(2), getsockopt(2), shutdown(2): ENOTSOCK.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from emu.kernel import abi
from emu.kernel.inodes import fail
from emu.kernel.table import syscall

if TYPE_CHECKING:
    from emu.kernel.kernel import Kernel
    from emu.kernel.task import Task

_CALLS = {
    42: ("connect", "fd", "ptr", "uint"), 43: ("accept", "fd", "ptr", "ptr"),
    44: ("sendto", "fd", "in", "size", "hex", "ptr", "uint"), 45: ("recvfrom", "fd", "ptr", "size", "hex", "ptr", "ptr"),
    46: ("sendmsg", "fd", "ptr", "hex"), 47: ("recvmsg", "fd", "ptr", "hex"), 48: ("shutdown", "fd", "int"),
    49: ("bind", "fd", "ptr", "uint"), 50: ("listen", "fd", "int"), 51: ("getsockname", "fd", "ptr", "ptr"),
    52: ("getpeername", "fd", "ptr", "ptr"), 54: ("setsockopt", "fd", "int", "int", "ptr", "uint"),
    55: ("getsockopt", "fd", "int", "int", "ptr", "ptr"), 288: ("accept4", "fd", "ptr", "ptr", "hex"),
}  # fmt: skip
"""Number to name and argument formats."""


def _enter(number: int, name: str, *formats: str) -> None:
    @syscall(number, name, *formats)
    def call(k: Kernel, t: Task, fd: int, *_rest: int) -> int:
        if k.file(fd).stat().mode & abi.S_IFMT != abi.S_IFSOCK:
            raise fail(errno.ENOTSOCK)
        line = f"emu: syscall {name} ({number}) is not supported on a socket; the program was told ENOSYS"
        k.report_once(f"system call {name}", line)
        return -errno.ENOSYS


for _number, (_name, *_formats) in _CALLS.items():
    _enter(_number, _name, *_formats)
