"""Where a distribution's ld.so searches is read out of it:
what the real one of each kind does is the judge.
"""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest

from emu.core.errors import UnsupportedError
from emu.elf import constants as c
from emu.elf.header import parse_ehdr, parse_phdrs
from emu.glibc.system_dirs import read_system_dirs
from emu.rtld.system_dirs import SystemDirs
from tests.support import AS_EMULATED_CPU, compile_c, emu, native

LD_SO = Path("/lib64/ld-linux-x86-64.so.2")
DEBIAN = ("/lib/x86_64-linux-gnu/", "/usr/lib/x86_64-linux-gnu/", "/lib/", "/usr/lib/")
OTHER = ("/opt/distribution/lib/", "/usr/opt/distribution/lib/", "/l64/", "/usr/l64/")
"""As long as Debian's, since the lengths are in ld.so's code, too."""


def constant_data(path: Path) -> bytes:
    data = path.read_bytes()
    phdrs = parse_phdrs(data, parse_ehdr(data, str(path)), str(path))
    return b"\0".join(
        data[p.offset : p.offset + p.filesz] for p in phdrs if p.type == c.PT_LOAD and p.flags == c.PF_R
    )


def row(directories: tuple[str, ...]) -> bytes:
    return b"".join(directory.encode() + b"\0" for directory in directories)


def lengths(directories: tuple[str, ...]) -> bytes:
    return struct.pack(f"<{len(directories)}Q", *map(len, directories))


def diagnostics(ld_so: Path) -> tuple[str, ...]:
    """The default directories as ld.so itself lists them."""
    text = subprocess.run([ld_so, "--list-diagnostics"], capture_output=True, check=True, text=True).stdout
    lines = [line for line in text.splitlines() if line.startswith("path.system_dirs")]
    return tuple(line.partition("=")[2].strip('"') for line in lines)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this system's ld.so with other directories and another $LIB; a program that it starts."""
    data = LD_SO.read_bytes()
    ours = read_system_dirs(constant_data(LD_SO), str(LD_SO))
    assert ours.directories == DEBIAN, "the patch below knows Debian's ld.so"
    for old, new in (
        (row(DEBIAN), row(OTHER)),
        (b"\0LIB\0lib/x86_64-linux-gnu\0", b"\0LIB\0opt/distribution/lib\0"),
    ):
        assert old in data
        assert len(old) == len(new)
        data = data.replace(old, new)
    folder = tmp_path_factory.mktemp("distribution")
    (folder / "ld.so").write_bytes(data)
    (folder / "ld.so").chmod(0o755)
    (folder / "main.c").write_text(
        '#include <dlfcn.h>\n#include <stdio.h>\nint main(void) { dlopen("libnone.so", RTLD_NOW); puts(dlerror()); return 0; }\n'
    )
    compile_c(
        folder, "-o", "main", "main.c", "-Wl,--dynamic-linker=./ld.so", "-Wl,-rpath,/none/$LIB/$PLATFORM"
    )
    return folder


def test_directories_are_those_that_ld_so_lists() -> None:
    found = read_system_dirs(constant_data(LD_SO), str(LD_SO))
    assert found.directories == diagnostics(LD_SO)
    assert found.cache == "/etc/ld.so.cache"


def test_directories_of_another_distribution(other: Path) -> None:
    found = read_system_dirs(constant_data(other / "ld.so"), "ld.so")
    assert (found.directories, found.lib) == (OTHER, "opt/distribution/lib")
    assert found.directories == diagnostics(other / "ld.so")


def test_search_goes_where_that_ld_so_goes(other: Path) -> None:
    tunables = f"GLIBC_TUNABLES={AS_EMULATED_CPU['GLIBC_TUNABLES']}"
    judge = native("env", tunables, "LD_DEBUG=libs", "./main", cwd=other)
    ours = emu("run", "--env", "LD_DEBUG=libs", "./main", cwd=other)
    assert ours.stdout == judge.stdout
    assert searches(ours.stderr) == searches(judge.stderr)
    assert any(
        line.startswith(b" search path=/opt/distribution/lib/glibc-hwcaps/x86-64-v2:")
        for line in searches(ours.stderr)
    )
    assert any(b"/none/opt/distribution/lib/x86_64" in line for line in searches(ours.stderr))


def searches(text: bytes) -> list[bytes]:
    lines = [line.partition(b"\t")[2] for line in text.splitlines()]
    return [line for line in lines if b"search" in line or b"trying" in line]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (
            row(("/lib64/", "/usr/lib64/")) + lengths(("/lib64/", "/usr/lib64/")) + b"\0/etc/ld.so.cache\0",
            SystemDirs(("/lib64/", "/usr/lib64/"), "lib64", (), True, "/etc/ld.so.cache"),
        ),
        (
            b"/opt/glibc/lib/\0x86-64-v4:x86-64-v3:x86-64-v2\0/opt/glibc/etc/ld.so.cache\0",
            SystemDirs(("/opt/glibc/lib/",), "lib", ("x86-64-v2",), False, "/opt/glibc/etc/ld.so.cache"),
        ),
        (
            row(DEBIAN) + lengths(DEBIAN) + b"/dev/x/\0ORIGIN\0PLATFORM\0LIB\0lib/x86_64-linux-gnu\0",
            SystemDirs(DEBIAN, "lib/x86_64-linux-gnu", (), True, ""),
        ),
    ],
    ids=["2.28 of Red Hat", "upstream's with a prefix", "a stray string"],
)
def test_what_builds_hold(data: bytes, expected: SystemDirs) -> None:
    assert read_system_dirs(b"\0" + data, "ld.so") == expected


@pytest.mark.parametrize("data", [b"", b"nothing\0/lib\0", b"/a/\0x\0/b/\0"])
def test_directories_that_cannot_be_told_are_an_error(data: bytes) -> None:
    with pytest.raises(UnsupportedError, match=r"ld\.so: unsupported ld\.so whose default directories"):
        read_system_dirs(data, "ld.so")
