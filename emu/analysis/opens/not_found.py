"""What is told of a symbol that was not found while the program ran: a first call that nothing serves, and a
dlsym that gives NULL.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.analysis.explain import explain_asked
from emu.analysis.opens.data import Cure, FailedOpen
from emu.analysis.opens.files import os_text
from emu.analysis.opens.looking import Looking, base
from emu.analysis.opens.story import OpenAttempt, failed_open
from emu.analysis.opens.undefined import UndefinedStory
from emu.rtld.failure import Undefined

if TYPE_CHECKING:
    from emu.analysis.history import Seen
    from emu.process import Process
    from emu.rtld.asked import SymbolAsked
    from emu.rtld.rtld import Rtld


def first_call(process: Process, rtld: Rtld, seen: Seen) -> FailedOpen | None:
    """Return the story of a call that has found no function (`rtld.unbound`), as things are then."""
    error = rtld.unbound
    fact = error.fact if error is not None else None
    if not isinstance(fact, Undefined):
        return None
    who = fact.map.display_name
    call = OpenAttempt("first-call", who, "", fact.map.ns, who, seen.stamp, ())
    return failed_open(process, rtld, call, f"symbol lookup error: {error}", error)


def near_names(process: Process, rtld: Rtld, asked: SymbolAsked) -> list[str]:
    """Return what has nearly the name that a dlsym has not found, in sentences."""
    story = UndefinedStory(Looking(process, rtld), Undefined(asked.map, 0, asked.name, asked.version), None)
    return list(story.near())


def failed_dlsym(process: Process, rtld: Rtld, asked: SymbolAsked, seen: Seen) -> FailedOpen:
    """Return the story of a dlsym that finds nothing in the object that its handle is of."""
    map_, symbol = asked.map, os_text(asked.name)
    told = explain_asked(process, rtld, asked, "")
    undefined = UndefinedStory(Looking(process, rtld), Undefined(map_, 0, asked.name, asked.version), None)
    name = base(map_.display_name)
    story = [f"neither {name} nor what it needs exports {symbol}: dlsym gives NULL, and dlerror says so"]
    story += undefined.near()
    cures = tuple(
        Cure(
            change.code,
            change.object,
            change.text,
            base(change.winner.object),
            trial=undefined.trial(change.code, change.object),
        )
        for change in told.changes
        if change.winner is not None
    )
    names = (map_.display_name, name, map_.path, base(map_.path), map_.soname or "", *map_.lib_names)
    error = f"undefined symbol: {symbol}"
    if asked.version is not None:
        error += f", version {os_text(asked.version.name)}"
    return FailedOpen(
        "dlsym", map_.display_name, asked.handle, map_.ns, asked.caller and rtld.describe_caller(asked.caller) or "",
        seen.stamp, error, "undefined-symbol", map_.display_name, symbol, (), tuple(story), (), (told,), cures,
        seen.stamp.backtrace, tuple(dict.fromkeys(one for one in names if one)),
    )  # fmt: skip
