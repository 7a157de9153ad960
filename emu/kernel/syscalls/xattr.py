"""Extended attributes. Source: xattr(7), setxattr(2), getxattr(2), listxattr(2), removexattr(2)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from emu.kernel import abi
from emu.kernel.errors import fail
from emu.kernel.fs.notices import IN_ATTRIB
from emu.kernel.run.credentials import CAP_SYS_ADMIN
from emu.kernel.syscalls.attributes import Target, place_of, tell
from emu.kernel.table import syscall

if TYPE_CHECKING:
    from emu.kernel.kernel import Kernel
    from emu.kernel.run.task import Task

_LONGEST_NAME, _LARGEST = 255, 65536
_XATTR_CREATE, _XATTR_REPLACE = 1, 2
_NAMESPACES = (b"user.", b"trusted.", b"security.")


def _name(k: Kernel, address: int) -> bytes:
    text = k.arena.read_cstr(address, _LONGEST_NAME + 1)
    if not 0 < len(text) <= _LONGEST_NAME:
        raise fail(errno.ERANGE)
    return text


def _at(k: Kernel, path: int, *, follow: bool) -> Target:
    return place_of(k, k.path(path), follow=follow)


def _attributes(k: Kernel, target: Target, name: bytes, *, write: bool) -> dict[bytes, bytes]:
    """Return the attributes of a file, of which `name` is to be read or changed.

    Raises OSError: EPERM, ENODATA, EACCES, EOPNOTSUPP, EINVAL. Source: Linux fs/xattr.c:xattr_permission.
    """
    inode = target.inode
    if name.startswith(b"trusted.") and not k.credentials.has(CAP_SYS_ADMIN):
        raise fail(errno.EPERM if write else errno.ENODATA)
    kind = inode.stat().mode & abi.S_IFMT if inode is not None else 0
    if name.startswith(b"user.") and kind not in (abi.S_IFREG, abi.S_IFDIR):
        raise fail(errno.EPERM if write else errno.ENODATA)
    if inode is None or not inode.takes_attributes:
        raise fail(errno.EOPNOTSUPP)
    if not name.startswith((b"security.", b"system.", b"trusted.")):
        k.fs.allow(inode, abi.W_OK if write else abi.R_OK)
    if name.startswith(b"system."):
        raise fail(errno.EOPNOTSUPP if write else errno.ENODATA)
    if not name.startswith(_NAMESPACES):
        raise fail(errno.EOPNOTSUPP)
    if name in _NAMESPACES:
        raise fail(errno.EINVAL)
    return inode.attributes()


def _get(k: Kernel, target: Target, name: bytes, value: int, size: int) -> int:
    found = _attributes(k, target, name, write=False).get(name)
    if found is None:
        raise fail(errno.ENODATA)
    return _give(k, found, value, size)


def _give(k: Kernel, data: bytes, address: int, size: int) -> int:
    """Store what there is, and return its length: with no room that alone. Raises OSError(ERANGE)."""
    if size:
        if size < len(data):
            raise fail(errno.ERANGE)
        k.arena.copy_out(address, data)
    return len(data)


@syscall(191, "getxattr", "path", "path", "ptr", "size")
def _sys_getxattr(k: Kernel, t: Task, path: int, name: int, value: int, size: int) -> int:
    text = _name(k, name)
    return _get(k, _at(k, path, follow=True), text, value, size)


@syscall(192, "lgetxattr", "path", "path", "ptr", "size")
def _sys_lgetxattr(k: Kernel, t: Task, path: int, name: int, value: int, size: int) -> int:
    text = _name(k, name)
    return _get(k, _at(k, path, follow=False), text, value, size)


@syscall(193, "fgetxattr", "fd", "path", "ptr", "size")
def _sys_fgetxattr(k: Kernel, t: Task, fd: int, name: int, value: int, size: int) -> int:
    text = _name(k, name)
    return _get(k, k.file(fd), text, value, size)


def _list(k: Kernel, target: Target, names: int, size: int) -> int:
    inode = target.inode
    found = inode.attributes() if inode is not None and inode.takes_attributes else {}
    trusted = k.credentials.has(CAP_SYS_ADMIN)
    shown = [name + b"\0" for name in found if trusted or not name.startswith(b"trusted.")]
    return _give(k, b"".join(shown), names, size)


@syscall(194, "listxattr", "path", "ptr", "size")
def _sys_listxattr(k: Kernel, t: Task, path: int, names: int, size: int) -> int:
    return _list(k, _at(k, path, follow=True), names, size)


@syscall(195, "llistxattr", "path", "ptr", "size")
def _sys_llistxattr(k: Kernel, t: Task, path: int, names: int, size: int) -> int:
    return _list(k, _at(k, path, follow=False), names, size)


@syscall(196, "flistxattr", "fd", "ptr", "size")
def _sys_flistxattr(k: Kernel, t: Task, fd: int, names: int, size: int) -> int:
    return _list(k, k.file(fd), names, size)


def _asked(k: Kernel, name: int, value: int, size: int, flags: int) -> tuple[bytes, bytes]:
    """Return name and value that are to be set. Raises OSError, MemoryFault."""
    if flags & ~(_XATTR_CREATE | _XATTR_REPLACE):
        raise fail(errno.EINVAL)
    text = _name(k, name)
    if size > _LARGEST:
        raise fail(errno.E2BIG)
    return text, k.arena.copy_in(value, size) if size else b""


def _set(k: Kernel, target: Target, asked: tuple[bytes, bytes], flags: int) -> int:
    name, value = asked
    known = _attributes(k, target, name, write=True)
    if flags & _XATTR_REPLACE and name not in known:
        raise fail(errno.ENODATA)
    if flags & _XATTR_CREATE and name in known:
        raise fail(errno.EEXIST)
    assert target.inode is not None
    target.inode.set_attribute(name, value)
    tell(k, target, IN_ATTRIB)
    return 0


@syscall(188, "setxattr", "path", "path", "ptr", "size", "int")
def _sys_setxattr(k: Kernel, t: Task, path: int, name: int, value: int, size: int, flags: int) -> int:
    asked = _asked(k, name, value, size, flags)
    return _set(k, _at(k, path, follow=True), asked, flags)


@syscall(189, "lsetxattr", "path", "path", "ptr", "size", "int")
def _sys_lsetxattr(k: Kernel, t: Task, path: int, name: int, value: int, size: int, flags: int) -> int:
    asked = _asked(k, name, value, size, flags)
    return _set(k, _at(k, path, follow=False), asked, flags)


@syscall(190, "fsetxattr", "fd", "path", "ptr", "size", "int")
def _sys_fsetxattr(k: Kernel, t: Task, fd: int, name: int, value: int, size: int, flags: int) -> int:
    file = k.file(fd)
    return _set(k, file, _asked(k, name, value, size, flags), flags)


def _remove(k: Kernel, target: Target, name: bytes) -> int:
    if name not in _attributes(k, target, name, write=True):
        raise fail(errno.ENODATA)
    assert target.inode is not None
    target.inode.set_attribute(name, None)
    tell(k, target, IN_ATTRIB)
    return 0


@syscall(197, "removexattr", "path", "path")
def _sys_removexattr(k: Kernel, t: Task, path: int, name: int) -> int:
    text = _name(k, name)
    return _remove(k, _at(k, path, follow=True), text)


@syscall(198, "lremovexattr", "path", "path")
def _sys_lremovexattr(k: Kernel, t: Task, path: int, name: int) -> int:
    text = _name(k, name)
    return _remove(k, _at(k, path, follow=False), text)


@syscall(199, "fremovexattr", "fd", "path")
def _sys_fremovexattr(k: Kernel, t: Task, fd: int, name: int) -> int:
    file = k.file(fd)
    return _remove(k, file, _name(k, name))
