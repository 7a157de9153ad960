"""What keeps a DSO, as data; the two generations of the destructor rule;
what is left to say of a DSO that is gone.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests import support
from tools import fixtures

if TYPE_CHECKING:
    from pathlib import Path

    from tools.fixtures import Run

RULES = {
    # 2.18 to 2.21: the last destructor clears a NODELETE that came from the file.
    "flag": """\
touched: plugin mapped
  plugin: destroyed after 1
its destructors have run: plugin mapped
  plugin: fini
dlclose 0
closed: plugin gone
""",
    # A dlclose while destructors are pending does nothing at all, so the count is still 1 when others
    # collect.
    "count": """\
touched: plugin mapped
dlclose 0
closed: plugin mapped
  plugin: destroyed after 1
its destructors have run: plugin mapped
dlclose of another 0
another closed: plugin mapped
  plugin: fini
""",
}


def _run(fixture: str, name: str = "default") -> Run:
    (run,) = (run for run in fixtures.load(fixture).runs if run.name == name)
    return run


def _events(run: Run, tmp_path: Path, *options: str) -> list[dict[str, Any]]:
    trace = tmp_path / "trace.jsonl"
    support.run_emu(
        run, "--trace", "dl,dtors", "--trace-format", "jsonl", "--trace-output", str(trace), *options
    )
    return [json.loads(line) for line in trace.read_text().splitlines()]


@pytest.mark.parametrize("name", RULES)
@pytest.mark.usefixtures("built_fixtures")
def test_rule_of_2_18(name: str) -> None:
    outcome = support.run_emu(_run("unload-rules", name), "--unload-rule", "nodelete-flag")
    assert outcome.stdout.decode() == RULES[name]
    assert outcome.exit == 0


@pytest.mark.usefixtures("built_fixtures")
def test_the_rule_of_2_18_says_what_it_sets_and_clears(tmp_path: Path) -> None:
    events = _events(_run("unload-rules", "flag"), tmp_path, "--unload-rule", "nodelete-flag")
    plugin = [e for e in events if e.get("name", "").endswith("nodelete/plugin.so")]
    assert [(e["event"], e.get("why", "")) for e in plugin if "nodelete_" in e["event"]] == [
        ("nodelete_set", "DF_1_NODELETE"),
        ("nodelete_activated", ""),
        ("nodelete_set", "thread_local destructor"),
        ("nodelete_cleared", ""),
    ]


@pytest.mark.usefixtures("built_fixtures")
def test_pending_destructors_are_the_reason_and_then_no_more(tmp_path: Path) -> None:
    events = _events(_run("unload-rules", "count"), tmp_path)
    told = [
        (e["event"], e.get("outcome", e.get("root", "")), e.get("number"))
        for e in events
        if e["event"] in ("close_requested", "kept", "unloading", "dtor_done")
        and "other.so" not in e.get("name", "") and "main" not in e.get("owner", "")
    ]  # fmt: skip
    assert told == [
        ("close_requested", "collect", None),
        ("kept", "tls-dtors", 1),
        ("dtor_done", "", None),
        ("unloading", "", None),
    ]


@pytest.mark.usefixtures("built_fixtures")
def test_a_chain_leads_from_the_root_to_the_survivor(tmp_path: Path) -> None:
    events = _events(_run("unload-relocation-dependency", "relocated-now"), tmp_path)
    chains = {
        (tuple(name.rpartition("/")[2] for name in e["chain"]), tuple(e["edges"]), e["root"])
        for e in events
        if e["event"] == "kept" and "relocation" in e["edges"]
    }
    assert chains
    for chain, edges, root in chains:
        assert len(chain) == len(edges) + 1
        assert root == "open-count"
    bound = {
        (e["by"].rpartition("/")[2], e["name"].rpartition("/")[2])
        for e in events
        if e["event"] == "relocation_dependency"
    }
    assert all(
        (chain[i], chain[i + 1]) in bound
        for chain, edges, _ in chains
        for i, e in enumerate(edges)
        if e == "relocation"
    )


HOST = r"""
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int main(int argc, char **argv) {
    void *handle = dlopen("./plugin.so", RTLD_NOW);
    void (*function)(void) = (void (*)(void))dlsym(handle, "function");
    int *data = dlsym(handle, "data");
    dlclose(handle);
    if (!strcmp(argv[1], "call")) function();
    if (!strcmp(argv[1], "read")) return *data;
    if (!strcmp(argv[1], "atexit")) atexit(function);
    return 0;
}
"""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gone")
    (folder / "host.c").write_text(HOST)
    (folder / "plugin.c").write_text("int data = 1; void function(void) {}\n")
    support.compile_c(folder, "-shared", "-fPIC", "-o", "plugin.so", "plugin.c")
    support.compile_c(folder, "-g", "-o", "host", "host.c")
    return folder


@pytest.mark.parametrize(("what", "verb"), [("call", "jump to"), ("read", "read of"), ("atexit", "jump to")])
def test_what_used_to_be_there_is_named(host: Path, what: str, verb: str) -> None:
    done = support.emu("run", "./host", what, cwd=host)
    assert done.exit == 139
    line = done.stderr.decode().splitlines()[0]
    variable = " in data" if what == "read" else ""
    place = rf"{verb} 0x[0-9a-f]+, which was \./plugin\.so\+0x[0-9a-f]+{variable}"
    pattern = rf"killed by SIGSEGV: {place}, unloaded by dlclose in main \(.*host\.c:10\)"
    assert re.search(pattern, line), line


def test_the_number_is_that_of_the_traced_event(host: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    options = ("--trace", "dl", "--trace-format", "jsonl", "--trace-output", str(trace))
    done = support.emu("run", *options, "./host", "call", cwd=host)
    (number,) = set(re.findall(r"unloaded at #(\d+) by", done.stderr.decode()))
    (event,) = (e for e in map(json.loads, trace.read_text().splitlines()) if e["event"] == "unloaded")
    assert event["seq"] == int(number)
