"""Remedies that `emu why` cannot try by itself, since they need another build or another system: each is
carried out here, and the open that failed then works, natively and in emu.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests import support
from tools import fixtures

_SHARED = "gcc -O1 -g -fPIC -shared"
_IE = "__thread char state[SIZE]; char *get(void) { return state; }"


class Remedy(NamedTuple):
    """A failure and its remedy: files, the build, what is opened, of which library why is asked, the remedy's
    code and words, the commands that carry it out, and what is opened then (empty: the same).
    """

    files: dict[str, str]
    build: tuple[str, ...]
    opens: tuple[str, ...]
    library: str
    code: str
    words: str
    apply: tuple[str, ...]
    then: tuple[str, ...] = ()


REMEDIES = {
    "tls-model": Remedy(
        {"big.c": _IE},
        (f"{_SHARED} -DSIZE=4096 -ftls-model=initial-exec -o big.so big.c",),
        ("now:./big.so",), "big.so", "model", "build big.so without -ftls-model=initial-exec",
        (f"{_SHARED} -DSIZE=4096 -o big.so big.c",),
    ),
    "tls-close": Remedy(
        {"big.c": _IE},
        (
            f"{_SHARED} -DSIZE=1000 -ftls-model=initial-exec -o one.so big.c",
            f"{_SHARED} -DSIZE=1001 -ftls-model=initial-exec -Wl,-soname,two.so -o two.so big.c",
        ),
        ("now:./one.so", "now:./two.so"), "two.so", "close", "dlclose one.so before, or open it later",
        (),
        ("now:./two.so",),
    ),
    "rebuild-for-a-number": Remedy(
        {"number.c": "int number(void) { return 1; }", "user.c": "int number(void); int use(void) { return number(); }"},
        (
            f"{_SHARED} -Wl,-soname,libnumber.so.2 -o libnumber.so.2 number.c",
            f"{_SHARED} -o user.so user.c ./libnumber.so.2 -Wl,-rpath,'$ORIGIN'",
            f"{_SHARED} -Wl,-soname,libnumber.so.3 -o libnumber.so.3 number.c",
            "rm libnumber.so.2",
        ),
        ("now:./user.so",), "user.so", "rebuild", "build user.so anew against libnumber.so.3",
        (f"{_SHARED} -o user.so user.c ./libnumber.so.3 -Wl,-rpath,'$ORIGIN'",),
    ),
    "rebuild-for-a-version": Remedy(
        {
            "v.c": "int fresh(void) { return 1; } int old(void) { return 2; }",
            "user.c": "int CALL(void); int use(void) { return CALL(); }",
            "new.map": "V1 { global: old; };\nV2 { global: fresh; } V1;",
            "old.map": "V1 { global: old; local: *; };",
        },
        (
            f"{_SHARED} -Wl,-soname,libv.so.1,--version-script=new.map -o libv.so.1 v.c",
            f"{_SHARED} -DCALL=fresh -o user.so user.c ./libv.so.1 -Wl,-rpath,'$ORIGIN'",
            f"{_SHARED} -Wl,-soname,libv.so.1,--version-script=old.map -o libv.so.1 v.c",
        ),
        ("now:./user.so",), "user.so", "rebuild", "build user.so against libv.so.1 as it is here",
        (f"{_SHARED} -DCALL=old -o user.so user.c ./libv.so.1 -Wl,-rpath,'$ORIGIN'",),
    ),
    "define": Remedy(
        {"user.c": "int missing(void); int (*use)(void) = missing;", "missing.c": "int missing(void) { return 1; }"},
        (f"{_SHARED} -o user.so user.c",),
        ("now:./user.so",), "user.so", "define", "link user.so with the object file or library that defines missing",
        (f"{_SHARED} -o user.so user.c missing.c",),
    ),
    "catch": Remedy(
        {
            "throws.cc": "#ifdef CATCH\nstatic int begin() { try { throw 1; } catch (int n) { return n; } }\n#else\n"
            "static int begin() { throw 1; }\n#endif\nint begun = begin();"
        },
        ("g++ -O1 -g -fPIC -shared -o throws.so throws.cc",),
        ("now:./throws.so",), "throws.so", "catch", "catch it in the constructor",
        ("g++ -O1 -g -fPIC -shared -DCATCH -o throws.so throws.cc",),
    ),
    "tls-order": Remedy(
        {
            "own.c": "__thread int state; __attribute__((constructor)) static void touch(void) { state = 1; }",
            "user.c": "extern __thread int state; int get(void) { return state; }",
        },
        (
            f"{_SHARED} -Wl,-soname,own.so -o own.so own.c",
            f"{_SHARED} -ftls-model=initial-exec -o user.so user.c ./own.so -Wl,-rpath,'$ORIGIN'",
        ),
        ("now:./own.so", "now:./user.so"), "user.so", "order",
        "open what needs own.so by initial-exec before its TLS is used",
        (),
        ("now:./user.so", "now:./own.so"),
    ),
    "mode": Remedy(
        {"plain.c": "int plain;"},
        (f"{_SHARED} -o plain.so plain.c",),
        ("mode:./plain.so",), "./plain.so", "mode", "RTLD_NOW or RTLD_LAZY in the mode",
        (),
        ("now:./plain.so",),
    ),
}  # fmt: skip


_RELR = 'int one, two; int *all[] = {&one, &two, &one, &two}; int puts(const char *); int f(void) { return puts(""); }'
_PACKED = Remedy(
    {"data.c": _RELR},
    (f"{_SHARED} -fuse-ld=lld -Wl,--pack-dyn-relocs=relr -o data.so data.c",),
    ("now:./data.so",), "data.so", "relink", "link it with binutils 2.38",
    (f"{_SHARED} -Wl,-z,pack-relative-relocs -o data.so data.c",),
)  # fmt: skip
REMEDIES |= {
    "relr-linker": _PACKED,
    "relr-none": _PACKED._replace(
        code="no-relr",
        words="-z nopack-relative-relocs",
        apply=(f"{_SHARED} -Wl,-z,nopack-relative-relocs -o data.so data.c",),
    ),
}


def failure(folder: Path, library: str, *words: str) -> dict[str, Any]:
    """What `emu why` tells of the open that fails."""
    done = support.emu("why", "--json", "./main", library, "--", *words, cwd=folder)
    text = done.stderr[done.stderr.index(b'{\n  "program"') :]
    return dict(json.loads(text)["failures"][0])


def native(folder: Path, words: tuple[str, ...]) -> int:
    """The exit code of the run outside of emu."""
    return subprocess.run(["./main", *words], cwd=folder, capture_output=True, check=False).returncode


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.needs("ld.lld") if one.files.get("data.c") else ())
        for name, one in REMEDIES.items()
    ],
)
def test_the_remedy_is_told_and_helps(name: str, tmp_path: Path) -> None:
    one = REMEDIES[name]
    shutil.copy(fixtures.build("opens-tried") / "main", tmp_path / "main")
    for file, text in one.files.items():
        (tmp_path / file).write_text(text)
    for command in one.build:
        subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    assert native(tmp_path, one.opens) != 0
    cures = failure(tmp_path, one.library, *one.opens)["cures"]
    (cure,) = (cure for cure in cures if cure["code"] == one.code)
    assert one.words in cure["text"]
    for command in one.apply:
        subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    then = one.then or one.opens
    assert native(tmp_path, then) == 0
    assert support.emu("run", "./main", *then, cwd=tmp_path).exit == 0


def test_running_ldconfig_helps(tmp_path: Path) -> None:
    """In a system of its own: its ld.so.conf names a directory that its cache does not know."""
    root, built = tmp_path / "root", fixtures.build("opens-tried")
    for folder in ("etc", "lib64", "lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "opt/own", "work"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    shutil.copy("/lib64/ld-linux-x86-64.so.2", root / "lib64")
    shutil.copy("/lib/x86_64-linux-gnu/libc.so.6", root / "lib/x86_64-linux-gnu")
    shutil.copy(built / "main", root / "work")
    (tmp_path / "own.c").write_text("int own(void) { return 1; }")
    soname = ["-Wl,-soname,libown.so.1", "-o", str(root / "opt/own/libown.so.1")]
    subprocess.run(["gcc", "-fPIC", "-shared", *soname, "own.c"], cwd=tmp_path, check=True)
    ldconfig = ["/sbin/ldconfig", "-r", str(root)]
    subprocess.run(ldconfig, check=True, capture_output=True)
    (root / "etc/ld.so.conf").write_text("/opt/own\n")
    words = ["--sysroot", str(root), "/work/main"]
    done = support.emu("why", "--json", *words, "libown.so.1", "--", "now:libown.so.1", cwd=tmp_path)
    (one,) = json.loads(done.stderr[done.stderr.index(b'{\n  "program"') :])["failures"]
    assert "ldconfig" in [cure["code"] for cure in one["cures"]]
    subprocess.run(ldconfig, check=True, capture_output=True)
    assert support.emu("run", *words, "now:libown.so.1", cwd=tmp_path).exit == 0


def test_a_soname_is_a_name_that_rtld_noload_knows(tmp_path: Path) -> None:
    shutil.copy(fixtures.build("not-found") / "names", tmp_path / "main")
    (tmp_path / "sub").mkdir()
    (tmp_path / "own.c").write_text("int own;")
    subprocess.run(f"{_SHARED} -o sub/own.so own.c", shell=True, cwd=tmp_path, check=True)
    words = ("sub/own.so", "?own.so")
    assert native(tmp_path, words) != 0
    (cure,) = (cure for cure in failure(tmp_path, "own.so", *words)["cures"] if cure["code"] == "soname")
    assert "link it with -Wl,-soname,own.so" in cure["text"]
    subprocess.run(f"{_SHARED} -Wl,-soname,own.so -o sub/own.so own.c", shell=True, cwd=tmp_path, check=True)
    assert native(tmp_path, words) == 0
    assert support.emu("run", "./main", *words, cwd=tmp_path).exit == 0


def test_an_object_without_la_version_is_no_auditor(tmp_path: Path) -> None:
    shutil.copy(fixtures.build("opens-tried") / "main", tmp_path / "main")
    (tmp_path / "a.c").write_text(
        "#ifdef OLD\nint a;\n#else\nunsigned la_version(unsigned v) { return v; }\n#endif"
    )
    subprocess.run(f"{_SHARED} -DOLD -o a.so a.c", shell=True, cwd=tmp_path, check=True)
    words = ["--env", "LD_AUDIT=./a.so", "./main", "a.so"]
    text = support.emu("why", *words, cwd=tmp_path).stderr.decode()
    assert "auditor ./a.so (LD_AUDIT) REFUSED: the program runs without it\n" in text
    assert "a.so defines no la_version, which the dynamic linker asks of an auditor first\n" in text
    assert "* define unsigned la_version(unsigned version) in a.so, and return LAV_CURRENT" in text
    subprocess.run(f"{_SHARED} -o a.so a.c", shell=True, cwd=tmp_path, check=True)
    assert b"REFUSED" not in support.emu("why", *words, cwd=tmp_path).stderr
