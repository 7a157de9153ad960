"""The readers agree with readelf and pyelftools on the objects of this system."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from typing import IO, Any

import pytest
from elftools.elf.elffile import ELFFile

from emu.elf import constants as c
from emu.elf.hash import gnu_hash, sysv_hash
from emu.elf.header import parse_ehdr
from emu.elf.notes import Note, abi_tag, build_id, gnu_properties, parse_notes
from emu.elf.relocations import iter_rela, reloc_name
from tests.elf.support import LIBC, LIBSTDCXX, REAL_OBJECTS, Object, read_object


@cache
def _object(path: str) -> Object:
    with open(path, "rb") as file:
        return read_object(file.read(), path, open_exec=True)


def _readelf(*arguments: str) -> str:
    command = ["readelf", "--wide", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, env={"LC_ALL": "C"}).stdout


def _elffile(file: IO[bytes]) -> Any:
    return ELFFile(file)


@pytest.mark.parametrize("path", REAL_OBJECTS)
def test_symbols_and_their_versions(path: str) -> None:
    o = _object(path)
    with open(path, "rb") as file:
        elf = _elffile(file)
        dynsym, versym = elf.get_section_by_name(".dynsym"), elf.get_section_by_name(".gnu.version")
        theirs = [
            (s["st_name"], s["st_value"], s["st_size"], s["st_shndx"], s.name, v.entry["ndx"])
            for s, v in zip(dynsym.iter_symbols(), versym.iter_symbols(), strict=True)
        ]
    special: dict[object, int] = {
        "SHN_UNDEF": 0,
        "SHN_ABS": c.SHN_ABS,
        "VER_NDX_LOCAL": c.VER_NDX_LOCAL,
        "VER_NDX_GLOBAL": c.VER_NDX_GLOBAL,
    }
    assert len(o.table) == len(theirs)
    ours = [
        (o.table.entry(at).name, s.value, s.size, s.shndx, s.name.decode(), o.table.version_index(at))
        for at, s in enumerate(o.table.symbols())
    ]
    expected = [
        (offset, value, size, special.get(shndx, shndx), name, special.get(ndx, ndx))
        for offset, value, size, shndx, name, ndx in theirs
    ]
    assert ours == expected
    assert o.table.symbol(3) == list(o.table.symbols())[3]


def test_symbol_attributes_are_those_of_readelf() -> None:
    o = _object(LIBSTDCXX)
    binds = {c.STB_LOCAL: "LOCAL", c.STB_GLOBAL: "GLOBAL", c.STB_WEAK: "WEAK", c.STB_GNU_UNIQUE: "UNIQUE"}
    types = {
        c.STT_NOTYPE: "NOTYPE",
        c.STT_OBJECT: "OBJECT",
        c.STT_FUNC: "FUNC",
        c.STT_TLS: "TLS",
        c.STT_GNU_IFUNC: "IFUNC",
        c.STT_SECTION: "SECTION",
    }
    visibilities = ("DEFAULT", "INTERNAL", "HIDDEN", "PROTECTED")
    ours = [
        f"{at} {binds[s.bind]} {types[s.type]} {visibilities[s.visibility]} {s.defined}"
        for at, s in enumerate(o.table.symbols())
    ]
    lines = re.findall(
        r"^ *(\d+): \w+ +\w+ (\w+) +(\w+) +(\w+) +(\w+)", _readelf("--dyn-syms", LIBSTDCXX), re.M
    )
    theirs = [f"{at} {bind} {type_} {vis} {ndx != 'UND'}" for at, type_, bind, vis, ndx in lines]
    assert ours == theirs


@pytest.mark.parametrize("path", REAL_OBJECTS)
def test_every_hashed_symbol_is_found_and_no_other(path: str) -> None:
    o = _object(path)
    table = o.table.gnu_hash
    assert table is not None
    names = [symbol.name for symbol in o.table.symbols()]
    for at in range(table.symoffset, len(names)):
        found = list(table.candidates(names[at]))
        assert at in found
        assert all(gnu_hash(names[other]) | 1 == gnu_hash(names[at]) | 1 for other in found)
    for at in range(1, min(table.symoffset, len(names))):
        assert at not in list(table.candidates(names[at]))
    assert not [at for at in table.candidates(b"no such symbol") if names[at] == b"no such symbol"]
    assert o.table.strings.holds(names[5] + b"\0", o.table.entry(5).name)
    assert not o.table.strings.holds(b"no such symbol\0", o.table.entry(5).name)


@pytest.mark.parametrize("path", REAL_OBJECTS)
def test_versions(path: str) -> None:
    o = _object(path)
    with open(path, "rb") as file:
        elf = _elffile(file)
        verdef, verneed = elf.get_section_by_name(".gnu.version_d"), elf.get_section_by_name(".gnu.version_r")
        defs = [
            (v["vd_ndx"], v["vd_flags"], v["vd_hash"], [a.name for a in aux])
            for v, aux in (verdef.iter_versions() if verdef else ())
        ]
        needs = [
            (v.name, a["vna_hash"], a["vna_flags"], a["vna_other"], a.name)
            for v, aux in (verneed.iter_versions() if verneed else ())
            for a in aux
        ]
    assert [(d.ndx, d.flags, d.hash, [n.decode() for n in (d.name, *d.parents)]) for d in o.defs] == defs
    assert [(n.file.decode(), n.hash, n.flags, n.ndx, n.name.decode()) for n in o.needs] == needs
    assert all(sysv_hash(d.name) == d.hash for d in o.defs)
    assert all(sysv_hash(n.name) == n.hash and not n.weak for n in o.needs)


@pytest.mark.parametrize("path", REAL_OBJECTS)
def test_dynamic_section(path: str) -> None:
    o = _object(path)
    with open(path, "rb") as file:
        section = _elffile(file).get_section_by_name(".dynamic")
        theirs = [tag.entry for tag in section.iter_tags()]
    expected = [entry.d_val for entry in theirs[:-1]]
    assert [value for _, value in o.dynamic.entries] == expected
    text = _readelf("-d", path)
    at = o.table.strings.at
    assert [at(n).decode() for n in o.dynamic.needed] == re.findall(r"Shared library: \[(.*)\]", text)
    soname = re.findall(r"soname: \[(.*)\]", text)
    assert ([at(o.dynamic.soname).decode()] if o.dynamic.soname is not None else []) == soname
    assert o.dynamic.is_pie == ("PIE" in text)
    assert o.dynamic.bind_now == ("NOW" in text)
    assert (o.dynamic.rpath, o.dynamic.runpath) == (None, None)


@pytest.mark.parametrize("path", REAL_OBJECTS)
def test_relocations(path: str) -> None:
    o = _object(path)
    tables = [o.dynamic.table(c.DT_RELA), o.dynamic.table(c.DT_JMPREL)]
    ours = [
        (offset, info, reloc_name(info & 0xFFFFFFFF))
        for vaddr, size in tables
        if size
        for offset, info, _ in iter_rela(o.image.read(vaddr, size), path)
    ]
    theirs = re.findall(r"^([0-9a-f]{16})  ([0-9a-f]{16}) (R_X86_64_\w+)", _readelf("-r", path), re.M)
    assert ours == [
        (int(offset, 16), int(info, 16), name) for offset, info, name in theirs if name != "R_X86_64_NONE"
    ]


@pytest.mark.parametrize("path", REAL_OBJECTS)
def test_notes(path: str) -> None:
    o = _object(path)
    notes: list[Note] = []
    for phdr in o.phdrs:
        if phdr.type == c.PT_NOTE:
            notes += parse_notes(o.image.read(phdr.vaddr, phdr.filesz), phdr.align, path)
    text = _readelf("-n", path)
    identifier = build_id(notes)
    assert ([identifier.hex()] if identifier else []) == re.findall(r"Build ID: (\w+)", text)
    tag = abi_tag(notes, path)
    assert ([f"{tag.major}.{tag.minor}.{tag.patch}"] if tag else []) == re.findall(
        r"OS: Linux, ABI: ([\d.]+)", text
    )
    properties = gnu_properties(notes, path)
    isa = re.findall(r"x86 ISA needed: (.+)", text)
    assert bool(properties and properties.isa_1_needed) == bool(isa)


def test_an_executable_without_hashed_symbols_still_has_its_undefined_ones(tmp_path: Any) -> None:
    """GNU ld's GNU hash table then says nothing about the number of symbols; relocations need them all."""
    source = tmp_path / "m.c"
    source.write_text('int puts(const char *); int main(void) { return puts("x"); }\n')
    program = tmp_path / "m"
    subprocess.run(["gcc", "-o", program, source], check=True)
    o = read_object(program.read_bytes(), "m", open_exec=True)
    assert o.table.gnu_hash is not None
    assert b"puts" in [symbol.name for symbol in o.table.symbols()]
    assert all(
        info >> 32 < len(o.table) for _, info, _ in iter_rela(o.image.read(*o.dynamic.table(c.DT_RELA)), "m")
    )


