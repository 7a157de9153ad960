"""Names as people write them: Rust's v0 names, C++ names without their ABI tags,
static functions by their demangled names.
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support import emu
from tools import fixtures

if TYPE_CHECKING:
    from pathlib import Path

_TAGGED = """
#include <string>
namespace lg {
std::string text = "t";
std::string name(int) { return text; }
static int helper(int value) { return value + 1; }
}
int main(int argc, char **) { return lg::name(argc).size() + lg::helper(argc) - 3; }
"""


def test_rust_names_in_a_backtrace() -> None:
    done = emu("run", "./main", "13", cwd=fixtures.build("rust-names"))
    assert done.exit == 134
    lines = [
        line.split("(")[0].split(" ", 5)[-1].strip()
        for line in done.stderr.decode().splitlines()
        if "plugin.c" in line
    ]
    assert lines == ["plug::inner::doubled::<i32>", "plug::inner::step", "start"]


def test_a_rust_function_by_its_path() -> None:
    folder = fixtures.build("rust-names")
    done = emu("explain", "./main", "plug::inner::step", "--from", "libplug.so", "--", "4", cwd=folder)
    told = done.stdout.decode() + done.stderr.decode()
    assert "plug::inner::step  (_RNvNtCs4fqI2P2rA04_4plug5inner4step)" in told
    assert "libplug.so" in told


@pytest.fixture(scope="module")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program with a function and a variable that have ABI tags, and a static function."""
    folder = tmp_path_factory.mktemp("tagged")
    (folder / "main.cc").write_text(_TAGGED)
    subprocess.run(["g++", "-g", "-O0", "-rdynamic", "-o", "main", "main.cc"], cwd=folder, check=True)
    return folder


@pytest.mark.parametrize(
    "word", ["lg::name", "lg::name(int)", "lg::name[abi:cxx11](int)", "lg::text", "lg::text[abi:cxx11]"]
)
def test_abi_tags_are_optional(tagged: Path, word: str) -> None:
    done = emu("explain", "./main", word, cwd=tagged)
    assert done.exit == 0 and b"[abi:cxx11]" in done.stdout.splitlines()[0]


@pytest.mark.parametrize("word", ["lg::helper", "lg::helper(int)"])
def test_a_static_function_by_its_demangled_name(tagged: Path, word: str) -> None:
    done = emu("explain", "./main", word, cwd=tagged)
    assert done.exit == 0 and done.stdout.startswith(b"lg::helper(int)  (_ZN2lgL6helperEi)")
    assert b"main  LOCAL  FUNC" in done.stdout
