"""Each relocation's sum, on one object in memory that is bytes: psABI table 4.10."""

from __future__ import annotations

import pytest

from emu.core.effects import CallGuest, Effect, without_guest
from emu.core.errors import ElfError, LoaderError
from emu.elf import constants as c
from emu.elf.builder import ElfBuilder
from emu.rtld.link_map import LT_EXECUTABLE, LinkMap
from emu.rtld.relocate import Work, relocate_object
from tests.rtld.fakes import ENTRIES, Linker

_M64 = (1 << 64) - 1
_VALUE, _SIZE = 0x2340, 24


def _library() -> ElfBuilder:
    builder = ElfBuilder(soname=b"liba.so")
    builder.data(b"\x11" * 64)
    builder.define(b"datum", _VALUE, size=_SIZE, type_=c.STT_OBJECT)
    builder.define(b"absolute", 0x77, shndx=c.SHN_ABS, type_=c.STT_NOTYPE)
    return builder


def _send(work: Work, answer: int) -> Effect | None:
    try:
        return work.send(answer)
    except StopIteration:
        return None


def _relocate(linker: Linker, map_: LinkMap, *, lazy: bool = False) -> None:
    without_guest(relocate_object(linker.rtld, map_, lazy))


def _word(linker: Linker, map_: LinkMap, vaddr: int, size: int = 8) -> int:
    return int.from_bytes(linker.memory.read(map_.addr + vaddr, size), "little")


@pytest.mark.parametrize(
    ("kind", "addend", "expected"),
    [
        (c.R_X86_64_64, 5, lambda s, a, p, b, z: s + a),
        (c.R_X86_64_64, -5, lambda s, a, p, b, z: s + a),
        (c.R_X86_64_GLOB_DAT, 9, lambda s, a, p, b, z: s),
        (c.R_X86_64_JUMP_SLOT, 9, lambda s, a, p, b, z: s),
        (c.R_X86_64_RELATIVE, 0x40, lambda s, a, p, b, z: b + a),
        (c.R_X86_64_RELATIVE64, 0x48, lambda s, a, p, b, z: b + a),
        (c.R_X86_64_SIZE64, 3, lambda s, a, p, b, z: z + a),
        (c.R_X86_64_NONE, 3, lambda s, a, p, b, z: 0),
    ],
)
def test_sums_of_eight_bytes(kind: int, addend: int, expected) -> None:  # type: ignore[no-untyped-def]
    linker, user = Linker(), ElfBuilder()
    place = user.data(bytes(8))
    user.rela(kind, place, user.undefined(b"datum"), addend)
    main, library = linker.load(user, "main"), linker.load(_library(), "liba.so")
    _relocate(linker, main)
    sums = expected(library.addr + _VALUE, addend, main.addr + place, main.addr, _SIZE)
    assert _word(linker, main, place) == sums & _M64
    assert main.relocated


@pytest.mark.parametrize("kind", [c.R_X86_64_32, c.R_X86_64_PC32, c.R_X86_64_SIZE32])
def test_sums_of_four_bytes_leave_the_rest(kind: int) -> None:
    linker, user = Linker(), ElfBuilder()
    place = user.data(b"\xff" * 8)
    user.rela(kind, place, user.undefined(b"datum"), 2)
    main, library = linker.load(user, "main"), linker.load(_library(), "liba.so")
    _relocate(linker, main)
    target = library.addr + _VALUE
    wanted = {
        c.R_X86_64_32: target + 2,
        c.R_X86_64_PC32: target + 2 - main.addr - place,
        c.R_X86_64_SIZE32: _SIZE + 2,
    }[kind]
    assert _word(linker, main, place, 4) == wanted & 0xFFFFFFFF
    assert _word(linker, main, place + 4, 4) == 0xFFFFFFFF
    assert linker.said == []


def test_what_does_not_fit_is_cut_and_said() -> None:
    linker, user = Linker(), ElfBuilder()
    place = user.data(bytes(8))
    user.rela(c.R_X86_64_32, place, user.undefined(b"datum"), 1 << 32)
    main, _ = linker.load(user, "main"), linker.load(_library(), "liba.so")
    _relocate(linker, main)
    assert linker.said == ["prog: Symbol `datum' causes overflow in R_X86_64_32 relocation\n"]


def test_an_absolute_symbol_does_not_move() -> None:
    linker, user = Linker(), ElfBuilder()
    place = user.data(bytes(8))
    user.rela(c.R_X86_64_64, place, user.undefined(b"absolute"), 1)
    main, _ = linker.load(user, "main"), linker.load(_library(), "liba.so")
    _relocate(linker, main)
    assert _word(linker, main, place) == 0x78


def test_relr_adds_the_base() -> None:
    linker, user = Linker(), ElfBuilder()
    places = [user.data(bytes(8)) for _ in range(70)]
    for place in places:
        user.relr(place, place + 1)
    main = linker.load(user, "main")
    _relocate(linker, main)
    assert [_word(linker, main, place) for place in places] == [main.addr + place + 1 for place in places]


def test_leading_relative_entries_may_be_unaligned() -> None:
    linker, user = Linker(), ElfBuilder()
    place = user.data(bytes(32))
    for at in (place, place + 9):
        user.rela(c.R_X86_64_RELATIVE, at, None, at)
    main = linker.load(user, "main")
    _relocate(linker, main)
    assert [_word(linker, main, at) for at in (place, place + 9)] == [
        main.addr + place,
        main.addr + place + 9,
    ]


