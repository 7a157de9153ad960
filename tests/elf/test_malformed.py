"""Whatever is in a file, reading it ends in success, `ElfError` or an assertion that ld.so has, too:
no other exception, no hang, no memory blow-up.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from functools import cache

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emu.core.errors import ElfError, Inconsistency
from emu.elf import constants as c
from emu.elf.dynamic import Dynamic
from emu.elf.header import check_executable
from emu.elf.notes import abi_tag, gnu_properties, parse_notes
from emu.elf.relocations import iter_rela, relr_addresses
from tests.elf.support import Object, read_object, rich_builder

_SETTINGS = settings(
    deadline=None, derandomize=True, max_examples=400, suppress_health_check=[HealthCheck.too_slow]
)
_VALUES = st.one_of(
    st.integers(0, 64),
    st.integers(0, 0x4000),
    st.sampled_from([1 << n for n in range(12, 64)]),
    st.sampled_from([(1 << 64) - n for n in (1, 8, 24, 64, 0x1000)]),
    st.integers(0, (1 << 64) - 1),
)


@cache
def _good() -> bytes:
    return rich_builder().build()


@cache
def _object() -> Object:
    return read_object(_good(), "good")


def _use(data: bytes) -> None:
    """Read everything that a loader would read."""
    with suppress(ElfError):
        check_executable(data, "P")
    o = read_object(data, "P")
    names = [symbol.name for symbol in o.table.symbols()]
    for at in range(len(names)):
        o.table.version_index(at)
    for name in [b"answer", b"no such symbol", *names[:20]]:
        for table in (o.table.gnu_hash, o.table.sysv_hash):
            if table is not None:
                for at in table.candidates(name):
                    o.table.symbol(at)
    for tag in (c.DT_RELA, c.DT_JMPREL):
        for _, info, _ in iter_rela(_table(o, tag), "P"):
            o.table.symbol(info >> 32)
    relr_addresses(_table(o, c.DT_RELR), "P")
    for phdr in o.phdrs:
        if phdr.type == c.PT_NOTE:
            notes = list(parse_notes(o.image.read(phdr.vaddr, min(phdr.filesz, len(data))), phdr.align, "P"))
            gnu_properties(notes, "P")
            abi_tag(notes, "P")


def _table(o: Object, tag: int) -> bytes:
    from emu.elf.image import read_table

    vaddr, size = o.dynamic.table(tag)
    return read_table(o.image, o.phdrs, vaddr, size, f"tag {tag}", "P")


def _check(data: bytes) -> None:
    with suppress(ElfError, Inconsistency):
        _use(data)


def test_the_good_object_is_read() -> None:
    _use(_good())


@_SETTINGS
@given(st.integers(0, 0x3400))
def test_truncated(size: int) -> None:
    _check(_good()[:size])


@_SETTINGS
@given(st.lists(st.tuples(st.integers(0, 0x317), st.integers(0, 255)), min_size=1, max_size=6))
def test_mutated_headers(edits: list[tuple[int, int]]) -> None:
    data = bytearray(_good())
    for offset, value in edits:
        data[offset] = value
    _check(bytes(data))


@_SETTINGS
@given(st.data())
def test_program_header_fields(choose: st.DataObject) -> None:
    data = bytearray(_good())
    for _ in range(choose.draw(st.integers(1, 3))):
        phdr = choose.draw(st.integers(0, len(_object().phdrs) - 1))
        field = choose.draw(st.sampled_from([8, 16, 32, 40, 48]))
        struct.pack_into("<Q", data, 64 + 56 * phdr + field, choose.draw(_VALUES))
    _check(bytes(data))


@_SETTINGS
@given(st.data())
def test_dynamic_entries(choose: st.DataObject) -> None:
    data = bytearray(_good())
    segment = next(phdr for phdr in _object().phdrs if phdr.type == c.PT_DYNAMIC)
    for _ in range(choose.draw(st.integers(1, 3))):
        entry = choose.draw(st.integers(0, segment.filesz // 16 - 1))
        half = choose.draw(st.sampled_from([0, 8, 8, 8]))
        struct.pack_into("<Q", data, segment.offset + 16 * entry + half, choose.draw(_VALUES))
    _check(bytes(data))


@_SETTINGS
@given(st.lists(st.tuples(st.integers(0x2000, 0x31FC), st.integers(0, 0xFFFFFFFF)), min_size=1, max_size=8))
def test_table_words(edits: list[tuple[int, int]]) -> None:
    data = bytearray(_good())
    for offset, value in edits:
        struct.pack_into("<I", data, offset & ~3, value)
    _check(bytes(data))


@_SETTINGS
@given(st.binary(max_size=400))
def test_arbitrary_bytes(content: bytes) -> None:
    _check(content)
    _check(_good()[:64] + content)
    with suppress(ElfError, Inconsistency):
        Dynamic(content, "P")
    for align in (4, 8):
        with suppress(ElfError):
            gnu_properties(list(parse_notes(content, align, "P")), "P")
