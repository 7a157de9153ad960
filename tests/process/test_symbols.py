"""Names of code whose file has changed."""

from __future__ import annotations

from pathlib import Path

import emu
from tests.support import compile_c

_OLD = "int pad(void) { return 0; }\nint answer(void) { return 1; }\n"
_NEW = "int answer(void) { return 2; }\nint added(void) { return 3; }\n"


def _build(folder: Path, source: str) -> Path:
    (folder / "plugin.c").write_text(source)
    (folder / "libplugin.so").unlink(missing_ok=True)
    compile_c(folder, "-O1", "-g", "-fPIC", "-shared", "-o", "libplugin.so", "plugin.c")
    return folder / "libplugin.so"


def test_a_plugin_that_is_built_again_has_the_names_of_its_own_file(tmp_path: Path) -> None:
    with emu.Process(trace=["dl"]) as p:
        symbols = p.inner.symbols
        with p.dlopen(_build(tmp_path, _OLD)) as lib:
            old = lib.answer.address
            assert symbols.function(old) == "answer"
            place = symbols.place(old)
            assert place is not None
        assert not lib.loaded
        _build(tmp_path, _NEW)
        with p.dlopen(tmp_path / "libplugin.so") as lib:
            assert symbols.function(lib.answer.address) == "answer"
            assert symbols.function(lib.added.address) == "added"
            assert symbols.source(lib.added.address).endswith("plugin.c:2")
            # What was captured of the old one still has the old names.
            assert symbols.code(place[2], place[1])[-1][0] == "answer"


def test_a_file_that_has_taken_another_s_place_lends_no_names(tmp_path: Path) -> None:
    with emu.Process() as p:
        lib = p.dlopen(_build(tmp_path, _OLD))
        _build(tmp_path, _NEW)
        assert p.inner.symbols.function(lib.pad.address) == "pad"  # from .dynsym in memory
        assert p.inner.symbols.source(lib.pad.address) == ""
