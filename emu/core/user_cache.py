"""The user's cache: what emu has worked out once and may forget at any time.

A file counts only if it is a plain file of this user's in a folder of this user's, neither of which anybody
else may write, and if its content is what its head says: one that was cut short or changed is none. It
appears whole or not at all. EMU_NO_CACHE=1 leaves the cache alone.

Source: XDG Base Directory Specification; RFC 7693 (BLAKE2).
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress

try:
    from _blake2 import blake2b  # hashlib would load OpenSSL, which takes 4 ms
except ImportError:
    from hashlib import blake2b

from emu.core.record import NamedTuple

_HEAD = b"emu's cache, 1\n"
_DIGEST = 32
_LARGEST = 1 << 24
_MOST = 256
"""Files of one kind that are kept; the oldest go first."""
_SWITCH = "EMU_NO_CACHE"


class KeptKind(NamedTuple):
    """What the cache has of one kind: how many files, and their bytes."""

    kind: str
    files: int
    size: int


def is_wanted() -> bool:
    """Whether the user has not switched the cache off."""
    return os.environ.get(_SWITCH, "").lower() in ("", "0", "false", "no", "off")


def folder(kind: str = "") -> str:
    """Return the folder of one kind of things, or that of all."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(cache):
        cache = os.path.expanduser("~/.cache")
    return os.path.join(cache, "emu", kind)


def digest(data: bytes) -> bytes:
    """Return what stands for `data`."""
    return blake2b(data, digest_size=_DIGEST).digest()


def read(kind: str, name: str) -> bytes | None:
    """Return what is kept under a name, None where that is nothing or not to be trusted."""
    path = folder(kind)
    try:
        if not _is_own(os.stat(path), stat.S_IFDIR):
            return None
        descriptor = os.open(
            os.path.join(path, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        )
        with open(descriptor, "rb") as file:
            if not _is_own(os.fstat(descriptor), stat.S_IFREG):
                return None
            content = file.read(_LARGEST + 1)
    except OSError:
        return None
    start = len(_HEAD) + _DIGEST
    data = content[start:]
    return data if content[:start] == _HEAD + digest(data) and len(content) <= _LARGEST else None


def write(kind: str, name: str, data: bytes) -> None:
    """Keep `data` under a name, if that can be: a cache that cannot be written is none."""
    path = folder(kind)
    with suppress(OSError):
        os.makedirs(path, 0o700, exist_ok=True)
        new = os.path.join(path, f".{name}.{os.getpid()}")
        with suppress(FileNotFoundError):
            os.unlink(new)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(new, flags, 0o600), "wb") as file:
            file.write(_HEAD + digest(data) + data)
        os.replace(new, os.path.join(path, name))
        _drop_oldest(path)


def kinds() -> list[KeptKind]:
    """Return what the cache has. Sysroots are no part of it: the user has asked for them by name."""
    found = []
    for kind in _names(folder()):
        path = os.path.join(folder(), kind)
        if kind != "sysroots" and os.path.isdir(path):
            sizes = [os.lstat(os.path.join(path, name)).st_size for name in _names(path)]
            found.append(KeptKind(kind, len(sizes), sum(sizes)))
    return found


def clear(kind: str) -> int:
    """Remove all of one kind; return how many files that were. Raises OSError."""
    path = folder(kind)
    names = _names(path)
    for name in names:
        os.unlink(os.path.join(path, name))
    return len(names)


def _names(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except FileNotFoundError:
        return []


def _is_own(found: os.stat_result, kind: int) -> bool:
    others = stat.S_IWGRP | stat.S_IWOTH
    return stat.S_IFMT(found.st_mode) == kind and found.st_uid == os.geteuid() and not found.st_mode & others


def _drop_oldest(path: str) -> None:
    names = os.listdir(path)
    if len(names) > _MOST:
        paths = [os.path.join(path, name) for name in names]
        for old in sorted(paths, key=lambda one: os.lstat(one).st_mtime_ns)[: len(names) - _MOST]:
            os.unlink(old)
