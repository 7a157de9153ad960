"""The command line of tools/fuzz."""

from __future__ import annotations

import argparse
import sys
import time

from tools import fixtures
from tools.fuzzing import commands, native, session
from tools.fuzzing.session import Finding

_UNITS = {"s": 1, "m": 60, "h": 3600}
_GUESTS = {"syscalls": 400, "entries": 400, "corrupt": 150}
"""Modes that maltreat a guest, and cases of a batch."""
_COMMANDS = 100
MODES = ("readers", "commands", "native", *_GUESTS)
_SHARES = {"readers": 0.3, "commands": 0.2, "native": 0.2, "syscalls": 0.1, "entries": 0.1, "corrupt": 0.1}


def seconds(text: str) -> float:
    """Return a time such as 180s, 3m or 8h in seconds."""
    unit = _UNITS.get(text[-1:], 0)
    if not unit or not text[:-1].isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no time: a number with s, m or h")
    return int(text[:-1]) * unit


def main(arguments: list[str] | None = None) -> int:
    """Fuzz for a time; return 1 if anything was found, 0 if not."""
    parser = argparse.ArgumentParser(prog="tools/fuzz", description="Fuzz what reads files, for a time.")
    parser.add_argument(
        "--time", type=seconds, default=180.0, metavar="180s|3m|8h", help="how long, in all (default 180s)"
    )
    parser.add_argument("--mode", choices=(*MODES, "coverage"), help="one of them only")
    parser.add_argument(
        "--first",
        type=int,
        default=0,
        metavar="N",
        help="the number of the first case: a case is the same each time",
    )
    parser.add_argument(
        "--cases", type=int, metavar="N", help="so many cases (at least), however long that takes"
    )
    options = parser.parse_args(arguments)
    fixtures.build("fuzz-seed")
    if options.mode == "coverage":
        from tools.fuzzing import coverage

        return coverage.run(int(options.time))
    found: list[Finding] = []

    def tell(finding: Finding) -> None:
        found.append(finding)
        print(f"{finding.kind}: {finding.reader} case {finding.number}\n{finding.text}", flush=True)

    for mode in (options.mode,) if options.mode else MODES:
        share = options.time if options.mode else options.time * _SHARES[mode]
        deadline = time.monotonic() + share

        def wanted(done: int, deadline: float = deadline) -> bool:
            return time.monotonic() < deadline if options.cases is None else done < options.cases

        if mode == "native":
            report = native.compare(native.numbers(options.first, options.cases, deadline))
            pairs = ", ".join(f"{pair} {count}" for pair, count in sorted(report.pairs.items()))
            print(f"native: {report.cases} cases, {report.agreement:.1%} agree: {pairs}")
            found += [Finding("native", 0, "traceback", text) for text in report.broken]
            continue
        subjects = _subjects(mode)
        if options.cases is not None:
            subjects = tuple(one._replace(batch=min(one.batch, options.cases)) for one in subjects)
        counts, calls = session.fuzz(subjects, options.first, wanted, tell)
        each = ", ".join(f"{name} {count}" for name, count in counts.items())
        made = f"; {calls} calls" if calls else ""
        print(f"{mode}: {sum(counts.values())} cases, {each}{made}", flush=True)
    print(f"{len(found)} findings")
    return 1 if found else 0


def _subjects(mode: str) -> tuple[session.Subject, ...]:
    if mode == "readers":
        return session.READING
    if mode == "commands":
        return (session.Subject(mode, _COMMANDS, commands.start, bounded=False),)
    from tools.fuzzing import callers, corrupt

    make = {
        "syscalls": callers.wild_system_calls,
        "entries": callers.wild_entries,
        "corrupt": corrupt.corruption,
    }
    return (session.of_guest(mode, _GUESTS[mode], make[mode]),)


if __name__ == "__main__":
    sys.exit(main())
