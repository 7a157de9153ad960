"""The arguments of the marker `emu`, checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emu.core.record import NamedTuple
from emu.machine.engines import CPUS, ENGINES
from emu.testing.schedules import Schedule, parse, several

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PROCESS = (
    "seed", "trace", "env", "cwd", "sysroot", "tls_dtors", "unload_rule", "check", "stdin", "stdout", "stderr", "writable",
    "writable_as_root", "max_memory", "timeout", "time",
    "engine", "cpu",
)  # fmt: skip
"""Arguments that are those of `emu.Process`."""
ARGUMENTS = ("schedules", "schedule", "explore", *PROCESS)
_TRACED = ("dl", "dtors")
_CHOICES = {
    "tls_dtors": ("model", "guest"),
    "unload_rule": ("dtor-count", "nodelete-flag"),
    "engine": ENGINES,
    "cpu": CPUS,
}


class Settings(NamedTuple):
    """What a test has asked for: how many schedules, or which one (None: not said),
    or at most how many runs of a search.

    `options` are keyword arguments of `emu.Process`.
    """

    repeats: int | None
    schedule: Schedule | None
    options: dict[str, Any]
    explore: int | None = None

    def schedules(self, count: int | None) -> list[Schedule]:
        """Return the schedules of the test; `count`, if given, goes before its own number."""
        if self.schedule is not None:
            return [self.schedule]
        return list(several(count or self.repeats or 1, self.options["seed"]))


def settings(markers: Iterable[tuple[tuple[Any, ...], Mapping[str, Any]]]) -> Settings:
    """Return the settings from the arguments of markers, the farthest first.

    Raises ValueError, which names the argument.
    """
    given: dict[str, Any] = {}
    for args, kwargs in markers:
        if args:
            raise ValueError(f"arguments of the marker have names, such as schedules={args[0]!r}")
        for name in kwargs:
            if name not in ARGUMENTS:
                raise ValueError(f"no argument {name!r}{_nearest(name)}; there are {', '.join(ARGUMENTS)}")
        given.update(kwargs)
    for name, least in (("schedules", 1), ("explore", 1), ("seed", 0)):
        value = given.get(name, least)
        if type(value) is not int or not least <= value < 1 << 64:
            raise ValueError(f"{name}={value!r}: a whole number from {least} on is wanted")
    for name, choices in _CHOICES.items():
        if given.get(name, choices[0]) not in choices:
            raise ValueError(f"{name}={given[name]!r}: choose from {', '.join(choices)}")
    if len({"schedules", "schedule", "explore"} & set(given)) > 1:
        raise ValueError("schedules, schedule and explore exclude each other")
    chosen = given.pop("schedule", None)
    try:
        schedule = parse(chosen) if chosen is not None else None
    except (AttributeError, ValueError):
        raise ValueError(f"schedule={chosen!r}: choose round-robin, random:SEED or replay:FILE") from None
    explore = given.pop("explore", None)
    return Settings(
        given.pop("schedules", None),
        schedule,
        {"seed": 0, "check": True, **given, "trace": _trace(given.get("trace", ()))},
        explore,
    )


def _trace(wanted: Any) -> Any:
    """Return the categories of events to trace: those asked for, and those that the assertions need.

    Raises ValueError.
    """
    if wanted == "all":
        return wanted
    if isinstance(wanted, str):
        raise ValueError(f'trace={wanted!r}: a list of categories, or "all"')
    if not wanted:  # as of every test that has no marker: they pay for no import
        return _TRACED
    from emu.core.events import CATEGORIES, ON_REQUEST

    for category in wanted:
        if category not in (*CATEGORIES, *ON_REQUEST):
            raise ValueError(
                f"trace: no category {category!r}; there are {', '.join((*CATEGORIES, *ON_REQUEST))}"
            )
    return tuple(dict.fromkeys((*_TRACED, *wanted)))


def _nearest(name: str) -> str:
    from difflib import get_close_matches

    found = get_close_matches(name, ARGUMENTS, 1)
    return f" (did you mean {found[0]!r}?)" if found else ""
