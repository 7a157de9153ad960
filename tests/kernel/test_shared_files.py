"""What a guest stores through a shared mapping of a host's file is in that file:
at msync, fsync, munmap and at the end.
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

_STORES = r"""
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
int main(int argc, char **argv) {
    int fd = open("db", O_RDWR), tell[2];
    char *map = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), line[8];
    memcpy(map + 4096, "stored", 6);
    switch (argv[1][0]) {
        case 'm': msync(map, 8192, MS_SYNC); break;
        case 'f': fsync(fd); break;
        case 'u': munmap(map, 8192); break;
        case 'e': return 0;
    }
    write(1, "done", 4);
    read(0, line, 1);
    return 0;
}
"""


@pytest.mark.parametrize("how", ["msync", "fsync", "unmap"])
def test_what_is_stored_reaches_the_host(how: str, tmp_path: Path) -> None:
    (tmp_path / "a.c").write_text(_STORES)
    subprocess.run(["gcc", "-w", "-o", "a", "a.c"], cwd=tmp_path, check=True)
    (tmp_path / "db").write_bytes(b"x" * 9000)
    words = [sys.executable, "-m", "emu", "run", "--writable", str(tmp_path), "./a"]
    expected = b"x" * 4096 + b"stored" + b"x" * (9000 - 4102)
    with subprocess.Popen(
        [*words, how], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as running:
        assert running.stdout is not None and running.stdin is not None
        assert running.stdout.read(4) == b"done"
        assert (tmp_path / "db").read_bytes() == expected
        running.stdin.close()
    (tmp_path / "db").write_bytes(b"x" * 9000)
    subprocess.run([*words, "end"], cwd=tmp_path, check=True)
    assert (tmp_path / "db").read_bytes() == expected
