"""Archives are written below the root and nowhere else, whatever they say."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.core.errors import SysrootError
from emu.sysroot import image, inside
from emu.sysroot.unpack import Unpacker
from tests.sysroot.support import file, folder, link, special, tar, tree


def _unpack(root: Path, *members: tuple[tarfile.TarInfo, bytes], keep_links: bool = True) -> Unpacker:
    root.mkdir(exist_ok=True)
    unpacker = Unpacker(str(root), "t.tar", keep_links=keep_links)
    with tarfile.open(fileobj=io.BytesIO(tar(members))) as archive:
        unpacker.unpack(archive)
    return unpacker


def test_links_are_kept_and_followed_inside(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (tmp_path / "outside").mkdir()
    _unpack(
        root,
        link("abs", f"{tmp_path}/outside"),
        file("abs/one", b"1"),
        link("up", "../../../../outside"),
        file("up/two", b"2"),
        link("lib", "usr/lib"),
        file("lib/three", b"3"),
    )
    inner = str(tmp_path)[1:]
    found = tree(root)
    assert found["abs"] == f"-> {tmp_path}/outside"
    assert (found[f"{inner}/outside/one"], found["outside/two"], found["usr/lib/three"]) == ("1", "2", "3")
    assert not os.listdir(tmp_path / "outside")


def test_a_file_takes_the_place_of_a_link_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("as it was")
    _unpack(tmp_path / "root", link("x", f"{tmp_path}/victim"), file("x", b"new"))
    assert tree(tmp_path / "root") == {"x": "new"}
    assert (tmp_path / "victim").read_text() == "as it was"


@pytest.mark.parametrize(
    ("members", "complaint"),
    [
        ([file("../x")], "its member '../x' leads out of it"),
        ([file("a/../../x")], "leads out of it"),
        ([folder("/..")], "leads out of it"),
        ([link("x", "../../etc/passwd", tarfile.LNKTYPE)], "'../../etc/passwd' leads out of it"),
        ([link("x", "/etc/passwd", tarfile.LNKTYPE)], "hard link to '/etc/passwd', which is not there"),
        ([folder("d"), link("x", "d", tarfile.LNKTYPE)], "hard link to 'd', which is not there"),
        ([file("a"), file("a/b")], "its member 'a/b' is below something that is no folder"),
        ([link("a", "b"), link("b", "a"), file("a/x")], "too many symbolic links"),
    ],
)
def test_what_is_refused(
    tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes]], complaint: str
) -> None:
    with pytest.raises(SysrootError) as caught:
        _unpack(tmp_path / "root", *members)
    assert complaint in str(caught.value) and "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["root"]


def _pax(**headers: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info, content = file("p", b"0123456789")
        info.pax_headers = {name.replace("_", "."): value for name, value in headers.items()}
        archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def _long(name: bytes, size: int | None = None, times: int = 1) -> bytes:
    head = tarfile.TarInfo("././@LongLink")
    head.type, head.size = tarfile.GNUTYPE_LONGNAME, len(name) if size is None else size
    return (
        (head.tobuf() + name + bytes(-len(name) % 512)) * times + tarfile.TarInfo("z").tobuf() + bytes(1024)
    )


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (tar([file("/".join(["d"] * 900))]), "is more than 255 folders deep"),
        (tar([link("a", "/".join(["d"] * 200)), file("a/" * 2 + "d/" * 100 + "x")]), "folders deep"),
        (_pax(mtime="nan"), "NaN"),
        (
            _pax(GNU_sparse_major="1", GNU_sparse_minor="0", GNU_sparse_name="../x"),
            "not a tar archive, damaged",
        ),
        (_pax(GNU_sparse_map="0,5,2199023255552,5", GNU_sparse_size=str(1 << 41)), "more than 64 GiB"),
        (_pax(size=str(1 << 62)), "not a tar archive, damaged"),
        (tar([file("x")])[:512] + _long(b"n" * 600, 1 << 30), "has 1073741824 bytes"),
        (_long(b"a", times=3000), "recursion"),
    ],
)
def test_archives_that_want_too_much(tmp_path: Path, content: bytes, complaint: str) -> None:
    path, root = tmp_path / "t.tar", tmp_path / "root"
    path.write_bytes(content)
    root.mkdir()
    with pytest.raises(SysrootError) as caught:
        image.unpack(str(path), str(root), None, lambda line: None)
    assert complaint in str(caught.value) and "\n" not in str(caught.value)


def test_hard_links_to_a_link_and_to_a_file(tmp_path: Path) -> None:
    root = tmp_path / "root"
    _unpack(
        root,
        file("a", b"x"),
        link("s", "/etc/passwd"),
        *(link(n, t, tarfile.LNKTYPE) for n, t in ("ba", "ts", "aa")),
    )
    assert tree(root) == {"a": "x", "b": "x", "s": "-> /etc/passwd", "t": "-> /etc/passwd"}
    assert (root / "a").stat().st_ino == (root / "b").stat().st_ino


def test_modes_and_what_is_left_out(tmp_path: Path) -> None:
    root = tmp_path / "root"
    unpacker = _unpack(
        root,
        folder("shut", 0o000),
        file("shut/su", b"x", 0o4755),
        file("none", b"x", 0o000),
        special("null"),
        special("pipe", tarfile.FIFOTYPE),
    )
    assert unpacker.special == 2
    modes = {name: stat.S_IMODE((root / name).stat().st_mode) for name in ("shut", "shut/su", "none")}
    assert modes == {"shut": 0o700, "shut/su": 0o755, "none": 0o600}


def test_a_folder_on_a_link_goes_where_it_leads_or_takes_its_place(tmp_path: Path) -> None:
    members = (link("lib", "usr/lib"), folder("lib"), file("lib/x"))
    _unpack(tmp_path / "package", *members)
    _unpack(tmp_path / "layer", *members, keep_links=False)
    assert sorted(tree(tmp_path / "package")) == ["lib", "usr", "usr/lib", "usr/lib/x"]
    assert tree(tmp_path / "layer") == {"lib": "/", "lib/x": ""}


_NAME = st.lists(st.sampled_from(["a", "b", "c", ".", ""]), min_size=1, max_size=3).map("/".join)
_TARGET = st.lists(st.sampled_from(["a", "b", "c", "..", "", "outside"]), max_size=5).map("/".join)
_MEMBER = st.one_of(
    st.builds(file, _NAME, st.just(b"new")),
    st.builds(folder, _NAME),
    st.builds(link, _NAME, _TARGET),
    st.builds(link, _NAME, _TARGET, st.just(tarfile.LNKTYPE)),
)


@given(st.lists(_MEMBER, max_size=8), st.booleans())
def test_nothing_outside_is_touched(members: list[tuple[tarfile.TarInfo, bytes]], keep_links: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        base = Path(os.path.realpath(name))
        (base / "outside").mkdir()
        (base / "outside" / "a").write_text("old")
        with suppress(SysrootError, OSError):  # refused is as good
            _unpack(base / "root", *members, keep_links=keep_links)
        (root,) = [path for path in base.iterdir() if path.name != "outside"]
        assert root.name == "root" and tree(base / "outside") == {"a": "old"}


@given(_TARGET, st.lists(st.tuples(_NAME, _TARGET), max_size=4))
def test_no_path_leads_out(path: str, links: list[tuple[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(os.path.realpath(name)) / "root"
        try:
            _unpack(root, *(link(*each) for each in links))
            found = inside.resolve(str(root), path)
        except (SysrootError, OSError):
            return
        assert found == str(root) or found.startswith(f"{root}/")
        assert os.path.realpath(found) == found
