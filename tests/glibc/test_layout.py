"""Layout tables: chosen by what ld.so shows of its build; what they have is what emu asks for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from emu.elf import constants as c
from emu.glibc import members
from emu.glibc.layout import Build, Layout, newest, releases, shipped, table_text
from emu.glibc.mirror import info_index
from emu.glibc.release import NEWEST

FOLDER = Path(members.__file__).parent / "layouts"
_NEWEST = ".".join(map(str, NEWEST))
TABLES = sorted(path.name for path in FOLDER.iterdir())


def table(name: str) -> Layout:
    body = json.loads((FOLDER / name).read_text())
    return Layout(body["version"], body)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_found_by_what_its_ld_so_shows(name: str) -> None:
    layout = table(name)
    build = Build(layout.version, layout.size("rtld_global"), layout.size("rtld_global_ro"))
    assert name == f"{build.release}-{build.global_size}-{build.ro_size}.json"
    found = shipped(build)
    assert found is not None
    assert found.offsets("link_map") == layout.offsets("link_map")


def test_an_old_ld_so_says_no_release() -> None:
    found = shipped(Build("", 4000, 544))
    assert found is not None
    assert found.version == "2.31"


@pytest.mark.parametrize("build", [Build("2.36", 4336, 904), Build("2.40", 4352, 936), Build("", 4001, 544)])
def test_another_build_has_no_table(build: Build) -> None:
    assert shipped(build) is None


def test_the_newest_table_is_the_newest_by_number() -> None:
    assert newest().version == releases()[-1] == _NEWEST


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_kept_as_it_is_written(name: str) -> None:
    text = (FOLDER / name).read_text()
    assert table_text(json.loads(text)) == text


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_no_more_than_emu_asks_for(name: str) -> None:
    body = json.loads((FOLDER / name).read_text())["structures"]
    wanted = members.LD_SO | members.LIBC
    assert set(body) <= set(wanted)
    for structure, found in body.items():
        assert set(found["members"]) <= set(wanted[structure])


def test_every_member_is_somewhere() -> None:
    everywhere = [json.loads((FOLDER / name).read_text())["structures"] for name in TABLES]
    for structure, wanted in (members.LD_SO | members.LIBC).items():
        found = {member for body in everywhere if structure in body for member in body[structure]["members"]}
        assert found == set(wanted)


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize(
    ("tag", "from_the_end"),
    [(c.DT_GNU_HASH, 1), (0x6FFFFEFF, 11), (0x6FFFFDFF, 23), (c.DT_FILTER, 26), (c.DT_VERNEEDNUM, 42), (c.DT_VERSYM, 27)],
)  # fmt: skip
def test_l_info_has_the_ranges_of_tags_one_behind_the_other(name: str, tag: int, from_the_end: int) -> None:
    layout = table(name)
    words = (layout.offset("link_map", "l_phdr") - layout.offset("link_map", "l_info")) // 8
    assert info_index(tag, words) == words - from_the_end


@pytest.mark.parametrize(("words", "relr", "processor"), [(77, None, None), (80, 36, None), (84, 36, 38)])
def test_l_info_grows_with_the_tags(words: int, relr: int | None, processor: int | None) -> None:
    assert info_index(c.DT_STRTAB, words) == c.DT_STRTAB
    assert info_index(c.DT_RELR, words) == relr
    assert info_index(c.DT_LOPROC, words) == processor
    assert info_index(0x70000004, words) is None
