"""Memory policies on a machine of one node, where every policy places pages alike.

Source: set_mempolicy(2), get_mempolicy(2), mbind(2); Linux mm/mempolicy.c: get_nodes, mpol_new.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from emu.kernel import abi
from emu.kernel.errors import fail
from emu.kernel.table import syscall

if TYPE_CHECKING:
    from emu.kernel.kernel import Kernel
    from emu.kernel.run.task import Task

_DEFAULT, _PREFERRED, _BIND, _INTERLEAVE, _LOCAL, _PREFERRED_MANY = range(6)
_MODE_FLAGS = 1 << 15 | 1 << 14 | 1 << 13
_F_NODE, _F_ADDR, _F_MEMS_ALLOWED = 1, 2, 4
_MOVE_FLAGS = 1 | 2
_MOST_NODES = abi.PAGE_SIZE * 8
_NODES = 1
"""Nodes that there are, as a mask."""


def _nodes(k: Kernel, address: int, count: int) -> int:
    """Return a guest's mask of nodes; `count` is one more than its bits. Raises OSError(EINVAL)."""
    count -= 1
    if count <= 0 or not address:
        return 0
    if count > _MOST_NODES:
        raise fail(errno.EINVAL)
    return int.from_bytes(k.arena.copy_in(address, (count + 63) // 64 * 8), "little") & (1 << count) - 1


def _policy(mode: int, nodes: int) -> tuple[int, int]:
    """Return mode and nodes of a policy. Raises OSError(EINVAL)."""
    kind = mode & ~_MODE_FLAGS
    if not _DEFAULT <= kind <= _PREFERRED_MANY or nodes & ~_NODES and not nodes & _NODES:
        raise fail(errno.EINVAL)
    if kind in (_DEFAULT, _LOCAL):
        if nodes:
            raise fail(errno.EINVAL)
        return kind, 0
    if not nodes:
        if kind == _PREFERRED:
            return _LOCAL, 0
        raise fail(errno.EINVAL)
    return mode, nodes & _NODES


@syscall(238, "set_mempolicy", "int", "ptr", "size")
def _sys_set_mempolicy(k: Kernel, t: Task, mode: int, address: int, count: int) -> int:
    t.memory_policy = _policy(mode, _nodes(k, address, count))
    return 0


@syscall(239, "get_mempolicy", "ptr", "ptr", "size", "ptr", "hex")
def _sys_get_mempolicy(
    k: Kernel, t: Task, mode: int, address: int, count: int, place: int, flags: int
) -> int:
    if flags & ~(_F_NODE | _F_ADDR | _F_MEMS_ALLOWED) or address and count < _NODES.bit_length():
        raise fail(errno.EINVAL)
    value, nodes = t.memory_policy
    if flags & _F_MEMS_ALLOWED:
        if flags & (_F_NODE | _F_ADDR):
            raise fail(errno.EINVAL)
        value, nodes = 0, _NODES
    elif flags & _F_ADDR:
        if k.space.find(place) is None:
            raise fail(errno.EFAULT)
        if not flags & _F_NODE:
            return k.refuse("get_mempolicy (239) of an address")
        value = 0
    elif place:
        raise fail(errno.EINVAL)
    elif flags & _F_NODE:
        if value & ~_MODE_FLAGS != _INTERLEAVE:
            raise fail(errno.EINVAL)
        value = 0
    size = (count + 62) // 64 * 8
    if address and size > abi.PAGE_SIZE:
        raise fail(errno.EINVAL)
    if mode:
        k.arena.copy_out(mode, value.to_bytes(4, "little"))
    if address:
        k.arena.copy_out(address, nodes.to_bytes(size, "little"))
    return 0


@syscall(237, "mbind", "ptr", "size", "int", "ptr", "size", "uint")
def _sys_mbind(
    k: Kernel, t: Task, place: int, size: int, mode: int, address: int, count: int, flags: int
) -> int:
    if place & (abi.PAGE_SIZE - 1) or flags & ~(_MOVE_FLAGS | 4):
        raise fail(errno.EINVAL)
    _policy(mode, _nodes(k, address, count))
    at, end = place, place + size
    while at < end:
        area = k.space.find(at)
        if area is None:
            raise fail(errno.EFAULT)
        at = area.end
    return 0
