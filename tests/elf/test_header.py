"""Header checks say what the native ld.so says, word for word; execve's rules are the kernel's."""

from __future__ import annotations

import errno
import os
import struct
import subprocess
from typing import TYPE_CHECKING

import pytest

from emu.core.errors import ElfError
from emu.elf import constants as c
from emu.elf.header import (
    ForeignObjectError,
    NotExecutableError,
    check_executable,
    check_loadable,
    file_backed_end,
    parse_ehdr,
    parse_phdrs,
)
from tests.elf.support import RETURN_42, dlopen_errors, read_object, rich_builder

if TYPE_CHECKING:
    from pathlib import Path

Edit = tuple[int, str, int]
_GOOD = rich_builder().build()
_PHDRS = read_object(_GOOD, "good").phdrs
_LOADS = [64 + 56 * at for at, phdr in enumerate(_PHDRS) if phdr.type == c.PT_LOAD]
_DYNAMIC = next(64 + 56 * at for at, phdr in enumerate(_PHDRS) if phdr.type == c.PT_DYNAMIC)

SAME_WORDS: dict[str, list[Edit]] = {
    "magic": [(0, "B", 1)],
    "class": [(4, "B", 1)],
    "class and data": [(4, "B", 9), (5, "B", 2)],
    "data": [(5, "B", 2)],
    "ident version": [(6, "B", 2)],
    "OS ABI": [(7, "B", 1)],
    "OS ABI NetBSD": [(7, "B", 2)],
    "GNU ABI": [(7, "B", 3)],
    "GNU ABI version 3": [(7, "B", 3), (8, "B", 3)],
    "GNU ABI version 4": [(7, "B", 3), (8, "B", 4)],
    "SYSV ABI version 1": [(8, "B", 1)],
    "padding": [(9, "B", 1)],
    "last padding": [(15, "B", 1)],
    "version": [(20, "I", 2)],
    "version and machine": [(20, "I", 2), (18, "H", 3)],
    "ET_REL": [(16, "H", 1)],
    "ET_CORE and phentsize": [(16, "H", 4), (54, "H", 5)],
    "ET_EXEC": [(16, "H", 2)],
    "phentsize": [(54, "H", 57)],
    "no program headers": [(56, "H", 0)],
    "65535 program headers": [(56, "H", 65535)],
    "phoff": [(32, "Q", 1 << 40)],
    "ehsize is not read": [(52, "H", 1)],
    "no PT_LOAD": [(at, "I", 0) for at in _LOADS],
    "no PT_LOAD in ET_EXEC": [(16, "H", 2), *((at, "I", 0) for at in _LOADS)],
    "no PT_DYNAMIC": [(_DYNAMIC, "I", 0)],
    "no PT_DYNAMIC in ET_EXEC": [(16, "H", 2), (_DYNAMIC, "I", 0)],
    "empty PT_DYNAMIC": [(_DYNAMIC + 32, "Q", 0)],
    "vaddr not congruent": [(_LOADS[1] + 16, "Q", 0x1008)],
    "align 3": [(_LOADS[1] + 48, "Q", 3)],
    "align 0": [(_LOADS[1] + 48, "Q", 0)],
}


def _edited(edits: list[Edit]) -> bytes:
    data = bytearray(_GOOD)
    for offset, kind, value in edits:
        struct.pack_into("<" + kind, data, offset, value)
    return bytes(data)


def _ours(data: bytes) -> str:
    try:
        ehdr = parse_ehdr(data, "P")
        check_loadable(ehdr, parse_phdrs(data, ehdr, "P"), "P")
    except ElfError as error:
        return str(error)
    return ""


def test_ld_so_says_the_same(tmp_path: Path) -> None:
    files = {label: _edited(edits) for label, edits in SAME_WORDS.items()}
    files |= {f"cut to {size}": _GOOD[:size] for size in (0, 4, 63, 64, 100)}
    paths: list[Path] = []
    for number, data in enumerate(files.values()):
        paths.append(tmp_path / f"lib{number}.so")
        paths[-1].write_bytes(data)
    theirs = dict(zip(files, dlopen_errors(paths), strict=True))
    assert {label: _ours(data) for label, data in files.items()} == theirs


@pytest.mark.parametrize(
    ("align", "vaddr", "said"),
    [
        (3, 0x1000, "ELF load command alignment not page-aligned"),
        (0, 0x3000, "ELF load command address/offset not properly aligned"),
        (0x2000, 0x3000, ""),
        (0x4000, 0x3000, "ELF load command address/offset not properly aligned"),
    ],
)
def test_until_2_34_segments_are_judged_by_their_own_alignment(align: int, vaddr: int, said: str) -> None:
    """As asked of 2.31's ld.so; with the offset 0x1000."""
    ehdr = parse_ehdr(_GOOD, "P")
    load = _PHDRS[0]._replace(type=c.PT_LOAD, offset=0x1000, vaddr=vaddr, align=align)
    if said:
        with pytest.raises(ElfError, match=said):
            check_loadable(ehdr, [load, *_PHDRS[1:]], "P", own_alignment=True)
    else:
        check_loadable(ehdr, [load, *_PHDRS[1:]], "P", own_alignment=True)


