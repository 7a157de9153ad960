"""`emu ldd`: where a missing object was looked for, names that something else served, and auditors."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests import support
from tools import fixtures


def ldd(fixture: str, *words: str) -> tuple[int, dict[str, Any], str]:
    """The exit code, the answer as data and as text."""
    folder = fixtures.build(fixture)
    data = support.emu("ldd", "--json", *words, cwd=folder)
    return data.exit, json.loads(data.stdout), support.emu("ldd", *words, cwd=folder).stdout.decode()


def test_a_missing_object_is_told_with_where_it_was_looked_for() -> None:
    code, answer, text = ldd("opens-that-fail", "lib/libplugin.so")
    (one,) = answer["missing"]
    assert code == 1 and (one["name"], one["needed_by"]) == ("libcommon_.so", "lib/libplugin.so")
    assert [p["rule"] for p in one["places"] if p["searched"]] == [
        "library-path",
        "runpath",
        "cache",
        "default",
    ]
    assert [(p["rule"], p["tried"][0]["path"]) for p in one["places"] if not p["searched"]] == [
        ("directory", "lib/common/libcommon_.so")
    ]
    assert "libcommon_.so, needed by lib/libplugin.so, was not found. Looked in:" in text
    assert "give libplugin.so the RUNPATH $ORIGIN/common " in text


def test_nothing_is_missing_where_the_runpath_leads_there() -> None:
    code, answer, text = ldd("opens-that-fail", "lib/libcured.so")
    assert (code, answer["missing"], answer["served_by_others"]) == (0, [], [])
    assert "not found" not in text


def _versioned(folder: Path, *, lost: bool) -> None:
    """Build a program that needs V2 of its library, which then has it or (lost) has it no more."""
    (folder / "v.c").write_text("int fresh(void) { return 1; } int old(void) { return 2; }")
    (folder / "main.c").write_text("int fresh(void); int main(void) { return fresh() - 1; }")
    (folder / "new.map").write_text("V1 { global: old; };\nV2 { global: fresh; } V1;")
    (folder / "old.map").write_text("V1 { global: old; local: *; };")
    library = "gcc -shared -fPIC -Wl,-soname,libv.so.1,--version-script={}.map -o libv.so.1 v.c"
    program = "gcc -o main main.c ./libv.so.1 -Wl,-rpath,$ORIGIN"
    for command in (library.format("new"), program, *([library.format("old")] if lost else [])):
        subprocess.run(command.split(), cwd=folder, check=True)


def test_a_version_that_is_missing_is_told_in_ld_sos_words_and_why(tmp_path: Path) -> None:
    _versioned(tmp_path, lost=True)
    native = subprocess.run(["./main"], cwd=tmp_path, capture_output=True, text=True, check=False)
    done = support.emu("ldd", "./main", cwd=tmp_path)
    assert native.returncode == 1 and native.stderr.removeprefix("./main: ") in done.stdout.decode()
    data = support.emu("ldd", "--json", "./main", cwd=tmp_path)
    (one,) = json.loads(data.stdout)["missing_versions"]
    assert (done.exit, data.exit, one["version"], one["needed_by"]) == (1, 1, "V2", "./main")
    assert "main needs the version V2 of libv.so.1 (DT_VERNEED), for fresh" in one["story"]
    (tmp_path / "good").mkdir()
    _versioned(tmp_path / "good", lost=False)
    variable = f"LD_LIBRARY_PATH={tmp_path}/good"
    assert support.emu("ldd", "--env", variable, "./main", cwd=tmp_path).exit == 0


def test_a_name_that_is_served_by_what_is_there_though_ones_own_paths_lead_elsewhere() -> None:
    _, answer, text = ldd("opens-that-fail", "./both")
    assert [(s["name"], s["path"], s["known_by"], s["elsewhere"]) for s in answer["served_by_others"]] == [
        ("libver.so.1", "one/libver.so.1", "needed-as", "two/libver.so.1")
    ]
    assert "is one/libver.so.1, which was there already" in text and "lead to two/libver.so.1" in text


_AUDITOR = """
#define _GNU_SOURCE
#include <link.h>
#include <string.h>
unsigned la_version(unsigned version) { return version; }
char *la_objsearch(const char *name, uintptr_t *cookie, unsigned flag) {
    (void)cookie, (void)flag;
    return (char *)(strcmp(name, "libcommon_.so") ? name : "lib/common/libcommon_.so");
}
"""


def test_auditors_have_a_say(tmp_path: Path) -> None:
    (tmp_path / "auditor.c").write_text(_AUDITOR)
    auditor = str(tmp_path / "auditor.so")
    subprocess.run(["gcc", "-fPIC", "-shared", "-o", auditor, "auditor.c"], cwd=tmp_path, check=True)
    code, answer, _ = ldd("opens-that-fail", "--env", f"LD_AUDIT={auditor}", "lib/libplugin.so")
    assert (code, answer["missing"]) == (0, [])
    assert "lib/common/libcommon_.so" in [
        one["path"].partition("opens-that-fail/")[2] for one in answer["objects"]
    ]


def test_the_trace_tells_of_what_is_there() -> None:
    folder = fixtures.build("opens-that-fail")
    done = support.emu("run", "--trace", "libs", "--trace-format", "brief", "./both", cwd=folder)
    lines = [line.split(None, 1)[1] for line in done.stderr.decode().splitlines() if " take " in line]
    assert any(
        line.endswith("it is there, which was needed by that name before") and "libver.so.1" in line
        for line in lines
    )


def test_a_library_without_versions_is_told_in_ld_sos_words() -> None:
    folder = fixtures.build("not-found")
    words = ["--env", "LD_LIBRARY_PATH=silent", "./needs"]
    native = subprocess.run(
        ["ldd", "./needs"], cwd=folder, env={"LD_LIBRARY_PATH": "silent", "PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=True
    )  # fmt: skip
    (said,) = (
        line for line in (native.stdout + native.stderr).splitlines() if "no version information" in line
    )
    done = support.emu("ldd", *words, cwd=folder)
    told = said.removeprefix("./needs: ")
    assert (done.exit, f"\n{told}: every definition" in done.stdout.decode()) == (0, True)
    (text,) = json.loads(support.emu("ldd", "--json", *words, cwd=folder).stdout)["unversioned"]
    assert text == told
    assert json.loads(support.emu("ldd", "--json", "./needs", cwd=folder).stdout)["unversioned"] == []
