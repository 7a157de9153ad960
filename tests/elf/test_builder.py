"""What the writer writes, the native ld.so loads, binds, relocates and runs; and the readers read back."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from emu.elf import constants as c
from emu.elf.builder import ElfBuilder
from emu.elf.eh_frame import FrameEntry
from emu.elf.header import check_executable
from emu.elf.relocations import iter_rela, relr_addresses
from tests.elf.support import RETURN_42, read_object, rich_builder

if TYPE_CHECKING:
    from pathlib import Path


def _native(path: Path, code: str) -> str:
    program = f"import ctypes, os\nlib = ctypes.CDLL({str(path)!r})\n{code}"
    return subprocess.run(
        [sys.executable, "-S", "-c", program], capture_output=True, text=True, check=True
    ).stdout


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rich") / "librich.so"
    path.write_bytes(rich_builder().build())
    return path


def test_the_native_loader_runs_it(rich: Path) -> None:
    code = """
print(lib.answer(), ctypes.c_long.in_dll(lib, "ran").value, lib.pid() == os.getpid())
words = (ctypes.c_uint64 * 200).in_dll(lib, "table")
old = ctypes.c_uint64.in_dll(lib, "pointer").value
print(len({word for word in words if word}), sum(1 for word in words if word), words[0] == words[3] == old)
print(ctypes.CFUNCTYPE(ctypes.c_int)(old)())
"""
    assert _native(rich, code).split("\n")[:-1] == ["43 1 True", "1 67 True", "42"]


def test_dlvsym_finds_both_versions(rich: Path) -> None:
    code = """
libc = ctypes.CDLL(None)
libc.dlvsym.restype = ctypes.c_void_p
for version in (b"RICH_1", b"RICH_2"):
    address = libc.dlvsym(ctypes.c_void_p(lib._handle), b"answer", version)
    print(ctypes.CFUNCTYPE(ctypes.c_int)(address)())
"""
    assert _native(rich, code) == "42\n43\n"


@pytest.mark.parametrize("style", ["gnu", "sysv", "both"])
def test_each_hash_style_is_found_natively(style: str, tmp_path: Path) -> None:
    assert style in ("gnu", "sysv", "both")
    b = ElfBuilder(hash_style=style)  # type: ignore[arg-type]
    for number in range(60):
        at = b.text(b"\xb8" + number.to_bytes(4, "little") + b"\xc3")
        b.define(f"function_{number}".encode(), at, size=6)
    path = tmp_path / "lib.so"
    path.write_bytes(b.build())
    assert _native(path, "print(*[lib[f'function_{n}']() for n in range(60)])").split() == list(
        map(str, range(60))
    )


def test_tls_is_what_the_native_loader_gives(rich: Path) -> None:
    code = """
