"""Auditors: what emu adds to what they hear (events, reasons, names of frames), and that nothing of theirs is
left in a run without them.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from emu.core.events import EventBus
from emu.process import Process, RunConfig
from tests.support import compile_c, emu

if TYPE_CHECKING:
    from pathlib import Path

_AUDITOR = """
#define _GNU_SOURCE
#include <link.h>
#include <stdlib.h>
#include <string.h>
static int replaced(void) { return 7; }
unsigned la_version(unsigned version) { return version; }
char *la_objsearch(const char *name, uintptr_t *cookie, unsigned flag)
{
    if (!strcmp(name, "libold.so"))
        return "./libnew.so";
    return strcmp(name, "libgone.so") ? (char *)name : NULL;
}
unsigned la_objopen(struct link_map *map, Lmid_t ns, uintptr_t *cookie) { return LA_FLG_BINDTO | LA_FLG_BINDFROM; }
uintptr_t la_symbind64(Elf64_Sym *symbol, unsigned index, uintptr_t *from, uintptr_t *to, unsigned *flags, const char *name)
{
    return strcmp(name, "value") ? symbol->st_value : (uintptr_t)replaced;
}
#ifdef CALLS
Elf64_Addr la_x86_64_gnu_pltenter(Elf64_Sym *symbol, unsigned index, uintptr_t *from, uintptr_t *to, La_x86_64_regs *regs,
                                  unsigned *flags, const char *name, long *frame)
{
    if (!strcmp(name, "value"))
        *frame = 0;
    return symbol->st_value;
}
unsigned la_x86_64_gnu_pltexit(Elf64_Sym *symbol, unsigned index, uintptr_t *from, uintptr_t *to, const La_x86_64_regs *in,
                               La_x86_64_retval *out, const char *name)
{
    if (!strcmp(name, "value"))
        abort();
    return 0;
}
#endif
"""
_MAIN = """
#include <dlfcn.h>
int value(void);
int main(void)
{
    void *none = dlopen("libgone.so", RTLD_NOW);
    return value() + (dlopen("libold.so", RTLD_NOW) ? 10 : 0) + (none ? 100 : 0);
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("auditing")
    for name, code in (
        ("auditor.c", _AUDITOR),
        ("main.c", _MAIN),
        ("value.c", "int value(void) { return 1; }"),
    ):
        (folder / name).write_text(code)
    compile_c(folder, "-shared", "-fPIC", "-o", "libvalue.so", "value.c")
    compile_c(folder, "-shared", "-fPIC", "-o", "libnew.so", "value.c")
    compile_c(folder, "-shared", "-fPIC", "-o", "libauditor.so", "auditor.c")
    compile_c(folder, "-shared", "-fPIC", "-DCALLS", "-o", "libcalls.so", "auditor.c")
    compile_c(folder, "-Wl,-z,lazy", "-o", "main", "main.c", "./libvalue.so")
    return folder / "main"


def _events(program: Path, *words: str) -> list[dict[str, object]]:
    trace = program.parent / "trace"
    options = ("--trace", "libs,dl,bindings", "--trace-format", "jsonl", "--trace-output", str(trace))
    done = emu("run", *options, *words, str(program), cwd=program.parent)
    assert done.stderr == b""
    return [json.loads(line) for line in trace.read_text("utf-8").splitlines()]


def test_a_trace_tells_what_auditors_have_changed(program: Path) -> None:
    events = _events(program, "--env", "LD_AUDIT=./libauditor.so")
    (joined,) = (event for event in events if event["event"] == "auditor_joined")
    assert (joined["name"], joined["namespace"]) == ("./libauditor.so", 1)
    assert joined["functions"] == ["la_objsearch", "la_objopen", "la_symbind64"]
    files = [event for event in events if event["event"] == "auditor_chose_file"]
    assert [(e["name"], e["chosen"], e["source"], e["by"]) for e in files] == [
        ("libgone.so", "", "LA_SER_ORIG", str(program)),
        ("libold.so", "./libnew.so", "LA_SER_ORIG", str(program)),
    ]
    (address,) = (event for event in events if event["event"] == "auditor_chose_address")
    assert address["auditor"] == "./libauditor.so"
    assert (address["symbol"], address["target"]) == ("value", "./libvalue.so")
    assert address["function"] == "la_symbind64"
    assert address["chosen"] != address["address"]


def test_without_auditors_there_is_no_trace_of_them(program: Path) -> None:
    assert not [event for event in _events(program) if str(event["event"]).startswith("auditor")]


def test_explain_says_that_an_auditor_gave_another_address(program: Path) -> None:
    words = ("--env", "LD_AUDIT=./libauditor.so", "--env", "LD_BIND_NOW=1", str(program), "value")
    answer = emu("explain", *words, cwd=program.parent).stdout.decode()
    assert "the auditor libauditor.so gave it another address (la_symbind64): libauditor.so+" in answer
    assert "in replaced" in answer
    assert "auditor" not in emu("explain", str(program), "value", cwd=program.parent).stdout.decode()


def test_a_backtrace_goes_through_a_call_that_is_heard_of(program: Path) -> None:
    done = emu("run", "--env", "LD_AUDIT=./libcalls.so", str(program), cwd=program.parent)
    frames = [line.split()[1] for line in done.stderr.decode().splitlines() if line.startswith("    #")]
    at = frames.index("la_x86_64_gnu_pltexit")
    assert frames[at : at + 4] == [
        "la_x86_64_gnu_pltexit",
        "_dl_audit_pltexit",
        "_dl_runtime_profile",
        "main",
    ]


def test_nothing_is_loaded_before_the_auditors(program: Path) -> None:
    config = RunConfig(
        str(program), (), {"LD_AUDIT": "./libauditor.so"}, cwd=str(program.parent), sysroot="/"
    )
    process = Process(config, EventBus())
    process.load()
    assert process.rtld is not None
    names = [map_.display_name.rpartition("/")[2] for map_ in process.rtld.namespaces[0].maps]
    assert names == ["main", "ld-linux-x86-64.so.2", "linux-vdso.so.1"]
    process.start()
    assert [len(namespace.maps) for namespace in process.rtld.namespaces] == [5, 3]
    assert process.rtld.namespaces[1].maps[0].auditing
