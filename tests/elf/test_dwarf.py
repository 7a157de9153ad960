"""Lines and functions agree with llvm-symbolizer and nm, wherever the debugging information is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from emu.core.errors import ElfError
from emu.elf.dwarf import DebugInfo
from tests.elf.support import LIBC

if TYPE_CHECKING:
    from pathlib import Path

_SOURCE = """
#include <vector>
#include <string>
namespace n { struct A { std::string s; __attribute__((noinline)) int f(int x); }; }
int n::A::f(int x) {
    std::vector<int> v(x);
    for (int i = 0; i < x; i++) v[i] = i * x + s.size();
    return v[x / 2];
}
static __attribute__((noinline)) int helper(int x) { return n::A{"abc"}.f(x) + 1; }
extern "C" int entry(int x) { return helper(x) * 2; }
template <class T> __attribute__((noinline)) T twice(T x) { return x + x; }
extern "C" double other(double x) { return twice(x) + twice(int(x)); }
"""


def _build(directory: Path, *options: str, compiler: str = "g++") -> Path:
    source = directory / "l.cc"
    source.write_text(_SOURCE)
    library = directory / "libl.so"
    subprocess.run([compiler, "-shared", "-fPIC", *options, "-o", library, source], check=True)
    return library


def _symbols(library: Path) -> list[tuple[int, int]]:
    text = subprocess.run(["nm", "-S", library], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in text.splitlines()]
    return [(int(row[0], 16), int(row[1], 16)) for row in rows if len(row) == 4 and row[2] in "tTW"]


def _symbolizer(library: str, addresses: list[int]) -> list[tuple[str, int]]:
    """Ask llvm-symbolizer: addr2line names the wrong file for some lines of functions from headers."""
    command = ["llvm-symbolizer", "--no-inlines", "--functions=none", "-e", library]
    text = "".join(f"{address:#x}\n" for address in addresses)
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    places = (block.strip().rsplit(":", 2) for block in done.stdout.strip().split("\n\n"))
    # Older ones put a relative compilation folder before itself; later ones, and gdb, do not.
    once = re.compile(r"^(\./.+)/\1/")
    return [(os.path.normpath(once.sub(r"\1/", file)), int(line)) for file, line, _ in places]


def _agree(info: DebugInfo, reference: str, addresses: list[int]) -> int:
    """Compare every address; return how many have a line."""
    theirs = [place if place[1] else None for place in _symbolizer(reference, addresses)]
    assert [info.line(address) for address in addresses] == theirs
    return len(theirs) - theirs.count(None)


@pytest.mark.needs("llvm-symbolizer")
@pytest.mark.parametrize(
    "options", [("-gdwarf-4", "-O0"), ("-gdwarf-5", "-O2"), ("-gdwarf-4", "-O2"), ("-gdwarf-5", "-gz")]
)
def test_every_address_of_a_library(options: tuple[str, ...], tmp_path: Path) -> None:
    library = _build(tmp_path, *options)
    info = DebugInfo(str(library))
    addresses = [start + at for start, size in _symbols(library) for at in range(0, size, 3)]
    assert _agree(info, str(library), addresses) > 100


@pytest.mark.needs("clang++", "llvm-symbolizer")
@pytest.mark.parametrize("version", ["-gdwarf-4", "-gdwarf-5"])
def test_units_without_aranges_are_found_by_their_own_ranges(version: str, tmp_path: Path) -> None:
    library = _build(tmp_path, "-O2", version, compiler="clang++")
    sections = subprocess.run(["readelf", "-SW", library], capture_output=True, text=True, check=True).stdout
    assert ".debug_info" in sections
    assert ".debug_aranges" not in sections
    addresses = [start + at for start, size in _symbols(library) for at in range(0, size, 3)]
    assert _agree(DebugInfo(str(library)), str(library), addresses) > 100


# GCC's DWARF 4 loses ranges of a unit's first function: an empty range at the unit's start reads as the
# list's end.
_INLINED = """
extern "C" int first(int x) { return x; }
namespace n { namespace {
struct A { int v; inline __attribute__((always_inline)) int twice(int x) { return x * v * x; } };
} }
template <class T> inline __attribute__((always_inline)) T sum(T *p, int n) {
    T s = 0;
    for (int i = 0; i < n; i++) {
        n::A a{i};
        s += p[i] / a.twice(int(s));
    }
    return s;
}
static inline __attribute__((always_inline)) int plain(int *p) { return sum(p, 9) % p[1]; }
extern "C" int entry(int *p) { return plain(p) / 3; }
extern "C" double other(double *p) { return sum(p, 4); }
"""


@pytest.mark.needs("llvm-symbolizer")
@pytest.mark.parametrize("compiler", ["g++", pytest.param("clang++", marks=pytest.mark.needs("clang++"))])
@pytest.mark.parametrize("version", ["-gdwarf-4", "-gdwarf-5"])
def test_inlined_functions_are_those_of_llvm_symbolizer(compiler: str, version: str, tmp_path: Path) -> None:
    source, library = tmp_path / "i.cc", tmp_path / "libi.so"
    source.write_text(_INLINED)
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", version, "-o", library, source], check=True)
    addresses = [a for start, size in _symbols(library) if size > 16 for a in range(start, start + size)]
    command = ["llvm-symbolizer", "--inlines", "--no-demangle", "-e", str(library)]
    done = subprocess.run(
        command, input="".join(f"{a:#x}\n" for a in addresses), capture_output=True, text=True, check=True
    )
    info = DebugInfo(str(library))
    deepest = 0
    for address, block in zip(addresses, done.stdout.strip().split("\n\n"), strict=True):
        lines = block.strip().splitlines()
        theirs = [
            (name, int(place.rsplit(":", 2)[1])) for name, place in zip(lines[::2], lines[1::2], strict=True)
        ]
        ours, line = [], (info.line(address) or ("", 0))[1]
        for inlined in info.inlined(address):
            ours.append((inlined.name, line))
            line = inlined.line
        ours.append(((info.function(address) or ("", 0))[0], line))
        # Without a linkage name, theirs is without scopes.
        assert [(name.rpartition("::")[2], at) for name, at in ours] == theirs
        deepest = max(deepest, len(ours))
        for name, _ in ours[:-1]:
            assert name in ("n::(anonymous namespace)::A::twice", "plain") or name.startswith("_Z")
    assert deepest >= 3


def test_functions_are_linkage_names_with_their_starts(tmp_path: Path) -> None:
    info = DebugInfo(str(_build(tmp_path, "-g", "-O1")))
    starts = dict(info.function(start) or ("", 0) for start, _ in _symbols(tmp_path / "libl.so"))
    assert {"_ZN1n1A1fEi", "entry", "other", "_Z5twiceIdET_S0_"} <= starts.keys()
    assert info.function(starts["entry"] + 1) == ("entry", starts["entry"])
    assert info.function(0) is None
    assert info.line(0) is None
    assert info.line(1 << 40) is None


def test_without_debugging_information_dynsym_names_functions(tmp_path: Path) -> None:
    library = _build(tmp_path, "-s")
    info = DebugInfo(str(library))
    text = subprocess.run(["nm", "-D", library], capture_output=True, text=True, check=True).stdout
    entry = next(int(line.split()[0], 16) for line in text.splitlines() if line.endswith(" entry"))
    assert info.function(entry + 4) == ("entry", entry)
    assert info.line(entry) is None


@pytest.mark.needs("llvm-symbolizer")
def test_separate_file_by_debuglink_is_checked_by_its_crc(tmp_path: Path) -> None:
    library = _build(tmp_path, "-g", "-Wl,--build-id=none")
    whole = tmp_path / "whole.so"
    whole.write_bytes(library.read_bytes())
    (tmp_path / ".debug").mkdir()
    debug = tmp_path / ".debug" / "libl.so.debug"
    subprocess.run(["objcopy", "--only-keep-debug", library, debug], check=True)
    subprocess.run(["objcopy", "--strip-all", f"--add-gnu-debuglink={debug}", library], check=True)
    info = DebugInfo(str(library))
    assert info.debug_path == str(debug)
    addresses = [start for start, _ in _symbols(whole)]
    assert _agree(info, str(whole), addresses) > 5
    assert "_ZL6helperi" in {(info.function(start) or ("", 0))[0] for start in addresses}
    debug.write_bytes(debug.read_bytes() + b"\0")
    assert DebugInfo(str(library)).debug_path == str(library)


def test_separate_file_by_build_id_under_another_root(tmp_path: Path) -> None:
    library = _build(tmp_path, "-g", "-Wl,--build-id=0x0102030405")
    directory = tmp_path / "root/usr/lib/debug/.build-id/01"
    directory.mkdir(parents=True)
    subprocess.run(["objcopy", "--only-keep-debug", library, directory / "02030405.debug"], check=True)
    start = _symbols(library)[-1][0]
    expected = DebugInfo(str(library)).line(start)
    subprocess.run(["strip", library], check=True)
    info = DebugInfo(str(library), root=str(tmp_path / "root"))
    assert expected is not None
    assert info.line(start) == expected


@pytest.mark.needs("llvm-symbolizer")
def test_libc_by_its_build_id() -> None:
    info = DebugInfo(os.path.realpath(LIBC))
    assert info.debug_path.startswith("/usr/lib/debug/.build-id/")
    text = subprocess.run(["nm", "-D", LIBC], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in text.splitlines()]
    names = ("qsort", "printf", "exit", "getenv", "strtol", "fopen")
    starts = {row[2].partition("@")[0]: int(row[0], 16) for row in rows if len(row) == 3}
    addresses = [starts[name] for name in names]
    assert _agree(info, info.debug_path, addresses) == len(names)
    assert [(info.function(at) or ("", 0))[1] for at in addresses] == addresses
    assert info.function(starts["qsort"]) == ("qsort", starts["qsort"])


@pytest.mark.needs("llvm-symbolizer")
@pytest.mark.parametrize("version", ["-gdwarf-4", "-gdwarf-5"])
def test_a_relative_compilation_folder_is_named_once(version: str, tmp_path: Path) -> None:
    """As distributions leave it after mapping the folder of their build away."""
    library = _build(tmp_path, "-O1", version, f"-ffile-prefix-map={tmp_path}=./sub")
    addresses = [start for start, _ in _symbols(library)]
    assert _agree(DebugInfo(str(library)), str(library), addresses) > 3


def test_damaged_files_are_elf_errors(tmp_path: Path) -> None:
    library = _build(tmp_path, "-g")
    good = library.read_bytes()
    broken = tmp_path / "broken.so"
    sections = int.from_bytes(good[40:48], "little")
    outcomes: set[object] = set()
    for data in (b"", b"junk", good[:1000], good[:sections], good[:sections] + bytes(len(good) - sections)):
        broken.write_bytes(data)
        try:
            info = DebugInfo(str(broken))
            outcomes.add((info.line(0x1100), info.function(0x1100)))
        except ElfError as error:
            outcomes.add(error.object_name)
    assert str(broken) in outcomes
    with pytest.raises(FileNotFoundError):
        DebugInfo(str(tmp_path / "absent"))


def test_importing_the_readers_imports_nothing_heavy() -> None:
    modules = (
        "header image dynamic strtab symtab hash versions relocations notes dwarf demangle builder".split()
    )
    code = "import sys\n" + "".join(f"import emu.elf.{name}\n" for name in modules)
    code += (
        "print(sorted({'elftools', 'cxxfilt', 'dataclasses', 'inspect', 're', 'zlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True)
    assert "elftools" not in done.stdout
    assert "cxxfilt" not in done.stdout
    assert "dataclasses" not in done.stdout


def test_a_symbol_without_a_size_does_not_reach_into_the_next_function(tmp_path: Path) -> None:
    (tmp_path / "a.c").write_text(
        'asm(".globl bare\\n.type bare,@function\\nbare: nop\\nnop\\n");\n'
        "static __attribute__((noinline)) int inner(int a) { return a * 3; }\nint outer(int a) { return inner(a) + 1; }\n"
    )
    words = ["gcc", "-O1", "-g0", "-fno-toplevel-reorder", "-shared", "-fPIC", "-o", "a.so", "a.c"]
    subprocess.run(words, cwd=tmp_path, check=True)
    whole = DebugInfo(str(tmp_path / "a.so"))
    listed = subprocess.run(["nm", "a.so"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    at = {line.split()[2]: int(line.split()[0], 16) for line in listed.splitlines() if len(line.split()) == 3}
    assert whole.function(at["bare"] + 1) == ("bare", at["bare"])
    subprocess.run(["strip", "a.so"], cwd=tmp_path, check=True)
    stripped = DebugInfo(str(tmp_path / "a.so"))
    assert stripped.function(at["bare"] + 1) == ("bare", at["bare"])
    assert at["bare"] < at["inner"] < at["outer"]
    assert stripped.function(at["inner"] + 2) is None
    assert stripped.function(at["outer"] + 2) == ("outer", at["outer"])
