"""Files that no linker writes: `emu run` takes them as the kernel and ld.so take them,
or refuses them in the same words.

Each case changes one thing of the fixture `fuzz-seed`, in the program or in its library, and runs natively
and in the emulator. Where ld.so dies of a file, one line that says why is as good.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tools import fixtures
from tools.fuzzing import guard, native
from tools.fuzzing.elf import Elf

Edit = Callable[[Elf], None]
_LOAD, _DYNAMIC, _NOTE, _PHDR, _TLS = 1, 2, 4, 6, 7
_EH_FRAME, _STACK, _RELRO, _PROPERTY = 0x6474E550, 0x6474E551, 0x6474E552, 0x6474E553
_FIELDS = {"type": (0, 4), "flags": (4, 4), "offset": (8, 8), "vaddr": (16, 8), "filesz": (32, 8), "memsz": (40, 8), "align": (48, 8)}  # fmt: skip


def header(at: int, width: int, value: int) -> Edit:
    return lambda elf: elf.put(at, width, value)


def segment(type_: int, which: int = 0, **values: int) -> Edit:
    def edit(elf: Elf) -> None:
        found = [at for at, fields in zip(elf.phdrs, elf.fields, strict=True) if fields[0] == type_]
        for at in found[which : which + 1]:
            for field, value in values.items():
                elf.put(at + _FIELDS[field][0], _FIELDS[field][1], value)

    return edit


def entry(tag: int, value: int | None = None, *, becomes: int | None = None) -> Edit:
    def edit(elf: Elf) -> None:
        for at in elf.dynamic:
            if elf.get(at, 8) == tag:
                if value is not None:
                    elf.put(at + 8, 8, value)
                if becomes is not None:
                    elf.put(at, 8, becomes)
                return

    return edit


def several(*edits: Edit) -> Edit:
    def edit(elf: Elf) -> None:
        for one in edits:
            one(elf)

    return edit


def sections_wiped(elf: Elf) -> None:
    (at,) = struct.unpack_from("<Q", elf.data, 40)
    elf.data[at:] = bytes(len(elf.data) - at)


def cut_behind_segments(elf: Elf) -> None:
    del elf.data[max(fields[2] + fields[5] for fields in elf.fields if fields[0] == _LOAD) :]


def segment_twice(elf: Elf) -> None:
    stack = next(at for at, fields in zip(elf.phdrs, elf.fields, strict=True) if fields[0] == _STACK)
    loads = [at for at, fields in zip(elf.phdrs, elf.fields, strict=True) if fields[0] == _LOAD]
    elf.data[stack : stack + 56] = elf.data[loads[2] : loads[2] + 56]


def every_load(**values: int) -> Edit:
    return several(*(segment(_LOAD, which, **values) for which in range(4)))


def word(tag: int, index: int, value: int) -> Edit:
    def edit(elf: Elf) -> None:
        place = elf.table(tag)
        if place is not None:
            elf.put(place[0] + 4 * index, 4, value)

    return edit


EDITS: dict[str, Edit] = {
    "nothing": lambda elf: None,
    "no section headers": several(header(40, 8, 0), header(60, 2, 0), header(62, 2, 0)),
    "section headers far away": header(40, 8, 0x7FFFFFFF0000),
    "too many section headers": header(60, 2, 0xFFF0),
    "section headers wiped": sections_wiped,
    "cut behind the segments": cut_behind_segments,
    "EI_CLASS 1": header(4, 1, 1),
    "EI_CLASS 0": header(4, 1, 0),
    "strings before DT_STRTAB": entry(29, (1 << 64) - 25),
    "ELFOSABI_GNU": header(7, 1, 3),
    "ELFOSABI_FREEBSD": header(7, 1, 9),
    "EI_ABIVERSION 9": header(8, 1, 9),
    "e_ident padded": header(9, 4, 0x01010101),
    "e_version 0": header(20, 4, 0),
    "e_flags": header(48, 4, 0x1234),
    "e_ehsize 0": header(52, 2, 0),
    "e_phentsize 57": header(54, 2, 57),
    "EM_386": header(18, 2, 3),
    "EI_DATA of the other order": header(5, 1, 2),
    "e_entry outside": header(24, 8, 0x7F0000000000),
    "PT_GNU_EH_FRAME outside": segment(_EH_FRAME, vaddr=0x900000),
    "an empty segment at the end": segment(_STACK, type=_LOAD),
    "no PT_GNU_STACK": segment(_STACK, type=0),
    "no PT_GNU_RELRO": segment(_RELRO, type=0),
    "PT_GNU_RELRO too large": segment(_RELRO, memsz=0x90000),
    "no PT_PHDR": segment(_PHDR, type=0),
    "PT_PHDR elsewhere": segment(_PHDR, vaddr=0x80),
    "no PT_NOTE": several(segment(_NOTE, type=0), segment(_NOTE, 1, type=0)),
    "PT_NOTE outside in the file": segment(_NOTE, offset=0x7FFFF000),
    "PT_NOTE outside": segment(_NOTE, offset=0x7FFFF000, vaddr=0x7FFFF000),
    "PT_NOTE of nonsense": segment(_NOTE, vaddr=0x40, offset=0x40, memsz=0x300, filesz=0x300),
    "PT_GNU_PROPERTY outside": segment(_PROPERTY, offset=0x7FFFF000, vaddr=0x7FFFF000),
    "PT_GNU_PROPERTY huge": segment(_PROPERTY, filesz=0x10000000, memsz=0x10000000),
    "PT_GNU_PROPERTY where a note is not": segment(_PROPERTY, vaddr=0x41, offset=0x41),
    "an unknown program header": segment(_STACK, type=0x65A3DBE6),
    "p_align 0": every_load(align=0),
    "p_align 1": every_load(align=1),
    "p_align 0x3000": segment(_LOAD, 1, align=0x3000),
    "all segments rwx": every_load(flags=7),
    "a segment twice": segment_twice,
    "p_filesz past the end": segment(_LOAD, 3, filesz=0x10000, memsz=0x10000),
    "p_offset past the end": segment(_LOAD, 2, offset=0x102000),
    "p_vaddr not congruent": segment(_LOAD, 1, vaddr=0x1008),
    "p_memsz of 2^50": segment(_LOAD, 3, memsz=1 << 50),
    "p_filesz above p_memsz": segment(_LOAD, 3, memsz=0x100),
    "PT_DYNAMIC too short": segment(_DYNAMIC, filesz=0x40, memsz=0x40),
    "PT_DYNAMIC elsewhere in the file": segment(_DYNAMIC, offset=0x10),
    "PT_DYNAMIC empty": segment(_DYNAMIC, filesz=0),
    "PT_DYNAMIC outside": segment(_DYNAMIC, vaddr=0x900000),
    "no PT_DYNAMIC": segment(_DYNAMIC, type=0),
    "PT_TLS of 900 MB": segment(_TLS, memsz=900 << 20),
    "PT_TLS of 2^40": segment(_TLS, memsz=1 << 40),
    "PT_TLS image longer than the block": segment(_TLS, filesz=0x40, memsz=8),
    "PT_TLS outside": segment(_TLS, vaddr=0x900000),
    "no DT_DEBUG": entry(21, becomes=0x6FFFFEF0),
    "no DT_RELACOUNT": entry(0x6FFFFFF9, 0, becomes=0x6FFFFEF1),
    "DT_RELACOUNT 1": entry(0x6FFFFFF9, 1),
    "DT_RELACOUNT too large": entry(0x6FFFFFF9, 15),
    "DT_STRSZ 1": entry(10, 1),
    "DT_STRSZ 2^40": entry(10, 1 << 40),
    "DT_SYMENT 99": entry(11, 99),
    "DT_RELAENT 99": entry(9, 99),
    "DT_RELASZ not whole": entry(8, 25),
    "DT_RELASZ 2^40": entry(8, 1 << 40),
    "DT_RELRENT 4": entry(37, 4),
    "DT_RELRSZ not whole": entry(35, 23),
    "DT_RELR outside": entry(36, 0x900000),
    "DT_PLTREL 17": entry(20, 17),
    "no DT_PLTREL": entry(20, becomes=0x12345678),
    "DT_JMPREL of nonsense": entry(23, 0x40),
    "DT_JMPREL outside": entry(23, 0x900000),
    "no DT_PLTRELSZ": entry(2, becomes=0x12345678),
    "unknown tags": entry(21, 1, becomes=0x12345678),
    "DT_FLAGS_1 0": entry(0x6FFFFFFB, 0),
    "no DT_GNU_HASH": entry(0x6FFFFEF5, becomes=0x6FFFFEF2),
    "no DT_VERSYM": entry(0x6FFFFFF0, becomes=0x12345678),
    "no DT_VERNEED": entry(0x6FFFFFFE, becomes=0x12345678),
    "DT_VERNEEDNUM 0": entry(0x6FFFFFFF, 0),
    "no DT_STRTAB": entry(5, becomes=0x12345678),
    "no DT_SYMTAB": entry(6, becomes=0x12345678),
    "no DT_INIT_ARRAYSZ": entry(27, becomes=0x12345678),
    "DT_INIT_ARRAYSZ not whole": entry(27, 15),
    "DT_REL": entry(21, 0x40, becomes=17),
    "GNU hash without buckets": word(0x6FFFFEF5, 0, 0),
    "GNU hash with 3 filter words": word(0x6FFFFEF5, 2, 3),
    "GNU hash with 2^31 buckets": word(0x6FFFFEF5, 0, 1 << 31),
    "a relocation outside": word(7, 0, 0x900000),
    "a relocation in code": word(7, 0, 0x1000),
    "an unknown relocation type": word(7, 2, 0x7F),
    "a lazy slot outside": word(23, 0, 0x900000),
    "an unknown type in the PLT": word(23, 2, 0x70001),
    "a version record of another format": word(0x6FFFFFFE, 0, 0x10007),
}  # fmt: skip


@pytest.fixture(scope="module")
def put() -> Iterator[Callable[[native.Case], Path]]:
    fixtures.build("fuzz-seed")
    with native.workshop() as put:
        yield put


def _case(name: str, target: str) -> native.Case:
    elf = Elf((native.SEED / target).read_bytes())
    EDITS[name](elf)
    program = "./main-fixed" if target == "main-fixed" else "./main"
    return native.Case(program, target, bytes(elf.data), name)


@pytest.mark.parametrize("target", ["main", "libseed.so"])
@pytest.mark.parametrize("name", EDITS)
def test_the_emulator_says_what_is_natively_so(
    name: str, target: str, put: Callable[[native.Case], Path]
) -> None:
    case = _case(name, target)
    folder = put(case)
    said = native.run_native(folder, case.program)
    ours = native.run_emulated(folder, (*native.RUN, case.program))
    assert native.agree(said, ours), (said, ours)
    if ours.kind == "refuse":
        assert len(ours.words.splitlines()) <= 2, ours.words


QUESTIONS = (("explain", "count"), ("ldd", ""), ("maps", ""), ("check", ""), ("why", "libseed.so"))


@pytest.mark.parametrize(
    "name",
    [
        "DT_JMPREL of nonsense", "a lazy slot outside", "no PT_DYNAMIC", "e_entry outside", "PT_GNU_PROPERTY outside", "DT_RELR outside",
        "PT_TLS of 2^40", "section headers far away", "GNU hash with 2^31 buckets", "DT_STRSZ 2^40",
    ],
)  # fmt: skip
def test_questions_about_such_files_have_an_answer_or_one_line(
    name: str, put: Callable[[native.Case], Path]
) -> None:
    for number, target in enumerate(("main", "libseed.so")):
        folder = put(_case(name, target))
        for question, about in QUESTIONS[number::2]:
            words = (question, "./main", *([about] if about else []))
            answer = native.run_emulated(folder, words)
            assert not answer.broken, (target, words, answer)


def test_a_tls_segment_of_900_mb_costs_what_is_touched(put: Callable[[native.Case], Path]) -> None:
    folder = put(_case("PT_TLS of 900 MB", "libseed.so"))
    ended = native.emulate(folder, ("run", "./main"))
    assert ended.code == 0
    assert ended.rss < 400 << 20


def test_what_the_parent_holds_is_not_the_childs(tmp_path: Path) -> None:
    """A fork takes anonymous memory along, and leaves out what is mapped from a file."""
    ballast = b"\1" * (300 << 20)
    big = tmp_path / "big"
    big.write_bytes(b"\1" * (100 << 20))
    with big.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert mapped.find(b"\2") == -1  # all of it is resident now
        ended = guard.child(lambda: len(b"\1" * (100 << 20)) and 3, str(tmp_path), 60)
    assert (ended.code, len(ballast)) == (3, 300 << 20)
    assert 90 << 20 < ended.rss < 200 << 20
