"""Small systems and archives to make sysroots from."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from typing import TYPE_CHECKING

from emu.sysroot.inspect import INTERPRETER, inspect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

HOME = "usr/lib/x86_64-linux-gnu"
LD_SO, LIBC = f"{HOME}/ld-linux-x86-64.so.2", f"{HOME}/libc.so.6"


def system(root: Path) -> Path:
    """Lay out this machine's glibc as a distribution does: a merged /usr, and absolute links."""
    here = inspect("/")
    (root / HOME).mkdir(parents=True)
    (root / "usr/lib64").mkdir()
    shutil.copy(here.ld_so, root / LD_SO)
    shutil.copy(here.libc, root / LIBC)
    for name in ("lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    (root / "usr" / INTERPRETER[1:]).symlink_to(f"/{LD_SO}")
    return root


def change(path: Path, edit: Callable[[bytes], bytes]) -> None:
    path.write_bytes(edit(path.read_bytes()))


def file(name: str, content: bytes = b"", mode: int = 0o644) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), mode
    return info, content


def folder(name: str, mode: int = 0o755) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, mode
    return info, b""


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


def special(name: str, kind: bytes = tarfile.CHRTYPE) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type = kind
    return info, b""


def tar(members: Iterable[tuple[tarfile.TarInfo, bytes]], mode: str = "w") -> bytes:
    """Return an archive of the members, in that order; `mode` as tarfile has it (`w:gz`)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def packed(root: Path, mode: str = "w") -> bytes:
    """Return an archive of a whole folder."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        for name in sorted(os.listdir(root)):
            archive.add(root / name, name)
    return out.getvalue()


def tree(root: Path) -> dict[str, str]:
    """Return everything below a folder: links with their targets, files with their content."""
    found = {}
    for parent, folders, files in os.walk(root):
        for name in folders + files:
            path = os.path.join(parent, name)
            shown = os.path.relpath(path, root)
            if os.path.islink(path):
                found[shown] = "-> " + os.readlink(path)
            elif os.path.isfile(path):
                with open(path, "rb") as content:
                    found[shown] = content.read().decode("latin-1")
            else:
                found[shown] = "/"
    return found
