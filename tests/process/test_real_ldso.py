"""--ldso real: the program's own ld.so as guest code.

Natively it does the same work, so every output must be the native one.
"""

from __future__ import annotations

import json
import re
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import pytest

from tests.support import compile_c, emu, native, run_emu, run_native
from tools import fixtures

SAMPLE = (
    "hello-iostream", "static-pie", "ifunc", "copy-relocation", "link-relr", "unique-symbols", "symbol-versions", "init-order-graph",
    "fini-order", "tls-dsos", "tls-dyn-surplus", "tls-descriptors", "dl-namespaces", "dl-error-undone", "dl-executable-stack", "audit-log",
    "exceptions-dsos", "thread-cancel", "thread-rseq", "thread-dtors-lifo", "unload-rules", "unload-random", "error-missing-version",
    "search-tokens", "signals-altstack",
)  # fmt: skip
"""One of each kind; `tests/test_fixtures.py` has all of them for our own loader."""
RUNS = [pytest.param(run, id=run.id) for name in SAMPLE for run in fixtures.load(name).runs[:2]]


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.usefixtures("built_fixtures")
def test_equals_native(run: fixtures.Run) -> None:
    judge = run_native(run)
    ours = run_emu(run, "--ldso", "real")
    assert (ours.stdout, ours.exit) == (judge.stdout, judge.exit), ours.stderr.decode(errors="replace")


def told_of(ldso: str, run: fixtures.Run, output: Path) -> list[tuple[str, list[tuple[str, int]]]]:
    """The objects that came and went in a run, but for those that nobody loads;
    what goes at once is in the order of the names.
    """
    trace = ("--trace", "libs,dl", "--trace-format", "jsonl", "--trace-output", str(output))
    run_emu(run, "--ldso", ldso, *trace)
    events = [json.loads(line) for line in output.read_text().splitlines()]
    told = [
        (e["event"], (Path(e.get("path") or e["name"]).name, e["namespace"]))
        for e in events
        if e["event"] in ("library_load", "unloaded")
    ]
    found = [(event, place) for event, place in told if not place[0].startswith(("ld-linux", "linux-vdso"))]
    groups = groupby(found, key=itemgetter(0))
    return [
        (event, sorted(places) if event == "unloaded" else places)
        for event, places in ((event, [place for _, place in group]) for event, group in groups)
    ]


@pytest.mark.usefixtures("built_fixtures")
@pytest.mark.parametrize("name", ["unload-gone", "unload-diamond", "dl-init-order", "dl-namespaces"])
def test_objects_come_and_go_as_with_our_loader(name: str, tmp_path: Path) -> None:
    run = fixtures.load(name).runs[0]
    ours, theirs = (told_of(ldso, run, tmp_path / ldso) for ldso in ("emu", "real"))
    assert [event for event, _ in ours][:2] == ["library_load", "unloaded"]
    assert theirs == ours


@pytest.mark.usefixtures("built_fixtures")
@pytest.mark.parametrize("name", ["init-order-graph", "init-priorities", "unload-finalizers", "link-relr"])
def test_constructors_and_destructors_are_seen_in_their_order(name: str, tmp_path: Path) -> None:
    run = fixtures.load(name).runs[0]
    told = []
    for ldso in ("emu", "real"):
        trace = ("--trace", "init,fini", "--trace-format", "jsonl", "--trace-output", str(tmp_path / ldso))
        run_emu(run, "--ldso", ldso, *trace)
        events = [json.loads(line) for line in (tmp_path / ldso).read_text().splitlines()]
        calls = [
            e for e in events if e["event"] in ("initializer", "finalizer") and e["kind"] != "early_init"
        ]
        # The program's own constructors are called by libc, of which our loader does not tell.
        told.append(
            [
                (e["kind"], e["name"], e["function"])
                for e in calls
                if e["event"] == "finalizer" or e["name"] != "./main"
            ]
        )
    assert len(told[0]) > 3
    assert told[1] == told[0]


