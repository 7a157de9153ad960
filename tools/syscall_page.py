#!/usr/bin/env python3
"""The page of `emu help syscalls`, made from the table of system calls:
`tools/syscall_page.py --update` writes it.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from emu.kernel.syscalls.coverage import rows

PAGE = Path(__file__).parents[1] / "emu" / "docs" / "syscalls.md"
_HEAD = """# System calls

What of each system call of Linux 6.1 works. Full: as Linux has it, for a guest whose only network is its own
loopback interface and whose time is virtual. Partial: with what is missing. Refused: the program is told
ENOSYS, as by an older kernel, and a line says so if it then fails (or with `-v`).

"""
_WIDTH = 108


def _wrapped(names: list[str]) -> str:
    lines, line = [], ""
    for name in names:
        if len(line) + len(name) + 2 > _WIDTH:
            lines.append(line)
            line = ""
        line += f"{name}, " if name != names[-1] else name
    return "\n".join(text.rstrip() for text in [*lines, line])


def page() -> str:
    """Return the page."""
    table = rows()
    by_state = {
        state: [row for row in table if row.state == state] for state in ("full", "partial", "refused")
    }
    text = (
        _HEAD + f"## Full ({len(by_state['full'])})\n\n{_wrapped([row.name for row in by_state['full']])}\n\n"
    )
    text += f"## Partial ({len(by_state['partial'])})\n\n| call | number | state |\n|---|---|---|\n"
    text += "".join(f"| {row.name} | {row.number} | {row.note} |\n" for row in by_state["partial"])
    refused = _wrapped([row.name for row in by_state["refused"]])
    return text + f"\n## Refused ({len(by_state['refused'])})\n\n{refused}\n"


if __name__ == "__main__":
    if "--update" in sys.argv[1:]:
        PAGE.write_text(page())
    else:
        print(page(), end="")
