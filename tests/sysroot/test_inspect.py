"""What a folder must have to be a sysroot:
each thing that is wrong is named, wherever `--sysroot` is taken.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import emu
from emu.core.errors import EXIT_SYSROOT, SysrootError
from emu.sysroot.inspect import INTERPRETER, inspect
from tests.support import compile_c
from tests.support import emu as run_emu
from tests.sysroot.support import LD_SO, LIBC, change, system

VERSION = inspect("/").version.encode()
OTHER = b"2.99" if len(VERSION) == 4 else b"2.9"


def test_this_system_is_one() -> None:
    found = inspect("/")
    assert found.version.startswith("2.") and found.libc.endswith("/libc.so.6")


def test_links_are_followed_inside(tmp_path: Path) -> None:
    found = inspect(str(system(tmp_path / "root")))
    assert (found.ld_so, found.libc) == (f"/{LD_SO}", f"/{LIBC}")
    assert found[:2] == inspect("/")[:2]


def _machine(content: bytes) -> bytes:
    return content[:18] + (183).to_bytes(2, "little") + content[20:]


def _no_glibc(root: Path) -> None:
    shutil.rmtree(root / "usr")


def _no_libc(root: Path) -> None:
    (root / LIBC).unlink()


def _no_ld_so(root: Path) -> None:
    (root / LD_SO).unlink()


def _no_link(root: Path) -> None:
    (root / "usr" / INTERPRETER[1:]).unlink()


def _cut_off(root: Path) -> None:
    change(root / LIBC, lambda content: content[: len(content) // 2])


def _empty(root: Path) -> None:
    change(root / LIBC, lambda content: b"")


def _text(root: Path) -> None:
    change(root / LIBC, lambda content: b"GROUP ( /lib/libc.so.6 )".ljust(200))


def _foreign_libc(root: Path) -> None:
    change(root / LIBC, _machine)


def _foreign_ld_so(root: Path) -> None:
    change(root / LD_SO, _machine)


def _aarch64(root: Path) -> None:
    (root / "usr/lib/ld-linux-aarch64.so.1").write_bytes(_machine((root / LD_SO).read_bytes()))
    _no_link(root)


def _musl(root: Path) -> None:
    (root / "usr/lib/ld-musl-x86_64.so.1").write_bytes(b"")
    _no_link(root)


def _other_release(root: Path) -> None:
    change(
        root / LD_SO,
        lambda content: content.replace(b"release version " + VERSION, b"release version " + OTHER),
    )


def _older_ld_so(root: Path) -> None:
    # Before 2.33 ld.so does not tell its release: what is left are the versions that libc needs of it.
    change(
        root / LD_SO,
        lambda content: content.replace(b" release version 2.", b" release number. 2.").replace(
            b"GLIBC_PRIVATE", b"GLIBC_PRIVATF"
        ),
    )


def _no_release(root: Path) -> None:
    change(root / LIBC, lambda content: content.replace(b" release version 2.", b" release number. 2."))


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (_no_glibc, "neither /lib64/ld-linux-x86-64.so.2 nor a libc.so.6 in it: not a system with glibc"),
        (_no_libc, f"no libc.so.6 in it, but /{LD_SO}: half unpacked"),
        (_no_ld_so, f"half unpacked: /lib64/ld-linux-x86-64.so.2 leads to /{LD_SO}, which is not there"),
        (
            _no_link,
            "libc.so.6 is there, but no /lib64/ld-linux-x86-64.so.2: half unpacked, or of another machine",
        ),
        (_cut_off, f"/{LIBC} is damaged or cut off: "),
        (_empty, f"half unpacked: /{LIBC} is empty"),
        (_text, f"/{LIBC} is damaged or cut off: invalid ELF header"),
        (_foreign_libc, f"of another machine: /{LIBC}, AArch64"),
        (_foreign_ld_so, f"of another machine: /{LD_SO}, AArch64"),
        (_aarch64, "of another machine: its ld.so is /lib/ld-linux-aarch64.so.1, AArch64"),
        (_musl, "its libc is musl (/lib/ld-musl-x86_64.so.1), not glibc: its programs run with --ldso real"),
        (_other_release, f"/{LD_SO} ("),
        (_older_ld_so, f"/{LD_SO} does not belong to /{LIBC}, which needs its version GLIBC_PRIVATE"),
        (_no_release, f"/{LIBC} is not glibc's: no release version in it"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, spoil: Callable[[Path], None], complaint: str) -> None:
    root = system(tmp_path / "root")
    spoil(root)
    with pytest.raises(SysrootError) as caught:
        inspect(str(root))
    text = str(caught.value)
    assert text.startswith(f"{root}: ") and complaint in text and "\n" not in text


def test_a_release_that_does_not_belong_names_both(tmp_path: Path) -> None:
    root = system(tmp_path / "root")
    _other_release(root)
    with pytest.raises(SysrootError, match=r"\) does not belong to /usr/.*libc.so.6 \("):
        inspect(str(root), "it")


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SysrootError, match="file: not a folder$"):
        inspect(str(tmp_path / "file"))
    with pytest.raises(SysrootError, match="gone: no such folder$"):
        inspect(str(tmp_path / "gone"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sysroot with programs: hello, and one without an interpreter."""
    root = system(tmp_path_factory.mktemp("sysroot") / "root")
    (root / "hello.c").write_text('#include <stdio.h>\nint main(void) { puts("hello"); }\n')
    compile_c(root, "-o", "hello", "hello.c")
    (root / "bare.c").write_text('void _start(void) { __asm__("mov $60, %eax; mov $7, %edi; syscall"); }\n')
    compile_c(root, "-static", "-nostdlib", "-o", "bare", "bare.c")
    return root


COMMANDS = [
    ["run", "/hello"], ["ldd", "/hello"], ["maps", "/hello"], ["explain", "/hello", "puts"], ["why", "/hello", "libc.so.6"],
    ["check", "/hello"], ["call", "libc.so.6", "abs", "-3"],
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_every_command_names_a_broken_sysroot(root: Path, tmp_path: Path, command: list[str]) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(root, broken, symlinks=True)
    _no_libc(broken)
    name, *rest = command
    done = run_emu(name, "--sysroot", str(broken), *rest, cwd=tmp_path)
    assert (done.exit, done.stdout) == (EXIT_SYSROOT, b"")
    assert done.stderr.decode() == f"emu: {broken}: no libc.so.6 in it, but /{LD_SO}: half unpacked\n"


def test_a_sysroot_runs_and_one_without_ld_so_is_named(root: Path, tmp_path: Path) -> None:
    assert run_emu("run", "--sysroot", str(root), "/hello", cwd=tmp_path).stdout == b"hello\n"
    broken = tmp_path / "broken"
    shutil.copytree(root, broken, symlinks=True)
    _no_ld_so(broken)
    done = run_emu("run", "--sysroot", str(broken), "/hello", cwd=tmp_path)
    assert done.exit == EXIT_SYSROOT and b"half unpacked: /lib64/ld-linux-x86-64.so.2 leads to" in done.stderr
    # A program that needs neither libc nor ld.so has no quarrel with that.
    assert run_emu("run", "--sysroot", str(broken), "/bare", cwd=tmp_path).exit == 7


def test_python_raises_it(root: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(root, broken, symlinks=True)
    _no_libc(broken)
    with (
        pytest.raises(SysrootError, match="no libc.so.6 in it"),
        emu.Process("/hello", sysroot=str(broken)) as p,
    ):
        p.run()
