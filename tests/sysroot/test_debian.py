"""`emu sysroot add debian:RELEASE`: apt fetches from a mirror (here a folder) and checks who signed it;
nothing of the packages is run.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from emu.core.errors import EXIT_SYSROOT, SysrootError
from emu.sysroot import debian
from tests.support import emu as run_emu
from tests.sysroot.support import LD_SO, LIBC, system

needs_apt = pytest.mark.skipif(
    not (shutil.which("apt-get") and shutil.which("dpkg-deb") and os.path.exists(debian.KEYRING)),
    reason="needs apt-get, dpkg-deb and Debian's keyring",
)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def _package(folder: Path, name: str, depends: str = "") -> str:
    """Build an almost empty package, its glibc in libc6; return its paragraph for a Packages file."""
    tree = folder / "tree"
    if name == "libc6":
        # As before a merged /usr: the unpacked files meet links.
        (tree / "lib64").mkdir(parents=True)
        (tree / "lib/x86_64-linux-gnu").mkdir(parents=True)
        root = system(folder / "system")
        for path in (LD_SO, LIBC):
            shutil.copy(root / path, tree / "lib/x86_64-linux-gnu")
        (tree / "lib64/ld-linux-x86-64.so.2").symlink_to("/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2")
    control = f"Package: {name}\nVersion: 1\nArchitecture: amd64\nMaintainer: m\nDescription: d\n"
    control += f"Depends: {depends}\n" if depends else ""
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(control)
    # It would say so if it were run.
    (tree / "DEBIAN/postinst").write_text(f"#!/bin/sh\ntouch {folder}/was-run\n")
    (tree / "DEBIAN/postinst").chmod(0o755)
    deb = folder / f"{name}.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Zgzip", "--build", tree, deb], check=True, capture_output=True
    )
    shutil.rmtree(tree)
    digest = hashlib.sha256(deb.read_bytes()).hexdigest()
    return f"{control}Filename: {deb.name}\nSize: {deb.stat().st_size}\nSHA256: {digest}\n"


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    folder = tmp_path / "mirror"
    folder.mkdir()
    texts = [_package(folder, name, "needed" if name == "bash" else "") for name in debian.PACKAGES]
    texts += [_package(folder, "needed"), _package(folder, "unasked")]
    index = folder / "dists/trixie/main/binary-amd64"
    index.mkdir(parents=True)
    (index / "Packages").write_text("\n".join(texts))
    return folder


def _suite(folder: Path, suite: str, paragraphs: list[str], *, automatic: bool = True) -> None:
    """Write a suite's list of packages, with the Release file by which apt knows its name."""
    index = folder / f"dists/{suite}/main/binary-amd64/Packages"
    index.parent.mkdir(parents=True)
    index.write_text("\n".join(paragraphs))
    digest, size = hashlib.sha256(index.read_bytes()).hexdigest(), index.stat().st_size
    (folder / f"dists/{suite}/Release").write_text(
        f"Suite: {suite}\nCodename: {suite}\nDate: Thu, 01 Jan 2026 00:00:00 UTC\nArchitectures: amd64\nComponents: main\n"
        f"NotAutomatic: {'no' if automatic else 'yes'}\nSHA256:\n {digest} {size} main/binary-amd64/Packages\n"
    )


@needs_apt
def test_experimental_is_sid_with_its_own_glibc(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of glibc comes from experimental, what it needs in its exact version too; nothing else does."""
    glibc = {"libc6", "libc6-dbg", "libc6-dev", "libc-bin", "needed"}
    old: list[str] = []
    later: list[str] = []
    other: list[str] = []
    for text in (mirror / "dists/trixie/main/binary-amd64/Packages").read_text().split("\n\n"):
        paragraph, name = text.rstrip() + "\n", text.split()[1]
        if name in glibc:
            paragraph += "Source: glibc\n"
            other_half = {"libc6": "needed", "needed": "libc6"}.get(name)
            for version, suite in ((1, old), (2, later)):
                suite.append(paragraph.replace("Version: 1", f"Version: {version}"))
                if other_half is not None:
                    suite[-1] += f"Depends: {other_half} (= {version})\n"
        else:
            other.append(paragraph)
            if name == "sed":
                later.append(paragraph.replace("Version: 1", "Version: 2") + "Depends: nowhere\n")
    _suite(mirror, "sid", old + other)
    _suite(mirror, "experimental", later, automatic=False)
    taken: list[str] = []
    monkeypatch.setattr(debian, "_unpack_package", lambda archive, _: taken.append(Path(archive).name))
    (tmp_path / "root").mkdir()
    source = debian.Source(f"file:{mirror}", "", signed=False)
    debian.unpack("experimental", str(tmp_path / "root"), source, debian.PACKAGES, lambda _: None)
    assert {name.removesuffix("_amd64.deb") for name in taken} == {
        f"{name}_{2 if name in glibc else 1}" for name in {*debian.PACKAGES, "needed"}
    }


@needs_apt
def test_a_release_is_fetched_and_unpacked(mirror: Path, tmp_path: Path) -> None:
    add = ["sysroot", "add", "debian:13", "--mirror", f"file:{mirror}"]
    unsigned = run_emu(*add, cwd=tmp_path)
    assert unsigned.exit == EXIT_SYSROOT and b"Debian trixie: " in unsigned.stderr, (
        "nobody signed that mirror"
    )
    assert run_emu("sysroot", "list", cwd=tmp_path).stdout == b""
    done = run_emu(*add, "--unsigned", cwd=tmp_path)
    assert done.exit == 0, done.stderr.decode()
    steps = done.stderr.decode().splitlines()
    unpacked = {step.rpartition(": ")[2] for step in steps if ": unpacking " in step}
    assert unpacked == {*debian.PACKAGES, "needed"}
    assert f"from file:{mirror} trixie (unsigned)" in done.stdout.decode()
    assert run_emu("call", "--sysroot", "debian:13", "libc.so.6", "abs", "-3", cwd=tmp_path).stdout == b"3\n"
    assert not (mirror / "was-run").exists()


@needs_apt
def test_what_the_mirror_has_not_is_named(mirror: Path, tmp_path: Path) -> None:
    add = ["sysroot", "add", "debian:13", "--mirror", f"file:{mirror}", "--unsigned", "--package", "gone"]
    done = run_emu(*add, cwd=tmp_path)
    assert done.exit == EXIT_SYSROOT
    assert done.stderr.decode().splitlines()[-1] == "emu: Debian trixie: Unable to locate package gone"
    (mirror / "libc6.deb").write_bytes(b"something else")
    done = run_emu(*add[:-2], cwd=tmp_path)
    assert done.exit == EXIT_SYSROOT and b"Traceback" not in done.stderr
    assert run_emu("sysroot", "list", cwd=tmp_path).stdout == b""


def test_without_apt_there_is_another_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SysrootError, match="needs apt-get and dpkg-deb.*add FILE.tar"):
        debian.find_source(None, True)


@needs_apt
def test_the_keyring_and_the_mirror_are_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: {"ID": "ubuntu"})
    with pytest.raises(SysrootError, match="say --mirror URL"):
        debian.find_source(None, True)
    assert debian.find_source("http://m.example/debian/", True) == debian.Source(
        "http://m.example/debian", "http://m.example/debian-security"
    )
    monkeypatch.setattr(debian, "KEYRING", str(tmp_path / "gone"))
    with pytest.raises(SysrootError, match="install the package debian-archive-keyring"):
        debian.find_source(None, True)
