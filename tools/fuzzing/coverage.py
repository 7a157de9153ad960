"""The readers under a fuzzer that is guided by coverage: atheris, which is libFuzzer for Python.

It is kept well by its authors and finds paths that blind mutation does not; it is no dependency, since only
this mode needs it. Each reader has a Python of its own, in which the modules of `emu` that it needs, and no
others, are instrumented while they are imported.
"""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tools.fuzzing.readers import Reader

CORPUS = Path(__file__).resolve().parent.parent.parent / ".cache" / "fuzz"
_MEGABYTES = 1024
_CASE_SECONDS = 60
"""Of any time: a machine may have much else to do."""
_LONGEST = 1 << 15
_SAID = 1500


class Figures(NamedTuple):
    """What a reader's part came to.

    Cases, edges of `emu`'s code that they took, and whether all was answered.
    """

    cases: int
    edges: int
    clean: bool


def run(seconds: int) -> int:
    """Give each reader its part of the time.

    Return 1 if one of them found something, 2 where atheris is missing.
    """
    from tools.fuzzing.readers import READERS

    if find_spec("atheris") is None:
        text = "tools/fuzz: the package atheris is not installed: .venv/bin/pip install atheris"
        print(text, file=sys.stderr)
        return 2
    found = [guided(reader.name, max(seconds // len(READERS), 1)) for reader in READERS]
    total = sum(one.cases for one in found)
    wrong = sum(not one.clean for one in found)
    print(f"coverage: {total} cases\n{wrong} findings")
    return int(wrong > 0)


def guided(name: str, seconds: int) -> Figures:
    """Fuzz one reader in a Python of its own; print its figures, and what it found."""
    log = CORPUS / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        words = [sys.executable, "-m", "tools.fuzzing.coverage", name, str(seconds)]
        code = subprocess.call(words, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    said = log.read_text(errors="replace")
    figures = Figures(
        _last(r"number_of_executed_units: (\d+)", said), _last(r"\bcov: (\d+)", said), code == 0
    )
    print(f"{name}: {figures.cases} cases, {figures.edges} edges", flush=True)
    if code:
        print(f"finding: {name} ended with {code}; see {log}\n{said[-_SAID:]}", flush=True)
    return figures


def _last(pattern: str, text: str) -> int:
    return int((re.findall(pattern, text) or ["0"])[-1])


def main(name: str, seconds: int) -> None:
    """Never return: libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["emu"]):
        from tools.fuzzing.readers import READERS
        from tools.fuzzing.session import try_one

        reader = next(one for one in READERS if one.name == name)
        seeds = reader.seeds()
        for seed in seeds:
            try_one(reader, seed)  # what is imported late is instrumented, too

    folder = CORPUS / name
    folder.mkdir(parents=True, exist_ok=True)
    for at, seed in enumerate(seeds):
        (folder / f"seed-{at}").write_bytes(seed)

    def one(data: bytes) -> None:
        if text := try_one(reader, data):
            print(text, file=sys.stderr, flush=True)
            raise AssertionError(reader.name)

    def change(data: bytes, most: int, number: int) -> bytes:
        return mutated(reader, data, number)[:most] or bytes(atheris.Mutate(data, most))

    limits = [
        f"-max_total_time={seconds}",
        f"-rss_limit_mb={_MEGABYTES}",
        f"-timeout={_CASE_SECONDS}",
        f"-max_len={_LONGEST}",
        "-print_final_stats=1",
    ]
    words = [f"fuzz-{name}", *limits, f"-artifact_prefix={folder}/found-", str(folder)]
    atheris.Setup(words, one, custom_mutator=change)
    atheris.Fuzz()


def mutated(reader: Reader, data: bytes, number: int) -> bytes:
    """Return a mutant by the reader's own rules.

    B"" (every second time, and of what has no structure left) asks for libFuzzer's.
    """
    random = Random(number)
    if random.randrange(2):
        return b""
    try:
        return reader.mutate(data, random)
    except Exception:  # the maker of mutants expects a well-made file, and this one is a mutant already
        return b""


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
