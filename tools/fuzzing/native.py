"""The native ld.so and kernel as judges: the same mutant runs natively and in the
emulator, and both must say the same.

Natively it runs as nobody, with limits, without a network, in a private folder.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from random import Random
from typing import NamedTuple

from tools.fuzzing import elf, guard

SEED = Path(__file__).resolve().parent.parent.parent / ".cache" / "fixtures" / "fuzz-seed"
FILES = ("main", "main-fixed", "libseed.so")
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}
_NATIVE_SECONDS, _EMU_SECONDS, _GRACE = 3, 20, 40
_NATIVE_MEMORY = 3 << 30
RUN = ("run", "--timeout", str(_EMU_SECONDS), "--max-memory", "3G")
_RSS_LIMIT = 800 << 20
_ADDRESS = re.compile(rb"-?\b[0-9]{8,10}\b")
"""The lower half of an address, printed as an int."""
_SOURCE_LINE = re.compile(r"(?<=\.[ch]): [0-9]+: ")
_SIGKILL, _SIGXCPU = 128 + 9, 128 + 24


class Answer(NamedTuple):
    """What became of a mutant: run, refuse, die, hang; or traceback, stuck, blow-up,
    which are never right.
    """

    kind: str
    code: int
    words: str
    out: bytes

    @property
    def broken(self) -> bool:
        """Whether this is no answer at all."""
        return self.kind in ("traceback", "stuck", "blow-up")


class Case(NamedTuple):
    """One mutant: the program that is run, the file that is wrong, and how."""

    program: str
    target: str
    data: bytes
    told: str


def draw(number: int, good: dict[str, bytes]) -> Case:
    """Return mutant number `number`: the same each time for the same good files."""
    random = Random(number)
    target = random.choice(FILES)
    fixed = target == "main-fixed" or target == "libseed.so" and random.random() < 0.2
    data, told = elf.mutate(good[target], random)
    return Case("./main-fixed" if fixed else "./main", target, data, told)


@contextmanager
def workshop() -> Iterator[Callable[[Case], Path]]:
    """Give a function that puts a mutant beside the other good files into a private folder,
    which nobody may write to.
    """
    good = {name: (SEED / name).read_bytes() for name in FILES}
    folder = Path(tempfile.mkdtemp(prefix="emu-fuzz-"))
    folder.chmod(0o755)

    def put(case: Case) -> Path:
        for name in FILES:
            path = folder / name
            path.unlink(missing_ok=True)
            path.write_bytes(case.data if name == case.target else good[name])
            path.chmod(0o755)
        return folder

    try:
        yield put
    finally:
        shutil.rmtree(folder)


def run_native(folder: Path, program: str) -> Answer:
    """Run a program as it is."""

    def work() -> int:
        guard.limits(_NATIVE_SECONDS, _NATIVE_MEMORY)
        guard.become_nobody()
        os.execve(program, [program], ENVIRONMENT)

    ended = guard.child(work, str(folder), _NATIVE_SECONDS * 3)
    words = ended.err.decode("utf-8", "surrogateescape").strip()
    if ended.code == guard.FAILED:
        return Answer("refuse", 126, "the kernel refuses to execute it", b"")
    if ended.timed_out or ended.code in (_SIGKILL, _SIGXCPU):
        return Answer("hang", 124, "", ended.out)
    if ended.code > 128:
        return Answer("die", ended.code, "", ended.out)
    if ended.code in (1, 127) and words:
        return Answer("refuse", ended.code, words, ended.out)
    return Answer("run", ended.code, words, ended.out)


def run_emulated(folder: Path, words: tuple[str, ...]) -> Answer:
    """Run an `emu` command; return what it answered."""
    return answer(emulate(folder, words))


def emulate(folder: Path, words: tuple[str, ...]) -> guard.Ended:
    """Run an `emu` command in a child of this process: nothing is imported again."""
    from emu.cli import main, streams

    _import_all()

    def work() -> int:
        guard.limits(_EMU_SECONDS * 3)
        os.environ.clear()
        os.environ.update(ENVIRONMENT, EMU_STRICT="1")
        streams.install()
        code = main._dispatch(list(words))
        sys.stdout.flush()
        return code

    return guard.child(work, str(folder), _GRACE)


@cache
def _import_all() -> None:
    """Import here what every child would import again."""
    for name in ("run", "ldd", "explain", "maps", "check", "why"):
        import_module(f"emu.cli.{name}")
    for name in (
        "process.process",
        "elf.dwarf",
        "elf.cfi",
        "analysis.check",
        "analysis.explain",
        "kernel.syscalls.polling",
    ):
        import_module(f"emu.{name}")


def answer(ended: guard.Ended) -> Answer:
    """Return what a command of ours has answered."""
    words = ended.err.decode("utf-8", "surrogateescape").strip()
    if ended.code == guard.FAILED or "Traceback (most recent call last)" in words:
        return Answer("traceback", ended.code, words.splitlines()[-1] if words else "", ended.out)
    if ended.timed_out:
        return Answer("stuck", ended.code, "", ended.out)
    if ended.rss > _RSS_LIMIT:
        return Answer("blow-up", ended.code, f"{ended.rss >> 20} MB", ended.out)
    if ended.code == 124:
        return Answer("hang", 124, "", ended.out)
    if ended.code in (1, 125, 126, 127) and words:
        return Answer("refuse", ended.code, words, ended.out)
    return Answer("die" if ended.code > 128 else "run", ended.code, words, ended.out)


def agree(native: Answer, ours: Answer) -> bool:
    """Whether the emulator said what is natively so:
    the same run, the same refusal in the same words, the same death.

    Where ld.so or the kernel dies of a file, one line that says why is as good. Where things lie in memory
    need not be the same, nor the line of ld.so's source that an assertion is in: that goes by the build.
    """
    native, ours = (
        one._replace(out=_ADDRESS.sub(b"ADDRESS", one.out), words=_SOURCE_LINE.sub(": LINE: ", one.words))
        for one in (native, ours)
    )
    if ours.broken:
        return False
    if native.kind == "die":
        return ours.kind in ("die", "refuse") and native.out.startswith(ours.out)
    if native.kind != ours.kind or native.out != ours.out and native.kind != "hang":
        return False
    if native.kind == "refuse":
        return native.code == ours.code == 126 or visible(native.words) == visible(_of_ldso(ours.words))
    return native.code == ours.code


def _of_ldso(words: str) -> str:
    """Return the words without those that emu adds of its own: what a system call was refused for."""
    lines = words.replace("\\n", "\n").split("\n")
    return "\n".join(line for line in lines if "; the program was told " not in line)


def visible(words: str) -> str:
    """Return words of ld.so as `emu` prints them:
    control characters and bytes that are no text are written out.
    """
    from emu.core.text import printable

    return "\n".join(printable(line) for line in words.split("\n"))


class Report(NamedTuple):
    """What came of a number of mutants: how many of each pair of kinds, and a text for each disagreement."""

    cases: int
    pairs: Counter[str]
    disagreements: list[str]
    broken: list[str]

    @property
    def agreement(self) -> float:
        """The part that agrees."""
        return 1 - len(self.disagreements) / self.cases if self.cases else 1.0


def numbers(first: int, cases: int | None, deadline: float) -> Iterator[int]:
    """Yield numbers of mutants: so many, or until a time of the monotonic clock."""
    number = first
    while number < first + cases if cases is not None else time.monotonic() < deadline:
        yield number
        number += 1


def compare(chosen: Iterator[int], told: Callable[[str], None] = print) -> Report:
    """Judge mutants by number; each disagreement is told at once."""
    good = {name: (SEED / name).read_bytes() for name in FILES}
    pairs: Counter[str] = Counter()
    disagreements: list[str] = []
    broken: list[str] = []
    cases = 0
    with workshop() as put:
        for number in chosen:
            cases += 1
            case = draw(number, good)
            folder = put(case)
            native, ours = run_native(folder, case.program), run_emulated(folder, (*RUN, case.program))
            same = agree(native, ours)
            pairs[f"{native.kind}/{ours.kind}{'' if same else ' differ'}"] += 1
            if not same:
                text = f"{number} {case.program} {case.target}: {case.told}\n  native: {_show(native)}\n  emu:    {_show(ours)}"
                disagreements.append(text)
                if ours.broken:
                    broken.append(text)
                told(text)
    return Report(cases, pairs, disagreements, broken)


def _show(found: Answer) -> str:
    return f"{found.kind} {found.code} {found.words[:240]} {found.out[-40:]!r}"
