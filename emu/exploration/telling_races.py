"""A data race, for people: what was accessed, and both threads' places."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.analysis.check_notes import base
from emu.process.backtrace import render

if TYPE_CHECKING:
    from emu.exploration.heap import HeapBlock
    from emu.exploration.races import Access, DataRace
    from emu.process import Process


RULE = "data-race"
"""What a suppression calls a race."""
About = tuple[str, tuple[str, ...], tuple[str, ...]]
"""A rule, the objects concerned, the names of variable and functions: what suppressions are held against."""


def about(process: Process, race: DataRace) -> About:
    """Return what a race is about: the objects and functions of both accesses, the second's first, and the
    variable, if it is on one, before them.
    """
    symbols = process.symbols
    places = (race.second.address, race.second.pc, race.first.pc)
    objects = [place[0] for place in map(symbols.place, places) if place is not None]
    names = [symbols.variable(race.second.address)]
    names += [symbols.describe(pc).partition("+0x")[0] for pc in places[1:]]
    return RULE, tuple(dict.fromkeys(objects)), tuple(dict.fromkeys(name for name in names if name))


def suppressing(known: About) -> tuple[tuple[str, str, str], ...]:
    """Return rule, object and symbol of a suppression that hides just this."""
    rule, objects, names = known
    return ((rule, base(objects[0]) if objects else "*", names[0] if names else "*"),)


def tell_second(process: Process, race: DataRace) -> str:
    """Return lines about a race whose second access is about to happen."""
    second = race.second
    lines = [f"data race on {what_lies_at(process, second.address)}, which nothing orders:"]
    lines.append(
        f"  thread {second.tid} {'writes' if second.write else 'reads'} {place_of_access(process, second)}"
    )
    lines.append(render(process.resolve(process.capture(pc=second.pc)), everything=False))
    return "\n".join(lines)


def tell_first(process: Process, first: Access) -> str:
    """Return lines about the first access of a race, which is about to happen in a run that is the same."""
    lines = [
        "",
        f"  thread {first.tid} {'wrote' if first.write else 'read'} before {place_of_access(process, first)}",
    ]
    lines.append(render(process.resolve(process.capture(pc=first.pc)), everything=False))
    return "\n".join(lines)


def tell_block(process: Process, address: int, block: HeapBlock) -> str:
    """Return lines about the block of the heap that a race is on."""
    into = f"{address - block.start} bytes into" if address > block.start else "at the beginning of"
    lines = ["", f"  {into} a block of {block.size} bytes, allocated by thread {block.tid}"]
    if block.frames:
        lines.append(render(process.resolve(block.frames), everything=False))
    return "\n".join(lines)


def place_of_access(process: Process, access: Access) -> str:
    """Return how much is accessed at which address, and where in the code."""
    source = process.symbols.source(access.pc)
    function = process.symbols.describe(access.pc).partition("+0x")[0]
    where = f"{function} ({source})" if source else process.symbols.where(access.pc)
    return f"{access.size} bytes at {access.address:#x} in {where}"


def what_lies_at(process: Process, address: int) -> str:
    """Return what lies at an address: a variable, or an area of memory."""
    variable = process.symbols.variable(address)
    place = process.symbols.place(address)
    if variable and place is not None:
        return f"{variable} in {place[0]}"
    return process.symbols.area_name(address) or f"memory at {address:#x}"
