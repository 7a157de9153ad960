"""The options of `emu run` about threads: which policy schedules them, and where its decisions are written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from emu.kernel.policy import BEGINNING, Policy, Random, Recording, Replay, RoundRobin, ScheduleError

_REPLAY = "replay:"


def check(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    """Accept round-robin, random and replay:FILE."""
    if value in ("round-robin", "random") or value.startswith(_REPLAY) and value != _REPLAY:
        return value
    raise click.BadParameter(f"{value!r} is no schedule: choose round-robin, random or replay:FILE")


def make_policy(schedule: str, seed: int) -> Policy:
    """Return the policy that a checked option value names. Raises ScheduleError."""
    if schedule == "random":
        return Random(seed)
    if not schedule.startswith(_REPLAY):
        return RoundRobin()
    path = schedule.removeprefix(_REPLAY)
    try:
        with open(path, encoding="utf-8") as file:
            return Replay(file, path)
    except OSError as error:
        raise ScheduleError(path, 0, str(error.strerror)) from None
    except UnicodeDecodeError:
        raise ScheduleError(path, 0, "not text in UTF-8") from None


@contextmanager
def recorded(policy: Policy, path: str | None) -> Iterator[Policy]:
    """Give a policy that also writes its decisions to the file `path`, if any. Raises TraceError."""
    if path is None:
        yield policy
        return
    from emu.trace.output import TraceWriter, ended_by, open_output

    fd = open_output(path, (BEGINNING,), what="schedule")
    writer = TraceWriter(fd, path, str, buffered=True, what="schedule", fresh=True)
    recording = Recording(policy, writer.line)
    with ended_by(writer.flush, lambda: recording.decided):
        yield recording