@pytest.mark.usefixtures("built_fixtures")
def test_use_of_what_is_gone_is_named() -> None:
    said = emu("run", "--ldso", "real", "./main", "code", cwd=fixtures.CACHE / "check-unloaded-use")
    assert said.exit == 128 + 11
    text = said.stderr.decode()
    assert re.search(r"which was \./libp\.so\+0x1100\b.*, unloaded by dlclose in unload", text)
    assert "#1 main" in text


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("run", "--trace", "libs,bindings", "/bin/true"), "--trace bindings: the program's own ld.so"),
        (("run", "--unload-rule", "nodelete-flag", "/bin/true"), "it needs --ldso emu"),
        (("check", "/bin/true"), "'emu check' asks emu's own loader"),
        (("why", "/bin/true", "libc.so.6"), "'emu why' asks emu's own loader"),
        (("ldd", "/bin/true"), "'emu ldd' asks emu's own loader"),
        (("explain", "/bin/true", "puts"), "'emu explain' asks emu's own loader"),
        (("call", "libc.so.6", "abs", "1"), "'emu call' asks emu's own loader"),
    ],
)
def test_what_needs_our_loader_says_so(words: tuple[str, ...], complaint: str, tmp_path: Path) -> None:
    said = emu(words[0], "--ldso", "real", *words[1:], cwd=tmp_path)
    assert (said.exit, said.stdout) == (2, b"")
    assert complaint in said.stderr.decode()
    assert said.stderr.count(b"\n") == 1


def test_all_that_can_be_traced_is(tmp_path: Path) -> None:
    said = emu("run", "--ldso", "real", "--trace", "all", "/bin/true", cwd=tmp_path).stderr.decode()
    assert 'openat(AT_FDCWD, "/etc/ld.so.cache"' in said
    assert "(ld.so)" in said


@pytest.mark.usefixtures("built_fixtures")
def test_ld_so_runs_as_a_command() -> None:
    folder = fixtures.CACHE / "tls-dsos"
    words = ("/lib64/ld-linux-x86-64.so.2", "./main", "ca")
    said = emu("run", "--ldso", "real", "--trace", "libs", *words, cwd=folder)
    judge = native(*words, cwd=folder)
    assert (said.stdout, said.exit) == (judge.stdout, judge.exit)
    assert b"liba.so at 0x" in said.stderr


def test_map_is_that_of_the_program_at_its_entry(tmp_path: Path) -> None:
    said = emu("maps", "--ldso", "real", "/bin/true", cwd=tmp_path)
    lines = said.stdout.decode().splitlines()
    assert any(line.endswith("libc.so.6") and " r-xp " in line for line in lines)
    assert any(line.endswith("[stack]") for line in lines)


MUSL = r"""
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
static __thread int value = 4;
__attribute__((constructor)) static void begin(void) { puts("constructor"); }
__attribute__((destructor)) static void end(void) { puts("destructor"); }
static void *work(void *unused) { printf("thread: %d\n", ++value); return unused; }
int main(void) {
    pthread_t thread;
    pthread_create(&thread, 0, work, 0);
    pthread_join(thread, 0);
    void *handle = dlopen("./plugin.so", RTLD_NOW);
    int (*answer)(void) = (int (*)(void))dlsym(handle, "answer");
    printf("main: %d, plugin: %d\n", value, answer());
    return dlclose(handle) + 3;
}
"""


@pytest.fixture(scope="module")
def musl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program of musl, and a plugin for it."""
    folder = tmp_path_factory.mktemp("musl")
    (folder / "main.c").write_text(MUSL)
    (folder / "plugin.c").write_text("__thread int value = 7;\nint answer(void) { return value; }\n")
    compiler = "musl-gcc"  # Debian's package musl-tools
    compile_c(folder, "-o", "main", "main.c", compiler=compiler)
    compile_c(folder, "-shared", "-fPIC", "-o", "plugin.so", "plugin.c", compiler=compiler)
    return folder


@pytest.mark.needs("musl-gcc")
def test_musl_s_linker_runs(musl: Path) -> None:
    judge = native("./main", cwd=musl)
    assert judge.stdout.splitlines()[-2:] == [b"main: 4, plugin: 7", b"destructor"]
    ours = emu("run", "--ldso", "real", "--trace", "libs,init,fini", "./main", cwd=musl)
    assert (ours.stdout, ours.exit) == (judge.stdout, judge.exit)
    assert b"plugin.so at 0x" in ours.stderr
    assert b"call begin at 0x" in ours.stderr
    assert b"call end at 0x" in ours.stderr


@pytest.mark.needs("musl-gcc")
def test_a_libc_that_emu_does_not_know_is_told_the_way_out(musl: Path) -> None:
    said = emu("run", "./main", cwd=musl)
    assert said.exit == 125
    assert said.stderr.endswith(b"'emu run --ldso real' runs the program with its own ld.so\n")
