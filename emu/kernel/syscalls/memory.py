"""Memory: mmap and its kin, brk, madvise.

Source: mmap(2), mremap(2), brk(2), madvise(2), mincore(2), membarrier(2), pkey_alloc(2).
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from emu.kernel import abi
from emu.kernel.errors import fail
from emu.kernel.fs.directory import DirectoryFile
from emu.kernel.fs.inodes import RegularFile
from emu.kernel.table import syscall
from emu.machine.arena import HIGH_END

if TYPE_CHECKING:
    from emu.kernel.kernel import Kernel
    from emu.kernel.run.task import Task

_PAGE = abi.PAGE_SIZE
_PROT_ALL = abi.PROT_READ | abi.PROT_WRITE | abi.PROT_EXEC
_MAP_NORESERVE = 0x4000
_MS_ASYNC, _MS_INVALIDATE, _MS_SYNC = 1, 2, 4
_MADV_DONTNEED, _MADV_FREE, _MADV_REMOVE = 4, 8, 9
_MADV_GUARDS = {102: True, 103: False}
"""MADV_GUARD_INSTALL and MADV_GUARD_REMOVE: Linux 6.13's,
which pthread_create of glibc 2.42 and later asks for.
"""
_MADV_DONTFORK, _MADV_DOFORK, _MADV_WIPEONFORK, _MADV_KEEPONFORK = 10, 11, 18, 19
_MADV_OF_FORK = (_MADV_DONTFORK, _MADV_DOFORK, _MADV_WIPEONFORK, _MADV_KEEPONFORK)
_MADV_ACCEPTED = frozenset((0, 1, 2, 3, 8, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 25))
_MREMAP_MAYMOVE, _MREMAP_FIXED, _MREMAP_DONTUNMAP = 1, 2, 4


def _page_up(value: int) -> int:
    return (value + _PAGE - 1) & -_PAGE


@syscall(9, "mmap", "ptr", "size", "flags:prot", "flags:map", "fd", "hex")
def _sys_mmap(
    k: Kernel, t: Task, address: int, length: int, prot: int, flags: int, fd: int, offset: int
) -> int:
    if offset & (_PAGE - 1) or length == 0 or prot & ~(_PROT_ALL | 8):
        raise fail(errno.EINVAL)
    if length > 1 << 47:
        raise fail(errno.ENOMEM)
    kind = flags & abi.MAP_TYPE
    if kind not in (abi.MAP_SHARED, abi.MAP_PRIVATE, abi.MAP_SHARED_VALIDATE):
        raise fail(errno.EINVAL)
    if flags & abi.MAP_HUGETLB:
        raise fail(errno.ENOMEM)  # no huge pages are set aside
    noreplace = bool(flags & abi.MAP_FIXED_NOREPLACE)
    fixed = noreplace or bool(flags & abi.MAP_FIXED)
    if fixed and address & (_PAGE - 1):
        raise fail(errno.EINVAL)
    shared = kind != abi.MAP_PRIVATE
    backing = None
    if not flags & abi.MAP_ANONYMOUS:
        file = k.file(fd)
        if not file.readable:
            raise fail(errno.EACCES)
        if shared and prot & abi.PROT_WRITE and not file.writable:
            raise fail(errno.EACCES)
        if isinstance(file, RegularFile):
            backing = file
        elif not _is_zero_device(file.path):
            raise fail(
                errno.ENODEV
                if isinstance(file, DirectoryFile)
                else errno.EACCES
                if file.seekable
                else errno.ENODEV
            )
    if flags & abi.MAP_32BIT and not fixed:
        address = _low_gap(k, address & ~(_PAGE - 1), length)
        fixed = noreplace = True
    if fixed and address + length > HIGH_END:
        raise fail(errno.ENOMEM)
    if fixed and not k.space.has_place(address, length, prot, backing):
        k.report_once(
            "mmap beyond the windows",
            f"emu: mmap of {length:#x} bytes at {address:#x} is not supported: no memory of emu lies there; the program was told ENOMEM",
        )
    return k.space.mmap(
        address, length, prot & _PROT_ALL, fixed=fixed, noreplace=noreplace, shared=shared, backing=backing,
        offset=offset if backing is not None else 0, grows_down=bool(flags & abi.MAP_GROWSDOWN),
        reserve=not flags & _MAP_NORESERVE,
    )  # fmt: skip


def _is_zero_device(path: str) -> bool:
    return path == "/dev/zero"


def _low_gap(k: Kernel, hint: int, length: int) -> int:
    """Return the hint if it is free and below 2 GiB, or the lowest free
    place from 1 GiB to 2 GiB (MAP_32BIT).
    """
    length = _page_up(length)
    place, end = 0x4000_0000, 0x8000_0000
    if hint and hint + length <= end and not any(k.space.overlapping(hint, hint + length)):
        return hint
    for area in k.space.overlapping(place, end):
        if place + length <= area.start:
            break
        place = area.end
    if place + length > end:
        raise fail(errno.ENOMEM)
    return place


@syscall(11, "munmap", "ptr", "size")
def _sys_munmap(k: Kernel, t: Task, address: int, length: int) -> int:
    if address & (_PAGE - 1) or not 0 < length <= HIGH_END or address + length > HIGH_END:
        raise fail(errno.EINVAL)
    k.space.munmap(address, length)
    return 0


@syscall(10, "mprotect", "ptr", "size", "flags:prot")
def _sys_mprotect(k: Kernel, t: Task, address: int, length: int, prot: int) -> int:
    if address & (_PAGE - 1) or prot & ~(_PROT_ALL | 8 | abi.PROT_GROWSDOWN | abi.PROT_GROWSUP):
        raise fail(errno.EINVAL)
    if length == 0:
        return 0
    if length > 1 << 47:
        raise fail(errno.ENOMEM)
    if prot & abi.PROT_GROWSDOWN:
        area = k.space.find(address)
        if area is None or area.name != "[stack]":
            raise fail(errno.EINVAL)
        length, address = address + length - area.start, area.start
    if prot & abi.PROT_WRITE:
        for area in k.space.overlapping(address, address + length):
            if area.shared and isinstance(area.backing, RegularFile) and not area.backing.writable:
                raise fail(errno.EACCES)
    k.space.mprotect(address, length, prot & _PROT_ALL)
    return 0


@syscall(329, "pkey_mprotect", "ptr", "size", "flags:prot", "int")
def _sys_pkey_mprotect(k: Kernel, t: Task, address: int, length: int, prot: int, key: int) -> int:
    if key != -1:
        raise fail(errno.EINVAL)
    return _sys_mprotect(k, t, address, length, prot)


@syscall(330, "pkey_alloc", "int", "hex")
def _sys_pkey_alloc(k: Kernel, t: Task, flags: int, rights: int) -> int:
    raise fail(errno.EINVAL)  # as Linux has it where the CPU has no protection keys


@syscall(331, "pkey_free", "int")
def _sys_pkey_free(k: Kernel, t: Task, key: int) -> int:
    raise fail(errno.EINVAL)


@syscall(25, "mremap", "ptr", "size", "size", "hex", "ptr")
def _sys_mremap(k: Kernel, t: Task, old: int, old_size: int, new_size: int, flags: int, new: int) -> int:
    if old_size > 1 << 47 or not 0 < new_size <= 1 << 47:
        raise fail(errno.EINVAL)
    if flags & _MREMAP_DONTUNMAP:
        return _leave_mapped(k, old, _page_up(old_size), _page_up(new_size), flags & ~_MREMAP_DONTUNMAP, new)
    return k.space.mremap(old, old_size, new_size, flags, new)


def _leave_mapped(k: Kernel, old: int, old_size: int, new_size: int, flags: int, new: int) -> int:
    """Move the pages of a mapping and leave it there, empty (MREMAP_DONTUNMAP)."""
    if not flags & _MREMAP_MAYMOVE or old_size != new_size:
        raise fail(errno.EINVAL)
    area = k.space.find(old)
    if area is None or old + old_size > area.end:
        raise fail(errno.EFAULT)
    if area.shared or area.backing is not None:
        return k.refuse("mremap (25) with MREMAP_DONTUNMAP of a file's or a shared mapping")
    prot, name = area.prot, area.name
    if not flags & _MREMAP_FIXED:
        flags, new = flags | _MREMAP_FIXED, k.space.find_gap(new_size)
    moved = k.space.mremap(old, old_size, new_size, flags, new)
    k.space.mmap(old, old_size, prot, fixed=True, name=name)
    return moved


@syscall(12, "brk", "ptr")
def _sys_brk(k: Kernel, t: Task, wanted: int) -> int:
    if wanted < k.brk_start or wanted > 1 << 47:
        return k.brk
    old_end, new_end = _page_up(k.brk), _page_up(wanted)
    try:
        if new_end > old_end:
            k.space.mmap(
                old_end,
                new_end - old_end,
                abi.PROT_READ | abi.PROT_WRITE,
                fixed=True,
                noreplace=True,
                name="[heap]",
            )
        elif new_end < old_end:
            k.space.munmap(new_end, old_end - new_end)
    except OSError:
        return k.brk
    k.brk = wanted
    return wanted


@syscall(28, "madvise", "ptr", "size", "int")
def _sys_madvise(k: Kernel, t: Task, address: int, length: int, advice: int) -> int:
    if address & (_PAGE - 1) or length > 1 << 47:
        raise fail(errno.EINVAL)
    if advice not in _MADV_ACCEPTED and advice not in _MADV_GUARDS and advice != _MADV_DONTNEED:
        raise fail(errno.EINVAL)
    if length == 0:
        return 0
    _require_mapped(k, address, length)
    if advice == _MADV_DONTNEED:
        k.space.discard(address, length)
    elif advice in _MADV_GUARDS:
        k.space.guard(address, length, _MADV_GUARDS[advice])
    elif advice in _MADV_OF_FORK:
        _advise_fork(k, address, address + _page_up(length), advice)
    return 0


def _advise_fork(k: Kernel, start: int, end: int, advice: int) -> None:
    """Note what a child is to have of a range; only private anonymous memory can be zero for it."""
    lacks = advice in (_MADV_DONTFORK, _MADV_DOFORK)
    wanted = advice in (_MADV_DONTFORK, _MADV_WIPEONFORK)
    areas = k.space.overlapping(start, end)
    if advice == _MADV_WIPEONFORK and any(area.shared or area.backing is not None for area in areas):
        raise fail(errno.EINVAL)
    k.space.fork_advice.give(start, end, lacks=lacks, wanted=wanted)


def _require_mapped(k: Kernel, address: int, length: int) -> None:
    at, end = address, address + _page_up(length)
    for area in k.space.overlapping(address, end):
        if area.start > at:
            break
        at = area.end
    if at < end:
        raise fail(errno.ENOMEM)


@syscall(26, "msync", "ptr", "size", "int")
def _sys_msync(k: Kernel, t: Task, address: int, length: int, flags: int) -> int:
    if address & (_PAGE - 1) or flags & ~7 or flags & _MS_ASYNC and flags & _MS_SYNC:
        raise fail(errno.EINVAL)
    if length:
        _require_mapped(k, address, length)
        k.space.sync(address, length)
    return 0


@syscall(27, "mincore", "ptr", "size", "ptr")
def _sys_mincore(k: Kernel, t: Task, address: int, length: int, vector: int) -> int:
    if address & (_PAGE - 1):
        raise fail(errno.EINVAL)
    _require_mapped(k, address, length)
    end = vector + _page_up(length) // _PAGE
    while vector < end and k.arena.budget.room():  # where there is no room the trap ends in that
        piece = min(end - vector, _PAGE)
        k.arena.copy_out(vector, b"\1" * piece)
        vector += piece
    return 0


@syscall(149, "mlock", "ptr", "size")
def _sys_mlock(k: Kernel, t: Task, address: int, length: int) -> int:
    if length:
        start = address & -_PAGE
        _require_mapped(k, start, address + length - start)
    return 0


@syscall(150, "munlock", "ptr", "size")
def _sys_munlock(k: Kernel, t: Task, address: int, length: int) -> int:
    return _sys_mlock(k, t, address, length)


@syscall(325, "mlock2", "ptr", "size", "int")
def _sys_mlock2(k: Kernel, t: Task, address: int, length: int, flags: int) -> int:
    if flags & ~1:
        raise fail(errno.EINVAL)
    return _sys_mlock(k, t, address, length)


@syscall(151, "mlockall", "int")
def _sys_mlockall(k: Kernel, t: Task, flags: int) -> int:
    if not flags or flags & ~7 or flags == 4:
        raise fail(errno.EINVAL)
    return 0


@syscall(152, "munlockall")
def _sys_munlockall(k: Kernel, t: Task) -> int:
    return 0
