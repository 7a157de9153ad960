"""Paths below a root directory, followed as chroot(2) would: no link and no `..` leads out of it."""

from __future__ import annotations

import os

from emu.core.errors import SysrootError

_MAX_LINKS = 40
"""Linux's limit on the links of one path (MAXSYMLINKS)."""


def resolve(root: str, path: str, *, follow: bool = True) -> str:
    """Return the host path that `path` has in the system under `root`, with no symbolic link left in it.

    An absolute link starts at `root` again, and `..` stays in it. What is not there is kept as it stands,
    so that it can be made. Without `follow` the last component may be a link. `root` must not contain links
    itself. Raises SysrootError for too many links.
    Source: path_resolution(7), chroot(2).
    """
    todo = path.split("/")[::-1]
    found: list[str] = []
    links = 0
    while todo:
        part = todo.pop()
        if part in ("", "."):
            continue
        if part == "..":
            del found[-1:]
            continue
        here = os.path.join(root, *found, part)
        if os.path.islink(here) and (follow or any(todo)):
            links += 1
            if links > _MAX_LINKS:
                raise SysrootError(f"{root}: {path}: too many symbolic links")
            target = os.readlink(here)
            if target.startswith("/"):
                found.clear()
            todo += target.split("/")[::-1]
        else:
            found.append(part)
    return os.path.join(root, *found)


def shown(root: str, host: str) -> str:
    """Return how the system under `root` calls a host path in it."""
    return "/" + os.path.relpath(host, root)