_LINKERS = [
    "bfd",
    *(pytest.param(each, marks=pytest.mark.needs(f"ld.{each}")) for each in ("gold", "lld", "mold")),
]


@pytest.mark.parametrize("linker", _LINKERS)
@pytest.mark.parametrize("style", ["gnu", "sysv", "both"])
def test_every_linker_and_hash_style(linker: str, style: str, tmp_path: Any) -> None:
    source = tmp_path / "l.c"
    source.write_text(
        '#include <stdio.h>\nint a(void) { return puts("a"); }\n'
        "_Thread_local int t;\nint *b(void) { return &t; }\n"
        "__attribute__((weak)) int w;\nint *p[] = {&w, &w};\n"
    )
    library = tmp_path / "l.so"
    options = [f"-fuse-ld={linker}", f"-Wl,--hash-style={style}", "-shared", "-fPIC"]
    subprocess.run(["gcc", *options, "-o", library, source], check=True)
    o = read_object(library.read_bytes(), "l.so")
    assert ((o.table.gnu_hash is not None), (o.table.sysv_hash is not None)) == (
        style != "sysv",
        style != "gnu",
    )
    names = [symbol.name for symbol in o.table.symbols()]
    with library.open("rb") as file:
        expected = [symbol.name for symbol in _elffile(file).get_section_by_name(".dynsym").iter_symbols()]
    assert [name.decode() for name in names] == expected
    for name in (b"a", b"b", b"t", b"w", b"p"):
        for table in (o.table.gnu_hash, o.table.sysv_hash):
            assert table is None or names.index(name) in list(table.candidates(name))


def test_libc_is_what_we_think_it_is() -> None:
    with open(LIBC, "rb") as file:
        ehdr = parse_ehdr(file.read(64), LIBC)
    assert (ehdr.machine, ehdr.type) == (c.EM_X86_64, c.ET_DYN)
    o = _object(LIBC)
    at = (
        next(at for at in o.table.gnu_hash.candidates(b"malloc") if o.table.symbol_name(at) == b"malloc")
        if o.table.gnu_hash
        else 0
    )
    index = o.table.version_index(at)
    assert next(d.name for d in o.defs if d.ndx == index) == b"GLIBC_2.2.5"
