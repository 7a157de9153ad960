"""The guest's tree over a small sysroot: walks, overlay, permissions, renames. Source: path_resolution(7)."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from emu.kernel import abi
from emu.kernel.fs.vfs import FileSystem


class Tree:
    """A file system over a directory of the test's, with what was charged for it."""

    def __init__(self, root: Path, uid: int = 0) -> None:
        self.root = root
        self.charged = 0
        self.fs = FileSystem(str(root), lambda: 42, self.charge, uid, uid)

    def charge(self, size: int) -> None:
        self.charged += size
        if self.charged > 1 << 20:
            self.charged -= size
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def read(self, path: str) -> bytes:
        file = self.fs.open(path, abi.O_RDONLY, 0)
        return file.read(1 << 16)

    def write(self, path: str, data: bytes, flags: int = abi.O_WRONLY | abi.O_CREAT) -> None:
        self.fs.open(path, flags, 0o644).write(data)

    def names(self, path: str) -> list[str]:
        directory = self.fs.open(path, abi.O_RDONLY | abi.O_DIRECTORY, 0)
        return sorted(name for name, _, _ in directory.entries() if name not in (".", ".."))


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    (tmp_path / "dir" / "inner").mkdir(parents=True)
    (tmp_path / "dir" / "file").write_text("host")
    (tmp_path / "link").symlink_to("dir/file")
    (tmp_path / "absolute").symlink_to("/dir/file")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "out").symlink_to("../../../../etc")
    return Tree(tmp_path)


def _fails(number: int) -> pytest.RaisesExc[OSError]:
    return pytest.raises(OSError, match=rf"\[Errno {number}\]")


@pytest.mark.parametrize(
    "path",
    [
        "/dir/file",
        "/dir/../dir/./file",
        "/link",
        "/absolute",
        "/dir/inner/../file",
        "dir/file",
        "/../../link",
    ],
)
def test_many_ways_lead_to_one_file(tree: Tree, path: str) -> None:
    assert tree.read(path) == b"host"


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/nothing", errno.ENOENT),
        ("/dir/file/more", errno.ENOTDIR),
        ("/dir/file/", errno.ENOTDIR),
        ("/loop", errno.ELOOP),
        ("/out/passwd", errno.ENOENT),
        ("", errno.ENOENT),
    ],
)
def test_ways_that_lead_nowhere(tree: Tree, path: str, error: int) -> None:
    with _fails(error):
        tree.read(path)


def test_a_change_is_the_guests_alone(tree: Tree) -> None:
    tree.write("/dir/file", b"GUEST", abi.O_WRONLY)
    tree.write("/dir/new", b"new")
    assert (tree.read("/link"), tree.read("/dir/new")) == (b"GUEST", b"new")
    assert (tree.root / "dir" / "file").read_text() == "host"
    assert not (tree.root / "dir" / "new").exists()
    assert tree.names("/dir") == ["file", "inner", "new"]


def test_what_is_removed_is_gone_and_can_come_again(tree: Tree) -> None:
    tree.fs.unlink("/dir/file")
    assert tree.names("/dir") == ["inner"]
    with _fails(errno.ENOENT):
        tree.read("/link")
    tree.write("/dir/file", b"again")
    assert tree.read("/link") == b"again"
    assert (tree.root / "dir" / "file").read_text() == "host"


def test_an_open_file_outlives_its_name(tree: Tree) -> None:
    file = tree.fs.open("/dir/file", abi.O_RDONLY, 0)
    tree.fs.unlink("/dir/file")
    assert file.read(9) == b"host"
    assert file.stat().nlink == 0


def test_exclusive_creation(tree: Tree) -> None:
    with _fails(errno.EEXIST):
        tree.fs.open("/dir/file", abi.O_WRONLY | abi.O_CREAT | abi.O_EXCL, 0o600)


def test_memory_is_charged_and_has_an_end(tree: Tree) -> None:
    file = tree.fs.open("/big", abi.O_RDWR | abi.O_CREAT, 0o600)
    before = tree.charged
    file.write(b"x" * 1000)
    assert tree.charged == before + 1000
    with _fails(errno.ENOSPC):
        file.pwrite(bytes(2 << 20), 0)
    file.truncate(0)
    assert tree.charged == before


def test_a_hole_costs_nothing(tree: Tree) -> None:
    file = tree.fs.open("/sparse", abi.O_RDWR | abi.O_CREAT, 0o600)
    before = tree.charged
    file.pwrite(b"x", 1 << 40)
    assert (file.stat().size, tree.charged - before) == ((1 << 40) + 1, 4096)
    assert file.pread(3, (1 << 40) - 2) == b"\0\0x"
    assert file.seek(0, abi.SEEK_DATA) == 1 << 40
    with _fails(errno.ENOSPC):
        file.pwrite(bytes(2 << 20), 4096)
    file.truncate(0)
    file.truncate(1 << 41)
    assert (file.pread(2, 1 << 40), tree.charged) == (b"\0\0", before)


def test_permissions_are_those_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (tmp_path / "secret").chmod(0o600)
    Tree(tmp_path).read("/secret")  # root may
    other = Tree(tmp_path, uid=12345)
    with _fails(errno.EACCES):
        other.read("/secret")
