"""Standard descriptors that are closed, or take nothing."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import compile_c
from tools import fixtures


@pytest.mark.parametrize("words", [("ldd", "./main"), ("maps", "./main"), ("tour",), ("--help",)])
def test_output_that_cannot_be_written_is_one_line(words: tuple[str, ...], built_fixtures: object) -> None:
    command = shlex.join([sys.executable, "-m", "emu", *words])
    for where, why in ((">&-", "Bad file descriptor"), ("> /dev/full", "No space left on device")):
        done = _shell(f"{command} {where}")
        assert (done.returncode, done.stderr) == (125, f"emu: standard output: {why}\n")


def test_closed_descriptors_are_the_guest_s_too(tmp_path: Path) -> None:
    (tmp_path / "main.c").write_text(_DESCRIPTORS)
    compile_c(tmp_path, "-o", "main", "main.c")
    for closed in ("", "<&-", ">&-", "2>&-", "<&- >&- 2>&-"):
        native = _shell(f"{tmp_path}/main {closed}")
        guest = _shell(f"{shlex.quote(sys.executable)} -m emu run {tmp_path}/main {closed}")
        assert guest.returncode == native.returncode, closed


_DESCRIPTORS = """
#include <fcntl.h>
#include <unistd.h>
int main(void) {
    int open_ones = 0;
    for (int fd = 0; fd < 10; fd++) open_ones |= (fcntl(fd, F_GETFD) != -1) << fd;
    return open_ones | (write(1, "", 0) == 0) << 4 | (open("/dev/null", O_RDWR) & 3) << 5;
}
"""


def _shell(command: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(fixtures.ROOT)}
    return subprocess.run(
        ["bash", "-c", command],
        cwd=fixtures.CACHE / "tls-dsos",
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
