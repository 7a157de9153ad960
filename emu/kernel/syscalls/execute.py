"""execve and execveat: another program in the same process.

Source: execve(2), execveat(2); Linux fs/exec.c.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from emu.core.effects import REGISTERS_SET, RegistersSet
from emu.core.errors import ExecError
from emu.kernel import abi
from emu.kernel.errors import fail
from emu.kernel.fs.inodes import RegularFile
from emu.kernel.kernel import Executable
from emu.kernel.stack import STACK_SIZE
from emu.kernel.syscalls.stat import base_of
from emu.kernel.table import syscall

if TYPE_CHECKING:
    from emu.kernel.kernel import Kernel
    from emu.kernel.run.task import Task

_LONGEST = 131072
"""The most bytes of one argument, its NUL included (MAX_ARG_STRLEN)."""
_ROOM = STACK_SIZE // 4


def _strings(k: Kernel, address: int) -> tuple[bytes, ...]:
    """Return the strings of a vector that ends with a null pointer. Raises MemoryFault, OSError(E2BIG)."""
    found: list[bytes] = []
    room = _ROOM
    while address and (pointer := int.from_bytes(k.arena.copy_in(address, 8), "little")):
        text = k.arena.read_cstr(pointer, _LONGEST)
        room -= len(text) + 9
        if len(text) >= _LONGEST or room < 0:
            raise fail(errno.E2BIG)
        found.append(text)
        address += 8
    return tuple(found)


def _execute(
    k: Kernel, t: Task, path: str, argv: int, envp: int, *, by_descriptor: bool = False
) -> RegistersSet:
    program = Executable(path, _strings(k, argv) or (b"",), _strings(k, envp), by_descriptor)
    try:
        k.system.forge.execute(k, t, program)
    except ExecError as error:
        raise fail(error.errno) from None
    return REGISTERS_SET


@syscall(59, "execve", "path", "ptr", "ptr")
def _sys_execve(k: Kernel, t: Task, path: int, argv: int, envp: int) -> RegistersSet:
    return _execute(k, t, k.path(path), argv, envp)


@syscall(322, "execveat", "dirfd", "path", "ptr", "ptr", "int")
def _sys_execveat(k: Kernel, t: Task, fd: int, path: int, argv: int, envp: int, flags: int) -> RegistersSet:
    if flags & ~(abi.AT_EMPTY_PATH | abi.AT_SYMLINK_NOFOLLOW):
        raise fail(errno.EINVAL)
    name = k.path(path)
    if not name:
        if not flags & abi.AT_EMPTY_PATH:
            raise fail(errno.ENOENT)
        file = k.fds.get(fd)
        if fd in k.fds.cloexec and isinstance(file, RegularFile) and file.pread(2, 0) == b"#!":
            raise fail(errno.ENOENT)  # the interpreter would not find it
        return _execute(k, t, f"/dev/fd/{fd}", argv, envp, by_descriptor=True)
    base = base_of(k, fd, name)
    if flags & abi.AT_SYMLINK_NOFOLLOW and k.fs.find(name, base, follow=False).fmt == abi.S_IFLNK:
        raise fail(errno.ELOOP)
    if base is not None:
        name = f"/dev/fd/{fd}/{name}"  # so a script is told of it
    return _execute(k, t, name, argv, envp)
