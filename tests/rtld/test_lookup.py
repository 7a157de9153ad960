"""The look-up over small objects: order, binding, visibility, versions, unique
symbols, and what a watcher is told.
"""

from __future__ import annotations

from typing import Any

import pytest

from emu.core.errors import LinkError
from emu.elf import constants as c
from emu.elf.builder import ElfBuilder
from emu.elf.hash import sysv_hash
from emu.rtld.dependency import RETURN_NEWEST
from emu.rtld.found import Found
from emu.rtld.link_map import LT_EXECUTABLE, LT_LIBRARY, LinkMap, MapType
from emu.rtld.lookup import CLASS_COPY, CLASS_PLT, Query, lookup_symbol, peek_symbol
from emu.rtld.verdict import Verdict
from emu.rtld.version import Version, check_map_versions
from tests.rtld.fakes import Linker

_V1 = Version(b"V1", sysv_hash(b"V1"), True, b"")


def _object(linker: Linker, name: str, *, type_: MapType = LT_LIBRARY, **symbol: object) -> LinkMap:
    builder = ElfBuilder(soname=name.encode())
    builder.define(b"f", 0x1000, **symbol)  # type: ignore[arg-type]
    map_ = linker.load(builder, name, type_)
    check_map_versions(map_, linker.memory, lambda needed: None)
    return map_


def _find(linker: Linker, **parts: object) -> Found | None:
    main = linker.rtld.namespaces[0].maps[0]
    query = Query(b"f", main, **parts)  # type: ignore[arg-type]
    return lookup_symbol(linker.rtld, query, main.scopes)


def _verdicts(linker: Linker, **parts: object) -> list[Verdict]:
    main, told = linker.rtld.namespaces[0].maps[0], []
    query = Query(b"f", main, **parts)  # type: ignore[arg-type]
    lookup_symbol(linker.rtld, query, main.scopes, lambda map_, index, verdict: told.append(verdict))
    return told


def test_the_first_definition_wins_weak_or_not() -> None:
    linker = Linker()
    linker.load(ElfBuilder(), "main", LT_EXECUTABLE)
    weak = _object(linker, "weak.so", bind=c.STB_WEAK)
    _object(linker, "strong.so")
    found = _find(linker)
    assert found is not None
    assert (found.map, found.address, found.bind) == (weak, weak.addr + 0x1000, c.STB_WEAK)
    assert weak.used
    assert linker.rtld.lookups == 1


def test_a_strong_definition_goes_first_with_ld_dynamic_weak() -> None:
    linker = Linker({"LD_DYNAMIC_WEAK": "1"})
    linker.load(ElfBuilder(), "main", LT_EXECUTABLE)
    weak = _object(linker, "weak.so", bind=c.STB_WEAK)
    assert _find(linker) == _find(linker)
    found = _find(linker)
    assert found is not None
    assert found.map is weak
    strong = _object(linker, "strong.so")
    found = _find(linker)
    assert found is not None
    assert found.map is strong


def test_what_is_hidden_or_only_referred_to_does_not_do() -> None:
    linker = Linker()
    main = ElfBuilder()
    main.undefined(b"f")
    linker.load(main, "main", LT_EXECUTABLE)
    _object(linker, "hidden.so", visibility=c.STV_HIDDEN)
    assert _find(linker) is None
    assert _verdicts(linker)[-1] is Verdict.HIDDEN


def test_an_undefined_symbol_with_a_value_serves_pointers_only() -> None:
    linker = Linker()
    main = _object(linker, "main", type_=LT_EXECUTABLE)
    entry = bytearray(main.symtab.data)
    entry[24 + 6 : 24 + 8] = bytes(
        2
    )  # st_shndx: the linker's tables list such a symbol, the builder's do not
    main.symtab.data = bytes(entry)
    library = _object(linker, "liba.so")
    for class_, owner in ((0, main), (CLASS_PLT, library), (CLASS_COPY, library)):
        found = _find(linker, type_class=class_)
        assert found is not None
        assert found.map is owner
    assert _verdicts(linker, type_class=CLASS_COPY)[0] is Verdict.EXECUTABLE
    assert _verdicts(linker, type_class=CLASS_PLT)[0] is Verdict.CANONICAL_PLT


def test_the_search_begins_behind_the_object_to_skip() -> None:
    linker = Linker()
    first = _object(linker, "main", type_=LT_EXECUTABLE)
    second = _object(linker, "liba.so")
    found = _find(linker, skip=first)
    assert found is not None
    assert found.map is second
    assert _verdicts(linker, skip=first) == [Verdict.SKIPPED, Verdict.NO_VERSIONS]


