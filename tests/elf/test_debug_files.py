"""Separate debug files are looked for inside the root only, and no size in a file is
believed before it was checked.
"""

from __future__ import annotations

import os
import struct
import subprocess
import zlib
from pathlib import Path

import pytest

from emu.core.errors import ElfError
from emu.elf.debug_file import MOST_DECOMPRESSED
from emu.elf.dwarf import DebugInfo

_SOURCE = "int first(int n) { return n + 1; }\nint second(int n) { return first(n) * 2; }\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a stripped library that links to `lib.debug`; the debug file itself lies outside."""
    (tmp_path / "lib.c").write_text(_SOURCE)
    place = tmp_path / "root" / "opt"
    place.mkdir(parents=True)
    library = place / "lib.so"
    for command in (
        f"gcc -g -O1 -fPIC -shared -Wl,--build-id=none -o {library} lib.c",
        f"objcopy --only-keep-debug {library} lib.debug",
        f"strip -g {library}",
    ):
        subprocess.run(command.split(), cwd=tmp_path, check=True)
    return tmp_path / "root"


def _link(library: Path, name: str, debug: Path) -> None:
    """Give a library a .gnu_debuglink of any name, with the right checksum."""
    data = name.encode() + b"\0"
    data += bytes(-len(data) % 4) + struct.pack("<I", zlib.crc32(debug.read_bytes()))
    content = library.parent / "link"
    content.write_bytes(data)
    subprocess.run(["objcopy", "--add-section", f".gnu_debuglink={content}", library], check=True)
    content.unlink()


def _line(root: Path) -> tuple[str, int] | None:
    library = root / "opt" / "lib.so"
    info = DebugInfo(str(library), root=str(root))
    words = subprocess.run(["nm", "-D", library], check=True, capture_output=True, text=True).stdout
    start = next(int(line.split()[0], 16) for line in words.splitlines() if line.endswith(" second"))
    return info.line(start)


@pytest.mark.parametrize("where", ["opt", "opt/.debug", "usr/lib/debug/opt"])
def test_a_link_is_followed_inside_the_root(where: str, root: Path) -> None:
    debug = root.parent / "lib.debug"
    _link(root / "opt" / "lib.so", "lib.debug", debug)
    assert _line(root) is None
    (root / where).mkdir(parents=True, exist_ok=True)
    debug.rename(root / where / "lib.debug")
    line = _line(root)
    assert line is not None
    assert line[1] == 2


@pytest.mark.parametrize("name", ["../../lib.debug", "/lib.debug", "..", ".", "", "sub/lib.debug"])
def test_a_link_that_is_a_path_leads_nowhere(name: str, root: Path) -> None:
    debug = root.parent / "lib.debug"
    (root / "opt" / "sub").mkdir()
    (root / "opt" / "sub" / "lib.debug").write_bytes(debug.read_bytes())
    (root / "lib.debug").write_bytes(debug.read_bytes())
    full = str(debug) if name == "/lib.debug" else name
    _link(root / "opt" / "lib.so", full, debug)
    assert _line(root) is None


@pytest.mark.parametrize("target", ["../../lib.debug", "ABSOLUTE", "../../../../../../ABSOLUTE"])
def test_symbolic_links_do_not_lead_out_of_the_root(target: str, root: Path) -> None:
    debug = root.parent / "lib.debug"
    _link(root / "opt" / "lib.so", "lib.debug", debug)
    (root / "opt" / "lib.debug").symlink_to(target.replace("ABSOLUTE", str(debug)))
    assert _line(root) is None


def test_absolute_links_begin_at_the_root(root: Path) -> None:
    debug = root.parent / "lib.debug"
    _link(root / "opt" / "lib.so", "lib.debug", debug)
    (root / "else").mkdir()
    debug.rename(root / "else" / "it")
    (root / "opt" / "lib.debug").symlink_to("/../else/it")
    assert _line(root) is not None
    (root / "opt" / "lib.debug").unlink()
    (root / "opt" / "lib.debug").symlink_to("lib.debug")  # a circle
    assert _line(root) is None


def test_neither_pipes_nor_folders_are_debug_files(root: Path) -> None:
    _link(root / "opt" / "lib.so", "lib.debug", root.parent / "lib.debug")
    os.mkfifo(root / "opt" / "lib.debug")
    (root / "opt" / ".debug" / "lib.debug").mkdir(parents=True)
    assert _line(root) is None


def _patched(root: Path, name: str, **values: int) -> None:
    """Change the header of a section of the library; `raw` overwrites its content."""
    library = root / "opt" / "lib.so"
    data = bytearray(library.read_bytes())
    (shoff,) = struct.unpack_from("<Q", data, 40)
    shnum, shstrndx = struct.unpack_from("<HH", data, 60)
    (names,) = struct.unpack_from("<Q", data, shoff + 64 * shstrndx + 24)
    for at in range(shoff, shoff + 64 * shnum, 64):
        start = names + struct.unpack_from("<I", data, at)[0]
        if data[start : data.index(0, start)].decode() == name:
            for field, value in values.items():
                struct.pack_into(
                    "<Q", data, at + {"type": 4, "flags": 8, "offset": 24, "size": 32}[field], value
                )
    library.write_bytes(data)


def _with_section(root: Path, header: bytes, body: bytes) -> None:
    library = root / "opt" / "lib.so"
    content = root / "content"
    content.write_bytes(header + body)
    names = (".debug_aranges", ".debug_info", ".debug_line")
    added = [word for name in names for word in ("--add-section", f"{name}={content}")]
    subprocess.run(["objcopy", *added, library], check=True)
    for name in names:
        _patched(root, name, flags=0x800)  # SHF_COMPRESSED


@pytest.mark.parametrize("said", [0, 100, MOST_DECOMPRESSED, 1 << 40])
def test_a_compressed_section_is_bounded_by_the_size_that_it_says(said: int, root: Path) -> None:
    bomb = zlib.compress(bytes(64 << 20), 9)
    _with_section(root, struct.pack("<IIQQ", 1, 0, said, 1), bomb)
    with pytest.raises(ElfError, match="compressed section"):
        _line(root)


def test_sections_past_the_end_are_errors(root: Path) -> None:
    library = root / "opt" / "lib.so"
    good = library.read_bytes()
    _patched(root, ".symtab", size=24 << 36)
    info = DebugInfo(str(library), root=str(root))
    with pytest.raises(ElfError, match="passes the end of the file"):
        info.static_symbols(b"first")
    for at, width, value in ((60, "H", 0xFFF0), (40, "Q", (1 << 63) - 1)):
        data = bytearray(good)
        struct.pack_into("<" + width, data, at, value)
        library.write_bytes(data)
        with pytest.raises(ElfError):
            DebugInfo(str(library), root=str(root))
