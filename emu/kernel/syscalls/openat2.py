"""Opening with restrictions to the walk. Source: openat2(2); Linux fs/open.c:build_open_flags."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING

from emu.kernel import abi
from emu.kernel.errors import fail
from emu.kernel.fs.place import RESOLVE_BENEATH, RESOLVE_CACHED, RESOLVE_IN_ROOT
from emu.kernel.syscalls.descriptors import opened
from emu.kernel.syscalls.stat import base_of
from emu.kernel.table import syscall

if TYPE_CHECKING:
    from emu.kernel.kernel import Kernel
    from emu.kernel.run.block import Waiting
    from emu.kernel.run.task import Task

_OPEN_FLAGS, _PATH_FLAGS = 0x7FFFC3, 0x2B0000
"""What openat2 knows, and what goes with O_PATH."""
_MAKES = abi.O_CREAT | abi.O_TRUNC | abi.O_TMPFILE & ~abi.O_DIRECTORY


@syscall(437, "openat2", "dirfd", "path", "ptr", "size")
def _sys_openat2(k: Kernel, t: Task, dirfd: int, path: int, how: int, size: int) -> int | Waiting:
    if size < 24:
        raise fail(errno.EINVAL)
    if size > abi.PAGE_SIZE or any(k.arena.copy_in(how + 24, size - 24)):
        raise fail(errno.E2BIG)
    flags, mode, resolve = struct.unpack("<QQQ", k.arena.copy_in(how, 24))
    if (
        resolve & ~0x3F
        or flags & ~_OPEN_FLAGS
        or mode & ~0o7777
        or mode
        and not flags & _MAKES & ~abi.O_TRUNC
    ):
        raise fail(errno.EINVAL)
    if flags & abi.O_PATH and flags & ~_PATH_FLAGS or not ~resolve & (RESOLVE_BENEATH | RESOLVE_IN_ROOT):
        raise fail(errno.EINVAL)
    if resolve & RESOLVE_CACHED and flags & _MAKES:
        raise fail(errno.EAGAIN)
    k.fds.lowest()
    name = k.path(path)
    within = resolve & (RESOLVE_BENEATH | RESOLVE_IN_ROOT)
    base = base_of(k, dirfd, (name.lstrip("/") or ".") if within and name else name)
    return opened(k, t, k.fs.open(name, flags | abi.O_LARGEFILE, mode, base, resolve=resolve), flags)