@pytest.mark.parametrize(
    ("defined", "asked", "verdict"),
    [
        ({"version": b"V1"}, {"version": _V1}, Verdict.SAME_VERSION),
        ({"version": b"V1"}, {}, Verdict.BASE_VERSION),
        ({"version": b"V2"}, {"version": _V1}, None),
        ({"version": b"V2"}, {}, Verdict.BASE_VERSION),
        ({}, {"version": _V1}, Verdict.NO_VERSIONS),
        ({}, {}, Verdict.NO_VERSIONS),
    ],
)
def test_versions(defined: dict[str, Any], asked: dict[str, Any], verdict: Verdict | None) -> None:
    linker = Linker()
    linker.load(ElfBuilder(), "main", LT_EXECUTABLE)
    library = _object(linker, "liba.so", **defined)
    found = _find(linker, **asked)
    assert (found is not None and found.map is library) == (verdict is not None)
    assert _verdicts(linker, **asked)[-1] is (verdict or Verdict.NO_NAME)


def test_a_reference_without_a_version_gets_the_only_default_one() -> None:
    linker = Linker()
    linker.load(ElfBuilder(), "main", LT_EXECUTABLE)
    builder = ElfBuilder(soname=b"liba.so")
    builder.version(b"V1")
    for number, default in ((2, False), (3, True)):
        builder.define(b"f", 0x1000 * number, version=b"V%d" % number, default=default)
    library = linker.load(builder, "liba.so")
    check_map_versions(library, linker.memory, lambda needed: None)
    found = _find(linker, flags=RETURN_NEWEST)
    assert found is not None
    assert found.value == 0x3000
    told = _verdicts(linker, flags=RETURN_NEWEST)
    assert sorted(v.value for v in told[-2:]) == ["hidden-version", "only-default"]


def test_a_library_that_lost_its_versions_is_fatal() -> None:
    linker = Linker()
    linker.load(ElfBuilder(), "main", LT_EXECUTABLE)
    _object(linker, "liba.so")
    with pytest.raises(LinkError, match="Assertion"):
        _find(linker, version=_V1._replace(file=b"liba.so"))


def test_the_first_unique_definition_is_everybodys() -> None:
    linker = Linker()
    linker.load(ElfBuilder(), "main", LT_EXECUTABLE)
    first = _object(linker, "liba.so", bind=c.STB_GNU_UNIQUE)
    other = _object(linker, "libb.so", bind=c.STB_GNU_UNIQUE)
    query = Query(b"f", other)
    assert peek_symbol(linker.rtld, query, [first.local_scope]) is None  # its own list is empty
    assert linker.rtld.namespaces[0].unique == {}
    assert _verdicts(linker)[-1] is Verdict.FIRST_UNIQUE
    assert linker.rtld.namespaces[0].unique == {}  # a watched look-up has no consequences
    assert _find(linker) == linker.rtld.namespaces[0].unique[b"f"]
    other.searchlist.append(other)
    found = lookup_symbol(linker.rtld, query, [other.local_scope])
    assert found is not None
    assert found.map is first


def test_a_protected_definition_keeps_its_own_references() -> None:
    linker = Linker()
    first = _object(linker, "main", type_=LT_EXECUTABLE)
    library = _object(linker, "liba.so", visibility=c.STV_PROTECTED)
    own = Query(b"f", library, 1)
    found = lookup_symbol(linker.rtld, own, library.scopes)
    assert found is not None
    assert found.map is library
    elsewhere = lookup_symbol(linker.rtld, own._replace(reference=0), library.scopes)
    assert elsewhere is not None
    assert elsewhere.map is first


def test_the_watcher_hears_of_each_object_in_order() -> None:
    linker = Linker()
    main = linker.load(ElfBuilder(), "main", LT_EXECUTABLE)
    plain = ElfBuilder(soname=b"plain.so")
    plain.define(b"another", 0x1000)
    linker.load(plain, "plain.so")
    library = _object(linker, "liba.so")
    told: list[tuple[str, int]] = []
    query = Query(b"f", main)
    lookup_symbol(
        linker.rtld, query, main.scopes, lambda map_, index, verdict: told.append((map_.name, index))
    )
    assert [name for name, _ in told] == ["main", "plain.so", "liba.so"]
    assert told[-1][1] > 0
    assert not library.used
    assert linker.rtld.lookups == 0