def test_what_ld_so_leaves_to_the_mapping_or_never_looks_at_is_no_error_of_the_headers() -> None:
    tls = next(64 + 56 * at for at, phdr in enumerate(_PHDRS) if phdr.type == c.PT_TLS)
    for edits in (
        [(_LOADS[-1] + 40, "Q", 1 << 50)],
        [(_LOADS[1] + 32, "Q", 0x900)],
        [(_LOADS[1] + 8, "Q", 0x100000)],
        [(_LOADS[1] + 16, "Q", 0)],
        [(_DYNAMIC + 16, "Q", 0x900000)],
        [(tls + 48, "Q", 3)],
        [(tls + 40, "Q", 1 << 60)],
    ):
        assert _ours(_edited(edits)) == "", edits


@pytest.mark.parametrize(
    ("edits", "reason"),
    [
        ([(_LOADS[1] + 40, "Q", 1)], "exceeds p_memsz"),
        ([(_LOADS[-1] + 40, "Q", 1 << 50)], "program header 4: p_memsz .* passes the address space"),
        ([(_LOADS[-1] + 16, "Q", 1 << 60)], "program header 4: p_vaddr .* passes the address space"),
        ([(_LOADS[-1] + 16, "Q", 0x1008)], "address/offset not page-aligned"),
    ],
)
def test_segments_that_linux_kills_a_program_for(edits: list[Edit], reason: str) -> None:
    with pytest.raises(ElfError, match=reason):
        check_executable(_edited(edits), "P")


def test_another_machine_or_class_lets_a_search_go_on() -> None:
    for edits in ([(18, "H", 183)], [(4, "B", 1)]):
        with pytest.raises(ForeignObjectError):
            parse_ehdr(_edited(edits), "P")


def test_open_exec_allows_an_executable() -> None:
    data = _edited([(16, "H", 2)])
    ehdr = parse_ehdr(data, "P")
    check_loadable(ehdr, parse_phdrs(data, ehdr, "P"), "P", open_exec=True)


def test_file_backed_end_is_the_end_of_the_segment_that_holds_the_address() -> None:
    code = _PHDRS[1]
    assert file_backed_end(_PHDRS, code.vaddr + 3) == code.vaddr + code.filesz
    assert file_backed_end(_PHDRS, 0x50000) == 0x50000


def _program() -> bytes:
    from emu.elf.builder import ElfBuilder

    b = ElfBuilder(type_=c.ET_EXEC, base=0x400000)
    b.interp = b"/lib64/ld-linux-x86-64.so.2"
    b.entry = b.text(RETURN_42)
    return b.build()


EXEC_EDITS: dict[str, list[Edit]] = {
    "good": [],
    "magic": [(1, "B", 0)],
    "ident version": [(6, "B", 9)],
    "OS ABI": [(7, "B", 9)],
    "padding": [(9, "B", 1)],
    "ET_REL": [(16, "H", 1)],
    "machine": [(18, "H", 8)],
    "version": [(20, "I", 7)],
    "phentsize": [(54, "H", 57)],
    "no program headers": [(56, "H", 0)],
    "too many program headers": [(56, "H", 1300)],
    "program headers outside": [(32, "Q", 1 << 20)],
    "short interpreter": [(64 + 56 + 32, "Q", 1)],
    "long interpreter": [(64 + 56 + 32, "Q", 5000)],
    "interpreter without NUL": [(64 + 56 + 32, "Q", 27)],
}


def test_execve_refuses_the_same_programs(tmp_path: Path) -> None:
    ours: dict[str, int] = {}
    theirs: dict[str, int] = {}
    for number, (label, edits) in enumerate(EXEC_EDITS.items()):
        data = bytearray(_program())
        for offset, kind, value in edits:
            struct.pack_into("<" + kind, data, offset, value)
        path = tmp_path / f"program{number}"
        path.write_bytes(data)
        path.chmod(0o755)
        try:
            subprocess.run([path], check=False, capture_output=True)
            theirs[label] = 0
        except OSError as error:
            theirs[label] = error.errno or 0
        try:
            check_executable(bytes(data), label)
            ours[label] = 0
        except NotExecutableError as error:
            ours[label] = error.errno
    assert ours == theirs
    assert set(ours.values()) == {0, errno.ENOEXEC}


def test_scripts_other_machines_and_short_files_are_not_executable() -> None:
    small = bytearray(_program())
    small[c.EI_CLASS], small[18] = c.ELFCLASS32, 3  # EM_386
    for data in (b"#!/bin/sh\n", b"", _program()[:50], bytes(small)):
        with pytest.raises(NotExecutableError, match="Exec format error"):
            check_executable(data, "program")


def test_a_system_program_is_executable() -> None:
    path = os.path.realpath("/bin/ls")
    with open(path, "rb") as file:
        ehdr, phdrs, interpreter = check_executable(file.read(), path)
    assert (ehdr.type, interpreter) == (c.ET_DYN, b"/lib64/ld-linux-x86-64.so.2")
    assert ehdr.phnum == len(phdrs)
