"""The order of destructors: expected, by the names that people use, against what ran."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from emu.api import DestroyedObject, Library, Process

    Name = str | tuple[str, ...]

_NAMELESS = "(anonymous namespace)::"


def difference(process: Process, expected: Sequence[Name], library: Library | str | None) -> str:
    """Return the text of the failure, empty if the destructors have run as expected.

    Raises Error if they are not traced.
    """
    ran = [one for one in process.destroyed if library is None or _is_of(one, library)]
    if len(ran) == len(expected) and all(map(is_called, ran, expected)):
        return ""
    lines = [
        "destructors of thread_local objects ran otherwise (- expected, + ran)",
        *_diff(expected, ran),
        *_pending(process),
    ]
    return "\n".join(lines).replace(os.getcwd().rstrip("/") + "/", "")


def is_called(one: DestroyedObject, name: Name) -> bool:
    """Whether an object goes by a name, or by all names of a tuple."""
    return all(_goes_by(one, part) for part in ((name,) if isinstance(name, str) else name))


def _goes_by(one: DestroyedObject, name: str) -> bool:
    if name in (one.owner, os.path.basename(one.owner), one.thread_name):
        return True
    wanted = name.replace(_NAMELESS, "")
    known = (text.replace(_NAMELESS, "") for text in (one.type, one.variable, one.function))
    return any(text == wanted or text.endswith(f"::{wanted}") for text in known)


def _is_of(one: DestroyedObject, library: Library | str) -> bool:
    name = library if isinstance(library, str) else library.opened.display_name if library.opened else ""
    return name in (one.owner, os.path.basename(one.owner))


def _diff(expected: Sequence[Name], ran: Sequence[DestroyedObject]) -> Iterator[str]:
    from difflib import SequenceMatcher

    words = [_word(name) for name in expected]
    width = max(map(len, words), default=0)
    # What ran is told apart by the expected names: by that in its own place if it fits, else by the first
    # that does.
    keys = [
        next((words[n] for n in (at, *range(len(words))) if n < len(words) and is_called(one, expected[n])), str(one))
        for at, one in enumerate(ran)
    ]  # fmt: skip
    for _, start, end, low, high in SequenceMatcher(None, words, keys, autojunk=False).get_opcodes():
        if words[start:end] == keys[low:high]:
            for word, one in zip(words[start:end], ran[low:high], strict=True):
                yield f"    {word.ljust(width)}  {one}"
        else:
            yield from (f"  - {word}" for word in words[start:end])
            yield from (f"  + {''.ljust(width)}  {one}" for one in ran[low:high])


def _word(name: Name) -> str:
    return name if isinstance(name, str) else ", ".join(name)


def _pending(process: Process) -> Iterator[str]:
    """Yield the destructors that are still to run."""
    if process.ended:
        return
    for thread in process.threads:
        for one in process.tls(thread).destructors:
            place = f" [{one.source}]" if one.source else ""
            yield f"  pending: {one.name} of {one.owner} in thread {thread.tid} ({thread.name}){place}"
