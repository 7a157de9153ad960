"""Users, groups and capabilities. Source: the man page of each call; credentials(7), capabilities(7)."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from emu.kernel import abi
from emu.kernel.errors import fail
from emu.kernel.run.credentials import ALL_CAPABILITIES, CAP_SETGID, CAP_SETUID
from emu.kernel.table import syscall

if TYPE_CHECKING:
    from emu.kernel.kernel import Kernel
    from emu.kernel.run.credentials import Ids
    from emu.kernel.run.task import Task

_CAPABILITY_V3 = 0x20080522
_GROUPS_MAX = 65536


@syscall(102, "getuid")
def _sys_getuid(k: Kernel, t: Task) -> int:
    return k.credentials.users.real


@syscall(107, "geteuid")
def _sys_geteuid(k: Kernel, t: Task) -> int:
    return k.credentials.users.effective


@syscall(104, "getgid")
def _sys_getgid(k: Kernel, t: Task) -> int:
    return k.credentials.groups.real


@syscall(108, "getegid")
def _sys_getegid(k: Kernel, t: Task) -> int:
    return k.credentials.groups.effective


def _three(k: Kernel, ids: Ids, *addresses: int) -> int:
    for value, address in zip((ids.real, ids.effective, ids.saved), addresses, strict=True):
        k.arena.copy_out(address, value.to_bytes(4, "little"))
    return 0


@syscall(118, "getresuid", "ptr", "ptr", "ptr")
def _sys_getresuid(k: Kernel, t: Task, real: int, effective: int, saved: int) -> int:
    return _three(k, k.credentials.users, real, effective, saved)


@syscall(120, "getresgid", "ptr", "ptr", "ptr")
def _sys_getresgid(k: Kernel, t: Task, real: int, effective: int, saved: int) -> int:
    return _three(k, k.credentials.groups, real, effective, saved)


def _change(k: Kernel, change: Callable[[Ids, bool], int | None], *, group: bool) -> int:
    """Change ids, with privilege or without; let file accesses and capabilities know."""
    credentials = k.credentials
    if group:
        result = change(credentials.groups, credentials.has(CAP_SETGID))
    else:
        before = credentials.users.all()
        result = change(credentials.users, credentials.has(CAP_SETUID))
        credentials.users_changed(before)
    k.caller.uid, k.caller.gid = credentials.users.fs, credentials.groups.fs
    return result or 0


@syscall(105, "setuid", "id")
def _sys_setuid(k: Kernel, t: Task, uid: int) -> int:
    return _change(k, lambda ids, privileged: ids.set(uid, privileged), group=False)


@syscall(106, "setgid", "id")
def _sys_setgid(k: Kernel, t: Task, gid: int) -> int:
    return _change(k, lambda ids, privileged: ids.set(gid, privileged), group=True)


@syscall(113, "setreuid", "id", "id")
def _sys_setreuid(k: Kernel, t: Task, real: int, effective: int) -> int:
    return _change(k, lambda ids, privileged: ids.set_two(real, effective, privileged), group=False)


@syscall(114, "setregid", "id", "id")
def _sys_setregid(k: Kernel, t: Task, real: int, effective: int) -> int:
    return _change(k, lambda ids, privileged: ids.set_two(real, effective, privileged), group=True)


@syscall(117, "setresuid", "id", "id", "id")
def _sys_setresuid(k: Kernel, t: Task, real: int, effective: int, saved: int) -> int:
    return _change(k, lambda ids, privileged: ids.set_three(real, effective, saved, privileged), group=False)


@syscall(119, "setresgid", "id", "id", "id")
def _sys_setresgid(k: Kernel, t: Task, real: int, effective: int, saved: int) -> int:
    return _change(k, lambda ids, privileged: ids.set_three(real, effective, saved, privileged), group=True)


@syscall(122, "setfsuid", "id")
def _sys_setfsuid(k: Kernel, t: Task, uid: int) -> int:
    return _change(k, lambda ids, privileged: ids.set_fs(uid, privileged), group=False)


@syscall(123, "setfsgid", "id")
def _sys_setfsgid(k: Kernel, t: Task, gid: int) -> int:
    return _change(k, lambda ids, privileged: ids.set_fs(gid, privileged), group=True)


@syscall(115, "getgroups", "int", "ptr")
def _sys_getgroups(k: Kernel, t: Task, size: int, address: int) -> int:
    groups = k.caller.groups
    if size < 0 or 0 < size < len(groups):
        raise fail(errno.EINVAL)
    if size:
        k.arena.copy_out(address, struct.pack(f"<{len(groups)}I", *groups))
    return len(groups)


@syscall(116, "setgroups", "int", "ptr")
def _sys_setgroups(k: Kernel, t: Task, size: int, address: int) -> int:
    if not k.credentials.has(CAP_SETGID):
        raise fail(errno.EPERM)
    if not 0 <= size <= _GROUPS_MAX:
        raise fail(errno.EINVAL)
    k.caller.groups = tuple(sorted(struct.unpack(f"<{size}I", k.arena.copy_in(address, 4 * size))))
    return 0


def _version(k: Kernel, header: int, data: int) -> int | None:
    """Return the pid that a capability call is about, None where it only asks for the version.

    Raises OSError(EINVAL).
    """
    version, pid = struct.unpack("<Ii", k.arena.copy_in(header, 8))
    if version == _CAPABILITY_V3:
        return int(pid)
    k.arena.copy_out(header, _CAPABILITY_V3.to_bytes(4, "little"))
    if data:
        raise fail(errno.EINVAL)
    return None


@syscall(125, "capget", "ptr", "ptr")
def _sys_capget(k: Kernel, t: Task, header: int, data: int) -> int:
    pid = _version(k, header, data)
    if pid is None:
        return 0
    if pid != 0 and pid not in k.tasks:
        raise fail(errno.ESRCH if pid > 0 else errno.EINVAL)
    own = k.credentials
    sets = (own.effective, own.permitted, own.inheritable)
    if data:
        words = [held & abi.U32 for held in sets] + [held >> 32 for held in sets]
        k.arena.copy_out(data, struct.pack("<6I", *words))
    return 0


@syscall(126, "capset", "ptr", "ptr")
def _sys_capset(k: Kernel, t: Task, header: int, data: int) -> int:
    pid = _version(k, header, data)
    if pid not in (None, 0, t.tid):
        raise fail(errno.EPERM)
    words = struct.unpack("<6I", k.arena.copy_in(data, 24))
    effective, permitted, inheritable = (
        low | high << 32 & ALL_CAPABILITIES for low, high in zip(words[:3], words[3:], strict=True)
    )
    own = k.credentials
    if (
        permitted & ~own.permitted
        or effective & ~permitted
        or inheritable & ~(own.inheritable | own.permitted)
    ):
        raise fail(errno.EPERM)
    own.effective, own.permitted, own.inheritable = effective, permitted, inheritable
    return 0
