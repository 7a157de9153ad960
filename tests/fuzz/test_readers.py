"""Replays a part of what `tools/fuzz` does, always the same:
every reader answers mutants, or refuses them by an EmuError.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from tools import fixtures
from tools.fuzzing import elf, session
from tools.fuzzing.readers import READERS, Reader

CORPUS = Path(__file__).parent / "corpus"
_CASES = {"load": 400, "frames": 150, "debug": 60, "cache": 2000, "schedule": 400, "suppressions": 200}


@pytest.fixture(scope="module", autouse=True)
def _seed() -> None:
    fixtures.build("fuzz-seed")


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_mutants_are_answered_or_refused(reader: Reader) -> None:
    seeds = reader.seeds()
    held = Reader(reader.name, reader.read, lambda: seeds, reader.mutate)
    found = [
        (number, text)
        for number in range(_CASES[reader.name])
        if (text := session.try_one(held, session.case(held, number)))
    ]
    assert found == []


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_the_good_files_are_read(reader: Reader) -> None:
    for seed in reader.seeds():
        assert session.try_one(reader, seed) == ""


@pytest.mark.parametrize(
    "path", sorted(CORPUS.glob("*/*")), ids=lambda path: f"{path.parent.name}-{path.name}"
)
def test_what_was_found_once(path: Path) -> None:
    reader = next(reader for reader in READERS if reader.name == path.parent.name)
    assert session.try_one(reader, path.read_bytes()) == ""


@pytest.mark.parametrize(("name", "number"), [("debug", 3717)])
def test_a_case_that_was_found_once(name: str, number: int) -> None:
    reader = next(reader for reader in READERS if reader.name == name)
    assert session.try_one(reader, session.case(reader, number)) == ""


def test_a_case_is_the_same_each_time() -> None:
    reader = READERS[0]
    assert session.case(reader, 17) == session.case(reader, 17)
    assert session.case(reader, 17) != session.case(reader, 18)


def test_a_fault_a_hang_and_a_blow_up_are_findings() -> None:
    def fault(data: bytes) -> None:
        raise KeyError(data)

    def blow_up(data: bytes) -> None:
        bytes(8 << 30)

    for read, kind in ((fault, "traceback"), (blow_up, "blow-up")):
        reader = Reader("bad", read, lambda: [b"x"], lambda data, random: data)
        found = session.run_batch(session.of_reader(reader, 2), 5, 2).found
        assert [(one.number, one.kind) for one in found] == [(5, kind), (6, kind)]


@pytest.mark.parametrize(
    ("mode", "first", "cases"),
    [
        ("syscalls", 0, 250),
        ("syscalls", 2001585, 1),
        ("entries", 0, 120),
        ("corrupt", 0, 60),
        ("commands", 0, 39),
        ("commands", 1047, 1),
    ],
)
def test_a_maltreated_guest_and_commands_on_mutants_are_answered(mode: str, first: int, cases: int) -> None:
    words = [sys.executable, "-m", "tools.fuzzing.main", "--mode", mode]
    words += ["--first", str(first), "--cases", str(cases)]
    strict = os.environ | {"EMU_STRICT": "1"}
    done = subprocess.run(words, cwd=fixtures.ROOT, env=strict, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["0 findings"], done.stdout + done.stderr


def test_mutations_change_what_they_say() -> None:
    good = READERS[0].seeds()[2]
    for kind in {*elf.LOADED, *elf.DEBUGGED, *elf.FRAMES}:
        changed = {elf.mutate(good, Random(n), (kind,))[0] for n in range(8)}
        assert len(changed) > 1, kind