def test_a_weak_reference_to_nothing_is_null_and_a_strong_one_an_error() -> None:
    linker, user = Linker(), ElfBuilder()
    place = user.data(b"\xff" * 8)
    user.rela(c.R_X86_64_64, place, user.undefined(b"nothing", bind=c.STB_WEAK), 4)
    main = linker.load(user, "main")
    _relocate(linker, main)
    assert _word(linker, main, place) == 4
    linker, user = Linker(), ElfBuilder()
    user.rela(c.R_X86_64_64, user.data(bytes(8)), user.undefined(b"nothing"))
    main = linker.load(user, "main")
    with pytest.raises(LoaderError, match="undefined symbol: nothing"):
        _relocate(linker, main)


def test_a_copy_takes_the_smaller_size_and_says_so() -> None:
    linker, user = Linker(), ElfBuilder()
    place = user.data(bytes(64))
    user.rela(c.R_X86_64_COPY, place, user.define(b"datum", place, size=16, type_=c.STT_OBJECT))
    library = ElfBuilder(soname=b"liba.so")
    at = library.data(b"\x11" * 64)
    library.define(b"datum", at, size=_SIZE, type_=c.STT_OBJECT)
    main = linker.load(user, "main", LT_EXECUTABLE)
    linker.load(library, "liba.so")
    _relocate(linker, main)
    assert linker.memory.read(main.addr + place, 17) == b"\x11" * 16 + b"\0"
    assert linker.said == ["prog: Symbol `datum' has different size in shared object, consider re-linking\n"]


def test_lazy_slots_only_move_and_get_their_resolver() -> None:
    linker, user = Linker(), ElfBuilder()
    got = user.data(bytes(24))
    slot = user.data((0x1234).to_bytes(8, "little"))
    user.rela(c.R_X86_64_JUMP_SLOT, slot, user.undefined(b"nothing"), plt=True)
    user.extra_dynamic.append((c.DT_PLTGOT, got))
    main = linker.load(user, "main")
    main.address = 0x5555
    _relocate(linker, main, lazy=True)
    assert _word(linker, main, slot) == main.addr + 0x1234
    assert [_word(linker, main, got + at) for at in (8, 16)] == [0x5555, ENTRIES.runtime_resolve]


def test_thread_local_storage() -> None:
    linker, user = Linker(), ElfBuilder()
    places = [user.data(bytes(16)) for _ in range(4)]
    local, weak = user.undefined(b"local"), user.undefined(b"nothing", bind=c.STB_WEAK)
    for kind, place in zip(
        (c.R_X86_64_DTPMOD64, c.R_X86_64_DTPOFF64, c.R_X86_64_TPOFF64, c.R_X86_64_TLSDESC),
        places,
        strict=True,
    ):
        user.rela(kind, place, local, 4)
    undefined = user.data(bytes(16))
    user.rela(c.R_X86_64_TLSDESC, undefined, weak, 6)
    library = ElfBuilder(soname=b"liba.so")
    library.tls(bytes(32))
    library.define(b"local", 16, size=8, type_=c.STT_TLS)
    main, owner = linker.load(user, "main"), linker.load(library, "liba.so")
    owner.tls_modid, owner.tls_offset = 3, 0x60
    _relocate(linker, main)
    assert [_word(linker, main, place) for place in places] == [
        3,
        20,
        20 - 0x60 & _M64,
        ENTRIES.tlsdesc_return,
    ]
    assert _word(linker, main, places[3] + 8) == 20 - 0x60 & _M64
    assert [_word(linker, main, undefined + at) for at in (0, 8)] == [ENTRIES.tlsdesc_undefweak, 6]


def test_resolvers_are_called_irelative_last() -> None:
    linker, user = Linker(), ElfBuilder()
    first, second = user.data(bytes(8)), user.data(bytes(8))
    user.rela(c.R_X86_64_IRELATIVE, first, None, 0x1010)
    user.rela(c.R_X86_64_64, second, user.define(b"chosen", 0x1020, type_=c.STT_GNU_IFUNC), 1)
    main = linker.load(user, "main")
    asked: list[int] = []
    work = relocate_object(linker.rtld, main, False)
    effect: Effect | None = next(work)
    while effect is not None:
        assert isinstance(effect, CallGuest)
        asked.append(effect.address - main.addr)
        effect = _send(work, 0x9000 * len(asked))
    assert asked == [0x1020, 0x1010]
    assert [_word(linker, main, first), _word(linker, main, second)] == [0x12000, 0x9001]


def test_relro_is_protected_in_whole_pages() -> None:
    linker, user = Linker(), ElfBuilder()
    user.init_array = [user.text(b"\xc3")]
    main = linker.load(user, "main")
    _relocate(linker, main)
    assert main.relro is not None
    start, size = main.relro
    for address, length, prot in linker.mappings.protected:
        assert (address, address + length, prot) == (start & -4096, start + size & -4096, 1)


def test_an_unknown_type_is_named() -> None:
    linker, user = Linker(), ElfBuilder()
    user.rela(99, user.data(bytes(8)), None)
    with pytest.raises(LoaderError, match=r"unexpected reloc type 0x63"):
        _relocate(linker, linker.load(user, "main"))


def test_a_place_outside_the_object_is_an_error() -> None:
    linker, user = Linker(), ElfBuilder()
    user.data(bytes(8))
    user.rela(c.R_X86_64_64, 0x700000, user.define(b"own", 0x1000), 0)
    with pytest.raises(ElfError, match="lies outside the object"):
        _relocate(linker, linker.load(user, "main"))