lib.tls_one, lib.tls_zero
print(ctypes.c_int.in_dll(lib, "tls_one").value, ctypes.c_long.in_dll(lib, "tls_zero").value)
"""
    assert _native(rich, code) == "1 0\n"


def test_readers_read_back_what_was_written(rich: Path) -> None:
    o = read_object(rich.read_bytes(), "librich.so")
    assert o.dynamic.soname is not None
    assert o.table.strings.at(o.dynamic.soname) == b"librich.so"
    assert [o.table.strings.at(offset) for offset in o.dynamic.needed] == [b"libc.so.6"]
    assert [(d.name, d.flags, d.parents) for d in o.defs] == [
        (b"librich.so", c.VER_FLG_BASE, ()),
        (b"RICH_1", 0, ()),
        (b"RICH_2", 0, (b"RICH_1",)),
    ]
    assert [(n.file, n.name) for n in o.needs] == [
        (b"libc.so.6", b"GLIBC_ABI_DT_RELR"),
        (b"libc.so.6", b"GLIBC_2.2.5"),
    ]
    relr = relr_addresses(o.image.read(*o.dynamic.table(c.DT_RELR)), "librich.so")
    table = next(symbol.value for symbol in o.table.symbols() if symbol.name == b"table")
    assert relr == [table + 8 * index for index in range(0, 200, 3)]
    jmprel = list(iter_rela(o.image.read(*o.dynamic.table(c.DT_JMPREL)), "librich.so"))
    assert [o.table.symbol_name(info >> 32) for _, info, _ in jmprel] == [b"getpid"]


def test_an_executable_runs_under_the_kernel(tmp_path: Path) -> None:
    b = ElfBuilder(type_=c.ET_EXEC, base=0x400000)
    b.entry = b.text(b"\xbf\x07\x00\x00\x00\xb8\xe7\x00\x00\x00\x0f\x05")  # exit_group(7)
    path = tmp_path / "seven"
    path.write_bytes(b.build())
    path.chmod(0o755)
    assert subprocess.run([path], check=False).returncode == 7
    assert check_executable(path.read_bytes(), "seven")[2] is None


def test_a_dynamic_pie_with_an_interpreter_runs(tmp_path: Path) -> None:
    b = ElfBuilder()
    b.interp = b"/lib64/ld-linux-x86-64.so.2"
    b.flags_1 = c.DF_1_PIE
    b.needed = [b"libc.so.6"]
    slot = b.data(bytes(8))
    b.rela(c.R_X86_64_GLOB_DAT, slot, b.undefined(b"_exit", version=b"GLIBC_2.2.5", file=b"libc.so.6"))
    start = b.text(b"\xbf\x09\x00\x00\x00")
    call_end = start + 5 + 6
    b.text(b"\xff\x15" + (slot - call_end).to_bytes(4, "little"), 1)
    b.entry = start
    path = tmp_path / "nine"
    path.write_bytes(b.build())
    path.chmod(0o755)
    assert subprocess.run([path], check=False).returncode == 9
    assert check_executable(path.read_bytes(), "nine")[2] == b.interp


def test_the_unwinder_finds_our_frames(tmp_path: Path) -> None:
    """An exception passes through a function whose frame only our unwind information describes."""
    b = ElfBuilder(soname=b"libframe.so")
    # through: push %rbx; call *%rdi; pop %rbx; ret
    at = b.text(b"\x53\xff\xd7\x5b\xc3")
    b.define(b"through", at, size=5)
    b.frames = [FrameEntry(at, 5, bytes([0x41, 0x0E, 16, 0x83, 2, 0x43, 0x0E, 8]))]
    library = tmp_path / "libframe.so"
    library.write_bytes(b.build())
    source = tmp_path / "main.cc"
    source.write_text(
        "#include <dlfcn.h>\n"
        "int main(int, char **argv) {\n"
        '  auto through = (void (*)(void (*)()))dlsym(dlopen(argv[1], RTLD_NOW), "through");\n'
        "  try { through([] { throw 5; }); } catch (int n) { return n; }\n"
        "  return 1;\n}\n"
    )
    program = tmp_path / "main"
    subprocess.run(["g++", "-o", program, source], check=True)
    assert subprocess.run([program, library], check=False).returncode == 5


def test_readelf_finds_nothing_wrong(rich: Path) -> None:
    done = subprocess.run(
        ["readelf", "-lDdsrnV", "--wide", rich],
        capture_output=True,
        text=True,
        check=True,
        env={"LC_ALL": "C"},
    )
    assert "Build ID: 000102030405060708090a0b0c0d0e0f10111213" in done.stdout
    assert done.stderr == ""


def test_a_single_segment_image_is_one_load_whose_offsets_are_its_addresses() -> None:
    b = ElfBuilder(soname=b"linux-vdso.so.1", single_segment=True, hash_style="both", text_vaddr=0x400)
    getcpu = b.text(RETURN_42)
    b.define(b"__vdso_getcpu", getcpu, size=6, version=b"LINUX_2.6")
    b.frames = [FrameEntry(getcpu, 6)]
    b.note(b"Linux", 0, b"\0\0\6\0")
    data = b.build()
    o = read_object(data, "linux-vdso.so.1")
    assert [(p.offset, p.vaddr, p.filesz, p.flags) for p in o.phdrs if p.type == c.PT_LOAD] == [
        (0, 0, len(data), c.PF_R | c.PF_X)
    ]
    assert all(p.offset == p.vaddr for p in o.phdrs)
    assert o.table.symbol(1)[:2] == (b"__vdso_getcpu", 0x400)
    assert data[0x400:0x406] == RETURN_42


def test_parts_that_do_not_fit_are_a_value_error() -> None:
    b = ElfBuilder(single_segment=True)
    b.data(b"1")
    with pytest.raises(ValueError, match="single segment"):
        b.build()
    b = ElfBuilder()
    b.bss(8)
    with pytest.raises(ValueError, match="data after bss"):
        b.data(b"1")
    b = ElfBuilder(data_vaddr=0x2000)
    b.text(bytes(0x2000))
    b.data(b"1")
    with pytest.raises(ValueError, match="overlaps"):
        b.build()
    with pytest.raises(ValueError, match="not an aligned word"):
        ElfBuilder().relr(0x100000, 0)
    with pytest.raises(ValueError, match="without the file"):
        ElfBuilder().undefined(b"x", version=b"V")
