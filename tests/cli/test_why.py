"""`emu why`: every reason why a library stays, next to a case that just avoids it; what would let it go;
reported cases.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from emu.analysis.why import why_loaded
from emu.core.events import EventBus
from emu.process import Process, RunConfig
from tests import support
from tools import fixtures

GOLDEN = Path(__file__).parent / "why"
#: For each run of the fixtures why-*: the library asked for, and for each moment the reasons (object, code,
#: count, chain) and the changes.
EXPECTED: dict[str, dict[str, Any]] = json.loads((GOLDEN / "expected.json").read_text())
TEXTS = [
    "why-threads:main-too", "why-calls:needed-by-two", "why-bindings:start-up", "why-plugin-unique:unique", "why-generations:left-open",
]  # fmt: skip
_HEX = re.compile(r"0x[0-9a-f]{6,}")
_TIME = re.compile(r"\d+\.\d{9} s")


def why(run_id: str, *options: str, library: str = "") -> fixtures.Outcome:
    """What `emu why` says of a run of a fixture, which is built for it."""
    run = support.the_run(run_id)
    folder = fixtures.build(run.fixture)
    variables = fixtures.BASE_ENV | run.env
    environment = [word for name, value in variables.items() for word in ("--env", f"{name}={value}")]
    program, *arguments = run.argv
    name = library or EXPECTED[run_id]["library"]
    return support.emu(
        "why", "--clean-env", *environment, *options, program, name, "--", *arguments, cwd=folder
    )


def answer(run_id: str, *options: str, library: str = "") -> tuple[int, dict[str, Any]]:
    """The exit code and the answer as data."""
    done = why(run_id, "--json", "--all", *options, library=library)
    assert done.stderr.startswith(b"{"), done.stderr.decode()
    return done.exit, json.loads(done.stderr)


def summary(told: dict[str, Any]) -> list[str]:
    """One line for each moment: what came, the reasons, the changes."""
    lines = []
    for life in told["generations"]:
        for moment in life["moments"]:
            closed = os.path.basename(moment["closed"])
            what = f"{life['number']} {moment['kind']} {closed}:{moment['close_outcome']} {moment['outcome']}"
            reasons = [_reason(reason, life["name"]) for reason in moment["reasons"]]
            remedies = [_remedy(remedy) for remedy in moment["remedies"]]
            lines.append(f"{what} [{', '.join(reasons)}] -> [{', '.join(remedies)}]")
    return lines


def _reason(reason: dict[str, Any], name: str) -> str:
    chain = "".join(f" {link['kind']} {os.path.basename(link['held'])}" for link in reason["chain"])
    return f"{os.path.basename(reason['object'])} {reason['code']} {reason['count']}{chain}"


def _remedy(remedy: dict[str, Any]) -> str:
    target = str(remedy["thread"]) if remedy["thread"] else os.path.basename(remedy["object"])
    return f"{remedy['code']} {target}"


@pytest.mark.parametrize("run_id", EXPECTED)
def test_reasons_and_changes(run_id: str) -> None:
    code, told = answer(run_id)
    assert summary(told) == EXPECTED[run_id]["moments"]
    assert code == int(told["stayed"])


@pytest.mark.parametrize("run_id", ["why-threads:main-too", "why-rust-cdylib:boxed", "why-hot-reload:worker"])
def test_the_guests_own_destructors_give_the_same_answer(run_id: str) -> None:
    _, told = answer(run_id, "--tls-dtors", "guest")
    assert summary(told) == EXPECTED[run_id]["moments"]


def test_the_rule_of_2_18() -> None:
    code, told = answer("why-threads:waits", "--unload-rule", "nodelete-flag")
    what = "stayed [libplugin.so open-count 1, libplugin.so nodelete-destructors 2] -> [end-thread 1001]"
    assert summary(told) == [f"1 dlclose libplugin.so:nodelete {what}", f"1 program-end : {what}"]
    assert code == 1


def test_a_close_in_vain_must_be_made_again() -> None:
    code, told = answer("unload-rules:count", "--unload-rule", "nodelete-flag", library="plugin.so")
    assert summary(told)[-1].endswith("stayed [plugin.so open-count 1] -> [close plugin.so]")
    assert code == 1


def test_a_pending_destructor_is_told_with_its_thread_and_line() -> None:
    _, told = answer("why-threads:waits")
    noisy, buffer = told["generations"][0]["moments"][0]["reasons"][0]["destructors"]
    assert noisy["type"] == "(anonymous namespace)::Noisy"
    assert buffer["type"] == "(anonymous namespace)::Buffer"
    assert noisy["registered"]["place"].endswith("plugin.cc:12")
    functions = [frame["function"] for frame in noisy["registered"]["backtrace"]]
    assert functions.index("touch") < functions.index("worker(void*)")
    thread = noisy["thread"]
    assert (thread["thread"], thread["name"], thread["state"]) == (1001, "first", "waiting")
    assert thread["what"].startswith("on a futex") and thread["place"].endswith("main.cc:19")


def test_a_place_is_in_the_users_source_not_in_that_of_a_language(tmp_path: Path) -> None:
    _, told = answer("why-rust-cdylib:boxed")
    (pending,) = told["generations"][0]["moments"][0]["reasons"][0]["destructors"]
    assert re.search(r"cdylib\.c:\d+$", pending["registered"]["place"])
    sources = [frame["file"] for frame in pending["registered"]["backtrace"]]
    assert any(file.endswith("/native/lazy.rs") for file in sources)
    (tmp_path / "main.cc").write_text(_UNIQUE_PTR)
    subprocess.run(["g++", "-g", "-O1", "main.cc", "-o", "main"], cwd=tmp_path, check=True)
    library = fixtures.build("why-rust-cdylib") / "libboxed.so"
    done = support.emu("why", "--json", "./main", str(library), "--", str(library), cwd=tmp_path)
    moment = json.loads(done.stderr)["generations"][0]["moments"][0]
    assert moment["kind"] == "dlclose" and moment["at"]["place"].endswith("main.cc:6")
    assert any("/c++/" in frame["file"] for frame in moment["at"]["backtrace"])


_UNIQUE_PTR = """#include <dlfcn.h>
#include <memory>
static void use(const char *path) {
    std::unique_ptr<void, int (*)(void *)> handle(dlopen(path, RTLD_NOW), dlclose);
    reinterpret_cast<int (*)()>(dlsym(handle.get(), "lib_func"))();
}
int main(int, char **argv) {
    use(argv[1]);
}
"""


def test_a_binding_is_told_with_its_slot_and_call() -> None:
    _, told = answer("why-bindings:lazily")
    (link,) = told["generations"][0]["moments"][0]["reasons"][0]["chain"]
    (bound,) = link["bindings"]
    assert (bound["symbol"], bound["relocation"]) == ("from_provider", "R_X86_64_JUMP_SLOT")
    assert int(bound["slot"], 16) > 0
    functions = [frame["function"] for frame in bound["bound"]["backtrace"]]
    assert functions.index("step") < functions.index("main")  # the call itself is a jump: GCC made it one


@pytest.mark.parametrize("run_id", TEXTS)
def test_text(run_id: str) -> None:
    text = why(run_id).stderr.decode()
    told = _TIME.sub("T s", _HEX.sub("0xADDRESS", text))
    assert told == (GOLDEN / f"{run_id.replace(':', '.')}.txt").read_text()


def test_the_program_is_not_disturbed_and_the_answer_goes_to_a_file(tmp_path: Path) -> None:
    file = tmp_path / "why.json"
    done = why("why-threads:main", "--json", "-o", str(file), "--last")
    plain = support.run_emu(support.the_run("why-threads:main"))
    assert (done.stdout, done.stderr) == (plain.stdout, b"")
    (moment,) = json.loads(file.read_text())["generations"][0]["moments"]
    assert moment["kind"] == "program-end"


def test_json_keeps_to_the_schema(tmp_path: Path) -> None:
    schema = support.emu("why", "--schema", cwd=tmp_path)
    assert schema.exit == 0
    _, told = answer("why-bindings:two-users")
    jsonschema.validate(told, json.loads(schema.stdout))


def test_a_library_that_was_never_there() -> None:
    done = why("why-calls:closed", library="libz.so")
    assert done.exit == 1
    assert b"no object libz.so was ever loaded; nearest: " in done.stderr and b"liba.so" in done.stderr


def test_wrong_command_lines(tmp_path: Path) -> None:
    assert support.emu("why", "./main", cwd=tmp_path).exit == 2
    options = ("--unload-rule", "nodelete-flag", "--tls-dtors", "guest")
    assert support.emu("why", *options, "./main", "liba.so", cwd=tmp_path).exit == 2


def test_asked_from_python_without_having_watched() -> None:
    folder = fixtures.build("why-bindings")
    config = RunConfig(program="./main", args=("global:p", "open:u", "close:p"), cwd=str(folder))
    process = Process(config, EventBus())
    process.run()
    (reason,) = why_loaded(process, "libp.so")
    assert (reason.code, reason.object, reason.since) == ("open-count", "./libu.so", None)
    assert [link.kind for link in reason.chain] == ["bound"]


def test_a_thread_that_closes_itself_is_told_to_leave_that_to_another(tmp_path: Path) -> None:
    (tmp_path / "plugin.cc").write_text(
        "struct Cache { int size = 0; ~Cache(); };\nCache::~Cache() {}\n"
        'static thread_local Cache cache;\nextern "C" int touch() { return ++cache.size; }\n'
    )
    (tmp_path / "main.c").write_text(
        "#include <dlfcn.h>\n#include <pthread.h>\n"
        'static void *run(void *p) { p = dlopen("./plugin.so", RTLD_NOW); ((int (*)(void))dlsym(p, "touch"))();\n'
        "dlclose(p); return 0; }\n"
        "int main(void) { pthread_t t; pthread_create(&t, 0, run, 0); return pthread_join(t, 0); }\n"
    )
    subprocess.run(
        ["g++", "-g", "-shared", "-fPIC", "-o", "plugin.so", "plugin.cc"], cwd=tmp_path, check=True
    )
    subprocess.run(["gcc", "-g", "-pthread", "-o", "main", "main.c"], cwd=tmp_path, check=True)
    done = support.emu("why", "./main", "plugin.so", cwd=tmp_path)
    text = (done.stdout + done.stderr).decode()
    assert (
        "thread 1001 (main) calls dlclose itself: let another thread do that, when this one has ended" in text
    )
