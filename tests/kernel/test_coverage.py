"""`emu help syscalls`: no row lies."""

from __future__ import annotations

import errno
import re
import subprocess
import sys
from pathlib import Path

from emu.kernel import syscalls
from emu.kernel.syscalls import FILES
from emu.kernel.syscalls.coverage import PARTIAL, rows
from tools.syscall_page import PAGE, page

_ENDS_OR_WAITS = {
    "exit", "exit_group", "fork", "vfork", "clone", "clone3", "pause", "rt_sigreturn", "rt_sigsuspend", "execve", "execveat", "kill", "tkill", "tgkill",
    "munmap", "wait4", "waitid", "brk", "poll", "select", "read", "mprotect", "mmap", "mremap", "setrlimit", "prlimit64", "rt_sigqueueinfo",
    "rt_tgsigqueueinfo", "setsid", "arch_prctl", "close", "close_range", "rt_sigtimedwait", "alarm", "kcmp", "shmdt", "set_tid_address", "prctl",
}  # fmt: skip
"""Calls with which a program cannot go on, or that have ENOSYS for arguments of their own."""


def test_the_table_of_files_says_where_each_call_is() -> None:
    """A call that moves, a new one, or one in a new file that is not in the table would be ENOSYS."""
    found = {}
    for path in Path(syscalls.__file__).parent.glob("*.py"):
        numbers = re.findall(r'^@\w+\((\d+), "', path.read_text(), re.MULTILINE)
        if numbers:
            found[path.stem] = sorted(map(int, numbers))
    assert {name: sorted(numbers) for name, numbers in FILES.items()} == found


def test_the_page_is_what_the_table_says() -> None:
    assert PAGE.read_text() == page(), "tools/syscall_page.py --update"
    assert PARTIAL.keys() <= {row.name for row in rows() if row.state == "partial"}


def test_what_is_refused_is_refused_and_nothing_else(tmp_path: Path) -> None:
    asked = [row for row in rows() if row.name not in _ENDS_OR_WAITS]
    numbers = ", ".join(str(row.number) for row in asked)
    (tmp_path / "a.c").write_text(
        "#include <errno.h>\n#include <stdio.h>\n#include <unistd.h>\n#include <sys/syscall.h>\n"
        f"static const int numbers[] = {{{numbers}}};\n"
        "int main(void) {\n    for (unsigned i = 0; i < sizeof numbers / sizeof *numbers; i++) {\n"
        "        long r = syscall(numbers[i], -1L, 1L, -1L, -1L, -1L, -1L);\n"
        '        dprintf(1, "%d %d\\n", numbers[i], r == -1 ? errno : 0);\n    }\n    return 0;\n}\n'
    )
    subprocess.run(["gcc", "-w", "-o", "a", "a.c"], cwd=tmp_path, check=True)
    words = [sys.executable, "-m", "emu", "run", "./a"]
    done = subprocess.run(
        words, cwd=tmp_path, check=True, timeout=100, text=True, capture_output=True, stdin=subprocess.DEVNULL
    )
    told = {int(number): int(error) for number, error in map(str.split, done.stdout.splitlines())}
    assert told.keys() == {row.number for row in asked}
    lies = [row.name for row in asked if (told[row.number] == errno.ENOSYS) != (row.state == "refused")]
    assert not lies
