"""Small tables made by hand, well-formed and malformed."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.core.errors import ElfError, Inconsistency
from emu.elf import constants as c
from emu.elf.builder import ElfBuilder
from emu.elf.demangle import demangle
from emu.elf.dynamic import Dynamic
from emu.elf.encode import encode_gnu_hash, encode_note, encode_relr, encode_sysv_hash, gnu_hash_order
from emu.elf.hash import GnuHash, SysvHash, gnu_hash, sysv_hash
from emu.elf.image import FileImage
from emu.elf.notes import Note, abi_tag, build_id, gnu_properties, parse_notes
from emu.elf.relocations import iter_rela, reloc_name, relr_addresses
from emu.elf.strtab import StringTable
from tests.elf.support import read_object, rich_builder

_SETTINGS = settings(deadline=None, derandomize=True, max_examples=100)


def test_hashes_of_known_names() -> None:
    assert [gnu_hash(name) for name in (b"", b"printf", b"exit", b"syscall")] == [
        0x00001505,
        0x156B2BB8,
        0x7C967E3F,
        0xBAC212A0,
    ]
    assert [sysv_hash(name) for name in (b"", b"printf", b"exit", b"syscall", b"GLIBC_2.2.5")] == [
        0,
        0x077905A6,
        0x0006CF04,
        0x0B09985C,
        0x09691A75,
    ]


@_SETTINGS
@given(st.lists(st.binary(min_size=1, max_size=12), unique=True, max_size=80), st.integers(1, 5))
def test_written_hash_tables_find_every_name(names: list[bytes], first: int) -> None:
    names = [names[at] for at in gnu_hash_order(names)]
    gnu = GnuHash(encode_gnu_hash(names, first), "t")
    sysv = SysvHash(encode_sysv_hash(names, first), "t")
    for index, name in enumerate(names, first):
        assert index in list(gnu.candidates(name))
        assert index in list(sysv.candidates(name, sysv_hash(name)))
    assert gnu.symbol_count() == (first + len(names) if names else None)
    assert sysv.nchain == first + len(names)


def test_gnu_hash_headers_that_ld_so_asserts_or_takes() -> None:
    for words in ((1, 1, 3, 6), (1, 1, 0xFFFF, 6)):
        with pytest.raises(Inconsistency, match=r"dl-setup_hash.c: 36: _dl_setup_hash: .*bitmask_nwords - 1"):
            _gnu(*words)
    with pytest.raises(ElfError, match="passes the end"):
        GnuHash(struct.pack("<II", 1, 1), "t")
    assert _gnu(1, 1, 1, 64 + 6).shift == 6
    for words in ((0, 1, 1, 6), (1, 1, 0, 6), (1 << 31, 1, 1, 6), (1, 1, 1 << 31, 6)):
        found = _gnu(*words)
        assert found.symbol_count() is None
        if found.nbuckets:
            with pytest.raises(ElfError, match="leads out of the object"):
                list(found.candidates(b"x"))


def _gnu(*words: int) -> GnuHash:
    return GnuHash(struct.pack("<4I", *words) + b"\xff" * 8, "t")


def _one_bucket(first: int, *chain: int) -> GnuHash:
    return GnuHash(struct.pack(f"<IIIIQI{len(chain)}I", 1, 5, 1, 6, (1 << 64) - 1, first, *chain), "t")


def test_gnu_hash_chains_without_end_or_out_of_range() -> None:
    assert list(_one_bucket(3, 1).candidates(b"x")) == []
    for table, reason in ((_one_bucket(5, 2, 4), "no end"), (_one_bucket(9, 1), "no end")):
        with pytest.raises(ElfError, match=reason):
            list(table.candidates(b"x"))
        assert table.symbol_count() is None


def test_sysv_hash_cycles_and_leaps() -> None:
    cycle = SysvHash(struct.pack("<III3I", 1, 3, 1, 0, 2, 1), "t")
    with pytest.raises(ElfError, match="cycle"):
        list(cycle.candidates(b"x"))
    leap = SysvHash(struct.pack("<III2I", 1, 2, 1, 0, 7), "t")
    with pytest.raises(ElfError, match="leads out of the object"):
        list(leap.candidates(b"x"))
    with pytest.raises(ElfError, match="leads out of the object"):
        list(SysvHash(struct.pack("<III", 1, 1 << 30, 7), "t").candidates(b"x"))
    with pytest.raises(ElfError, match="passes the end"):
        SysvHash(struct.pack("<I", 1), "t")


def test_relr_decodes_addresses_and_bitmaps() -> None:
    data = struct.pack("<4Q", 0x1000, 0b1011, 1 << 63 | 1, 0x9000)
    assert relr_addresses(data, "t") == [0x1000, 0x1008, 0x1018, 0x1008 + 63 * 8 + 62 * 8, 0x9000]


@_SETTINGS
@given(st.sets(st.integers(0, 4000)))
def test_relr_round_trip(words: set[int]) -> None:
    addresses = sorted(0x4000 + 8 * word for word in words)
    assert relr_addresses(encode_relr(addresses), "t") == addresses


def test_malformed_relocation_tables() -> None:
    with pytest.raises(ElfError, match="starts with a bitmap"):
        relr_addresses(struct.pack("<Q", 3), "t")
    with pytest.raises(ElfError, match="not a multiple of 8"):
        relr_addresses(b"1234", "t")
    with pytest.raises(ElfError, match="not a multiple of 24"):
        iter_rela(bytes(25), "t")
    assert list(iter_rela(struct.pack("<QQq", 1, 2 << 32 | 6, -3), "t")) == [(1, 2 << 32 | 6, -3)]
    assert (reloc_name(6), reloc_name(99)) == ("R_X86_64_GLOB_DAT", "relocation type 99")


def test_string_table_bounds() -> None:
    strings = StringTable(b"\0ab\0cd", "t")
    assert (strings.at(0), strings.at(1), strings.at(2)) == (b"", b"ab", b"b")
    for offset in (4, 6, 7, -1, 1 << 40):
        with pytest.raises(ElfError, match="no string at offset"):
            strings.at(offset)


def test_notes_in_both_alignments() -> None:
    for unit in (4, 8):
        data = encode_note(b"GNU", 3, b"12345", unit) + encode_note(b"stapsdt", 9, b"", unit)
        assert list(parse_notes(data, unit, "t")) == [Note(b"GNU", 3, b"12345"), Note(b"stapsdt", 9, b"")]
    assert build_id([Note(b"Go", 3, b"x"), Note(b"GNU", 3, b"id")]) == b"id"
    assert build_id([]) is None


def test_gnu_properties() -> None:
    desc = struct.pack("<IIII", 0xC0000002, 4, 3, 0) + struct.pack("<IIII", 0xC0008002, 4, 4, 0)
    desc += struct.pack("<IIQ", 1, 8, 0x10000) + struct.pack("<II", 2, 0) + struct.pack("<IIQ", 0xDEAD, 8, 1)
    found = gnu_properties([Note(b"GNU", 5, desc)], "t")
    assert found is not None
    assert (found.feature_1, found.isa_1_needed, found.stack_size) == (3, 4, 0x10000)
    assert (found.no_copy_on_protected, found.isa_1_used, found.needed_1) == (True, 0, 0)
    assert gnu_properties([Note(b"GNU", 3, desc)], "t") is None


@pytest.mark.parametrize("desc", [b"1234", struct.pack("<II", 1, 99), struct.pack("<IIQ", 0xC0000002, 8, 1)])
def test_malformed_properties(desc: bytes) -> None:
    with pytest.raises(ElfError, match="GNU property"):
        gnu_properties([Note(b"GNU", 5, desc)], "t")


def test_malformed_notes() -> None:
    for data in (b"1234", struct.pack("<III", 4, 1 << 31, 1), struct.pack("<III", 1 << 31, 4, 1)):
        with pytest.raises(ElfError, match="passes the end of its segment"):
            list(parse_notes(data, 4, "t"))
    with pytest.raises(ElfError, match="NT_GNU_ABI_TAG has 3 bytes"):
        abi_tag([Note(b"GNU", 1, b"abc")], "t")


def _dynamic(*entries: tuple[int, int]) -> Dynamic:
    return Dynamic(b"".join(struct.pack("<qQ", *entry) for entry in (*entries, (0, 0), (1, 1))), "t")


def test_dynamic_flags_fold_the_older_tags_in() -> None:
    d = _dynamic((c.DT_SYMBOLIC, 0), (c.DT_TEXTREL, 0), (c.DT_BIND_NOW, 0), (c.DT_FLAGS, c.DF_STATIC_TLS))
    assert d.flags == c.DF_SYMBOLIC | c.DF_TEXTREL | c.DF_BIND_NOW | c.DF_STATIC_TLS
    assert (d.bind_now, d.is_pie) == (True, False)
    assert _dynamic((c.DT_FLAGS_1, c.DF_1_NOW | c.DF_1_PIE)).bind_now
    strings = ((c.DT_STRTAB, 1), (c.DT_STRSZ, 0))
    d = _dynamic(
        (c.DT_NEEDED, 5), (c.DT_NEEDED, 7), (c.DT_FILTER, 1), (c.DT_RUNPATH, 3), (c.DT_RUNPATH, 4), *strings
    )
    assert (d.needed, d.filter, d.auxiliary, d.runpath) == ([5, 7], [1], [], 4)
    assert (d.get(c.DT_NEEDED), d.get(c.DT_INIT), d.table(c.DT_RELA)) == (7, None, (0, 0))


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([(c.DT_NEEDED, 1)], "no DT_STRTAB"),
        ([(c.DT_SYMTAB, 1)], "no DT_STRTAB"),
    ],
)
def test_malformed_dynamic_sections(entries: list[tuple[int, int]], reason: str) -> None:
    with pytest.raises(ElfError, match=reason):
        _dynamic(*entries)


@pytest.mark.parametrize(
    ("entries", "line", "words"),
    [
        ([(c.DT_RELA, 1), (c.DT_RELAENT, 16)], 123, "info[DT_RELAENT]->d_un.d_val == sizeof (ElfW(Rela))"),
        ([(c.DT_RELR, 1), (c.DT_RELRENT, 4)], 130, "info[DT_RELRENT]->d_un.d_val == sizeof (ElfW(Relr))"),
        ([(c.DT_PLTREL, 17)], 115, "info[DT_PLTREL]->d_un.d_val == DT_RELA"),
    ],
)
def test_what_ld_so_asserts_of_a_dynamic_section(
    entries: list[tuple[int, int]], line: int, words: str
) -> None:
    with pytest.raises(Inconsistency) as caught:
        _dynamic(*entries)
    where = f"get-dynamic-info.h: {line}: elf_get_dynamic_info"
    assert str(caught.value) == f"Inconsistency detected by ld.so: {where}: Assertion `{words}' failed!"


def test_what_ld_so_does_not_look_at_in_a_dynamic_section() -> None:
    d = _dynamic(
        (c.DT_SYMENT, 16), (c.DT_RELAENT, 16), (c.DT_REL, 1), (c.DT_INIT_ARRAYSZ, 8), (c.DT_JMPREL, 1), (c.DT_PLTRELSZ, 24)
    )  # fmt: skip
    assert (d.table(c.DT_JMPREL), d.table(c.DT_INIT_ARRAY)) == ((0, 0), (0, 0))
    d = _dynamic(
        (c.DT_RELA, 64), (c.DT_RELAENT, 24), (c.DT_RELASZ, 25), (c.DT_INIT_ARRAY, 8), (c.DT_INIT_ARRAYSZ, 15)
    )
    assert (d.table(c.DT_RELA), d.table(c.DT_INIT_ARRAY)) == ((64, 48), (8, 8))
    with pytest.raises(ElfError, match="without its DT_RELASZ"):
        _dynamic((c.DT_RELA, 1), (c.DT_RELAENT, 24)).table(c.DT_RELA)


def test_a_dynamic_section_without_end() -> None:
    with pytest.raises(ElfError, match="no DT_NULL"):
        Dynamic(struct.pack("<qQ", 1, 1) + b"rest", "t")


def test_file_image_reads_bss_as_zero_and_nothing_outside() -> None:
    o = read_object(rich_builder().build(), "t")
    last = [phdr for phdr in o.phdrs if phdr.type == c.PT_LOAD][-1]
    assert o.image.read(last.vaddr + last.filesz - 8, 24)[8:] == bytes(16)
    for vaddr, size in ((0x90000, 1), (last.vaddr, last.memsz + 1), (last.vaddr + last.memsz, 1)):
        with pytest.raises(ElfError, match="is in no segment"):
            o.image.read(vaddr, size)
    with pytest.raises(ElfError, match="cannot read file data"):
        FileImage(b"", o.phdrs, "t").read(last.vaddr, 8)


def test_symbol_indexes_where_nothing_is_are_errors() -> None:
    table = read_object(rich_builder().build(), "t").table
    behind = table.entry(len(table))  # ld.so knows of no end
    assert not behind.defined or behind.value
    for index in (-1, 1 << 31):
        for ask in (table.symbol, table.symbol_name, table.version_index):
            with pytest.raises(ElfError, match="outside the table"):
                ask(index)


@pytest.mark.parametrize(
    ("field", "kind", "value", "reason"),
    [
        (16, "I", 1 << 31, "DT_VERDEF record .* is not inside the object"),
        (16, "I", 0, ""),
        (6, "H", 0, ""),
        (6, "H", 60000, ""),
        (0, "H", 7, ""),
    ],
)
def test_malformed_version_definitions(field: int, kind: str, value: int, reason: str) -> None:
    data = bytearray(rich_builder().build())
    o = read_object(bytes(data), "t")
    at = o.dynamic.get(c.DT_VERDEF)
    assert at is not None
    struct.pack_into("<" + kind, data, at + field, value)  # the tables' offsets equal their addresses here
    if reason:
        with pytest.raises(ElfError, match=reason):
            read_object(bytes(data), "t")
    else:
        found = read_object(bytes(data), "t").defs
        assert (found[0].format, len(found)) == (
            value if not field else 1,
            1 if field == 16 else len(o.defs),
        )


def test_a_version_whose_name_lies_nowhere_is_one_until_somebody_asks_for_the_name() -> None:
    data = bytearray(rich_builder().build())
    at = read_object(bytes(data), "t").dynamic.get(c.DT_VERDEF)
    assert at is not None
    struct.pack_into("<I", data, at + 12, 1 << 31)
    first, second = read_object(bytes(data), "t").defs[:2]
    assert second.name
    with pytest.raises(ElfError, match="DT_VERDEF record .* is not inside the object"):
        print(first.name)


def test_version_needs_of_another_format() -> None:
    data = bytearray(rich_builder().build())
    at = read_object(bytes(data), "t").dynamic.get(c.DT_VERNEED)
    assert at is not None
    struct.pack_into("<H", data, at, 0)
    with pytest.raises(ElfError, match="unsupported version 0 of Verneed record"):
        read_object(bytes(data), "t")


def test_an_object_without_symbols_has_an_empty_table() -> None:
    b = ElfBuilder(hash_style="sysv")
    table = read_object(b.build(), "t").table
    assert len(table) == 1
    assert table.symbol(0).name == b""


def test_demangle() -> None:
    assert demangle("_ZNSt6vectorIiSaIiEE9push_backERKi") == (
        "std::vector<int, std::allocator<int> >::push_back(int const&)"
    )
    assert demangle("main") == "main"
    assert demangle("_Znonsense") == "_Znonsense"
