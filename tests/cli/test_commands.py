"""The commands as a user types them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from tools import fixtures


def _emu(*args: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "emu", *args], cwd=cwd, capture_output=True, text=True, timeout=60
    )


@pytest.fixture(scope="module")
def hello() -> Path:
    return fixtures.build("hello-iostream") / "main"


def test_help_has_examples() -> None:
    for command in ((), ("run",), ("ldd",), ("maps",)):
        done = _emu(*command, "--help")
        assert done.returncode == 0
        assert "Examples" in done.stdout


def test_without_a_command_there_is_the_help() -> None:
    done = _emu()
    assert done.returncode == 2 and done.stderr.startswith("Usage: emu ")
    assert "..." not in done.stderr.partition("Commands:")[2]  # each has a line that is short enough


def test_wrong_usage_is_one_line_with_the_next_step() -> None:
    done = _emu("run", "--trace", "nonsense", "/bin/true")
    assert done.returncode == 2
    assert "no category 'nonsense'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_missing_program_is_127() -> None:
    done = _emu("run", "no-such-program-here")
    assert done.returncode == 127
    assert "Traceback" not in done.stderr


def test_ldd_names_paths_like_ldd(hello: Path) -> None:
    done = _emu("ldd", "--json", str(hello))
    assert done.returncode == 0, done.stderr
    text = json.dumps(json.loads(done.stdout))
    native = subprocess.run(["ldd", str(hello)], capture_output=True, text=True, check=True).stdout
    for line in native.splitlines():
        assert line.split()[0] in text


def test_ldd_says_not_found(tmp_path: Path) -> None:
    (tmp_path / "x.c").write_text("int x(void) { return 1; }")
    (tmp_path / "m.c").write_text("int x(void); int main(void) { return x(); }")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", "libx.so", "x.c"], cwd=tmp_path, check=True)
    subprocess.run(["gcc", "-o", "m", "m.c", "-L.", "-lx"], cwd=tmp_path, check=True)
    done = _emu("ldd", "./m", cwd=tmp_path)
    assert done.returncode == 1
    assert "not found" in done.stdout


def test_ldd_of_a_library_that_is_not_executable(tmp_path: Path) -> None:
    (tmp_path / "x.cc").write_text("#include <string>\nstd::string x(int i) { return std::to_string(i); }")
    subprocess.run(
        "g++ -shared -fPIC -o libx.so x.cc && chmod -x libx.so", shell=True, cwd=tmp_path, check=True
    )
    objects = json.loads(_emu("ldd", "--json", "./libx.so", cwd=tmp_path).stdout)["objects"]
    native = subprocess.run(["ldd", "./libx.so"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert {one["name"] for one in objects} == {line.split()[0] for line in native.stdout.splitlines()} | {
        "./libx.so"
    }
    hint = _emu("ldd", "libx.so", cwd=tmp_path)
    assert (
        hint.stderr == "emu: libx.so: command not found (the file here is ./libx.so)\n"
        and hint.returncode == 127
    )
    static = _emu("ldd", str(fixtures.build("static-pie") / "main"))
    assert (static.returncode, static.stdout.rpartition(": ")[2]) == (0, "statically linked\n")


def test_maps_shows_stack_vdso_and_libraries(hello: Path) -> None:
    done = _emu("maps", str(hello))
    assert done.returncode == 0, done.stderr
    for name in ("[stack]", "[vdso]", "libstdc++", "libc.so.6", str(hello)):
        assert name in done.stdout


def test_jsonl_output_follows_the_schema(hello: Path, tmp_path: Path) -> None:
    schema = json.loads(_emu("trace-schema").stdout)
    trace = tmp_path / "t.jsonl"
    done = _emu("run", "--trace", "all", "--trace-format", "jsonl", "--trace-output", str(trace), str(hello))
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in trace.read_text().splitlines()]
    assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))
    validator = jsonschema.Draft202012Validator(schema)
    kinds: dict[str, object] = {}
    for line in lines:
        kinds.setdefault(line["event"], line)
    assert {
        "library_load",
        "binding",
        "relocated",
        "initializer",
        "tls_static_layout",
        "syscall",
    } <= kinds.keys()
    for line in kinds.values():
        validator.validate(line)


def test_a_trace_does_not_overwrite_what_is_no_trace(hello: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine\n")
    done = _emu("run", "--trace", "dtors", "--trace-output", str(precious), str(hello))
    assert done.returncode != 0
    assert precious.read_text() == "mine\n"


def test_a_brief_trace_has_the_thread_and_what_happened(hello: Path, tmp_path: Path) -> None:
    trace = tmp_path / "t"
    for _ in range(2):  # it may overwrite itself
        done = _emu(
            "run", "--trace", "init", "--trace-format", "brief", "--trace-output", str(trace), str(hello)
        )
        assert done.returncode == 0, done.stderr
    beginning, first, *_ = trace.read_text().splitlines()
    assert beginning == "# emu trace: task, event"
    assert first.startswith(" 1000 ")
    assert f" {first[6:]}" in _emu("run", "--trace", "init", str(hello)).stderr.splitlines()[0]


def test_writes_vanish_unless_let_through(tmp_path: Path) -> None:
    target = tmp_path / "out"
    script = f"echo hi > {target}"
    assert _emu("run", "bash", "-c", script).returncode == 0
    assert not target.exists()
    assert _emu("run", "--writable", str(tmp_path), "bash", "-c", script).returncode == 0
    assert target.read_text() == "hi\n"


@pytest.mark.parametrize("command", ["check", "report", "why"])
def test_an_output_file_destroys_nothing(command: str, tmp_path: Path) -> None:
    file, library = tmp_path / "file", ("libc.so.6",) if command == "why" else ()
    file.write_text("mine\n")
    refused = _emu(command, "-o", str(file), "/bin/true", *library)
    assert refused.returncode == 125 and "not overwritten (--force overwrites it)" in refused.stderr
    assert refused.stderr.count("\n") == 1 and file.read_text() == "mine\n"
    for words in (("--force", "-o"), ("-o",)):  # its own it may overwrite
        assert _emu(command, *words, str(file), "/bin/true", *library).returncode in (0, 1)
        assert file.read_text() != "mine\n"


def test_check_overwrites_its_own_report_as_json(tmp_path: Path) -> None:
    file = str(tmp_path / "report.json")
    for _ in range(2):
        assert _emu("check", "--json", "-o", file, "/bin/true").returncode == 0
