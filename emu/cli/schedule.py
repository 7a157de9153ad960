"""The options of `emu run` about threads: which policy schedules them, and
where its decisions are written.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from emu.cli import notes
from emu.kernel.run.policy import BEGINNING, REPLAY, Policy, Random, Recording, RoundRobin, replay_of


def check(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    """Accept round-robin, random and replay:FILE."""
    if value in ("round-robin", "random") or value.startswith(REPLAY) and value != REPLAY:
        return value
    raise click.BadParameter(f"{value!r} is no schedule: choose round-robin, random or replay:FILE")


def make_policy(schedule: str, seed: int, preempt: str | None = None) -> Policy:
    """Return the policy that a checked option value names;
    `preempt` is instructions, blocks or what the policy does by itself. Raises ScheduleError.
    """
    if schedule == "random":
        return Random(seed, whole_blocks=preempt == "blocks")
    if preempt is not None:
        raise click.UsageError(
            "--preempt chooses for --schedule random: round-robin keeps to blocks, a replay to its file"
        )
    if not schedule.startswith(REPLAY):
        return RoundRobin()
    return replay_of(schedule.removeprefix(REPLAY))


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
    notes.written(path)
