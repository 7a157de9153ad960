"""struct msghdr, and the control messages in it: files and credentials that go along.

Source: sendmsg(2), recvmsg(2), cmsg(3), unix(7); Linux net/core/scm.c.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING

from emu.core.record import NamedTuple
from emu.kernel import abi
from emu.kernel.errors import fail
from emu.kernel.run.credentials import CAP_SYS_ADMIN, CAP_SYS_RESOURCE

if TYPE_CHECKING:
    from emu.kernel.fs.file import OpenFile
    from emu.kernel.kernel import Kernel
    from emu.kernel.net.socket import Received, Socket

_HEADER, _CONTROL = struct.Struct("<QI4xQQQQI4x"), struct.Struct("<Qii")
_MSG_CTRUNC, _MSG_CMSG_CLOEXEC = 8, 0x40000000
_SOL_SOCKET, _SCM_RIGHTS, _SCM_CREDENTIALS = 1, 1, 2
_SCM_MAX_FD, _OPTMEM_MAX = 253, 131072
_SO_PASSCRED = (1, 16)
Vectors = Sequence[tuple[int, int]]
"""Address and size of each piece of guest memory."""


class Header(NamedTuple):
    """A struct msghdr of the guest's, at `place`."""

    place: int
    name: int
    name_size: int
    vectors: Vectors
    control: int
    control_size: int


def read_header(k: Kernel, place: int) -> Header:
    """Return the struct msghdr at `place`. Raises OSError EMSGSIZE, EINVAL."""
    name, name_size, iov, count, control, control_size, _flags = _HEADER.unpack(
        k.arena.copy_in(place, _HEADER.size)
    )
    if count > abi.IOV_MAX:
        raise fail(errno.EMSGSIZE)
    vectors, room = [], abi.MAX_RW_COUNT
    for base, size in struct.iter_unpack("<QQ", k.arena.copy_in(iov, 16 * count)):
        if size > abi.S64_MAX:
            raise fail(errno.EINVAL)
        vectors.append((base, min(size, room)))
        room -= vectors[-1][1]
    return Header(place, name, name_size, vectors, control, control_size)


def store_control(k: Kernel, socket: Socket, header: Header, received: Received, flags: int) -> int:
    """Store what goes along, as far as there is room; return the flags that tell of it."""
    at, room, out = header.control, header.control_size if header.control else 0, 0
    wanted: list[tuple[int, bytes]] = []
    if socket.unix and socket.number(_SO_PASSCRED):
        wanted.append((_SCM_CREDENTIALS, struct.pack("<iii", *received.credentials)))
    for kind, body in wanted:
        if room < _CONTROL.size:
            out |= _MSG_CTRUNC
            break
        body = body[: room - _CONTROL.size]
        k.arena.copy_out(at, _CONTROL.pack(_CONTROL.size + len(body), _SOL_SOCKET, kind) + body)
        used = min(_CONTROL.size + len(body) + 7 & -8, room)
        at, room = at + used, room - used
    if received.files:
        count = min(max(room - _CONTROL.size, 0) // 4, len(received.files))
        numbers = []
        for file in received.files[:count]:
            try:
                numbers.append(k.fds.install(file, bool(flags & _MSG_CMSG_CLOEXEC)))
            except OSError:
                break
        if numbers:
            body = struct.pack(f"<{len(numbers)}i", *numbers)
            k.arena.copy_out(at, _CONTROL.pack(_CONTROL.size + len(body), _SOL_SOCKET, _SCM_RIGHTS) + body)
            at += min(_CONTROL.size + len(body) + 7 & -8, room)
        if len(numbers) < len(received.files):
            out |= _MSG_CTRUNC
        socket.drop(received.files)  # installed ones have references of their own
    k.arena.copy_out(header.place + 40, (at - header.control if header.control else 0).to_bytes(8, "little"))
    return out


def read_control(k: Kernel, socket: Socket, header: Header) -> tuple[OpenFile, ...]:
    """Return the files that go along. Raises OSError(EINVAL, EBADF, ETOOMANYREFS, EPERM, ENOBUFS)."""
    if header.control_size > _OPTMEM_MAX:
        raise fail(errno.ENOBUFS)
    raw = k.arena.copy_in(header.control, header.control_size) if header.control else b""
    files: list[OpenFile] = []
    at = 0
    while at + _CONTROL.size <= len(raw):
        length, level, kind = _CONTROL.unpack_from(raw, at)
        if length < _CONTROL.size or at + length > len(raw):
            raise fail(errno.EINVAL)
        body = raw[at + _CONTROL.size : at + length]
        if level == _SOL_SOCKET and kind == _SCM_RIGHTS and socket.unix:
            files += [k.fds.get(fd) for (fd,) in struct.iter_unpack("<i", body[: len(body) & -4])]
            if len(files) > _SCM_MAX_FD:
                raise fail(errno.EINVAL)
        elif level == _SOL_SOCKET and kind == _SCM_CREDENTIALS and socket.unix:
            if len(body) != 12:
                raise fail(errno.EINVAL)
            pid, uid, gid = struct.unpack("<iii", body)
            own = k.credentials
            if pid != k.pid or uid not in own.users.all() or gid not in own.groups.all():
                raise fail(errno.EPERM)
        elif level == _SOL_SOCKET:
            raise fail(errno.EINVAL)
        at += (length + 7) & -8
    privileged = k.credentials.effective & (CAP_SYS_ADMIN | CAP_SYS_RESOURCE)
    if files and not privileged and socket.network.in_flight > k.rlimits[abi.RLIMIT_NOFILE][0]:
        raise fail(errno.ETOOMANYREFS)
    return tuple(files)
