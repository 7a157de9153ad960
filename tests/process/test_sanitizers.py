"""Programs built with sanitizers: the reports are those of the native run, but
for addresses and process ids.
"""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

_HEAP = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int *global[4];
int main(int argc, char **argv) {
    char *p = malloc(10), stack[16];
    memset(stack, 0, sizeof stack);
    puts("begun");
    fflush(stdout);
    switch (argv[1][0]) {
        case 'o': p[10] = 1; break;
        case 'f': free(p); return p[1];
        case 's': stack[argc + 14] = 1; break;
        case 'd': free(p); break;
        case 'g': global[argc + 2] = 0; break;
    }
    free(p);
    puts("ended");
    return 0;
}
"""
_UNDEFINED = r"""
#include <limits.h>
#include <stdio.h>
int main(int argc, char **argv) {
    int sum = INT_MAX, numbers[3] = {1, 2, 3};
    sum += argc;
    printf("%d %d %d\n", sum, 1 << (30 + argc), numbers[argc]);
    return 0;
}
"""
_RACE = r"""
#include <pthread.h>
#include <stdio.h>
int shared;
void *add(void *given) { shared++; return given; }
int main(void) {
    pthread_t thread;
    pthread_create(&thread, NULL, add, NULL);
    shared++;
    pthread_join(thread, NULL);
    puts("ended");
    return 0;
}
"""
_NO_LEAKS = {"ASAN_OPTIONS": "detect_leaks=0", "PATH": "/usr/bin:/bin"}


def _plain(text: str) -> str:
    """Leave out what differs from run to run natively:
    addresses, and the shadow that is shown around them.
    """
    text = re.sub(r"0x[0-9a-f]+|\b(pid|tid)=\d+|==\d+==", "N", text)
    return "\n".join(line for line in text.splitlines() if not line.startswith(("emu: ", "  N:", "=>N:")))


def _judge(folder: Path, source: str, flag: str, *words: str) -> str:
    (folder / "a.c").write_text(source)
    subprocess.run(["gcc", "-w", "-g", f"-fsanitize={flag}", "-o", "a", "a.c"], cwd=folder, check=True)
    there, here = (
        subprocess.run(
            [*command, "./a", *words], cwd=folder, capture_output=True, text=True, timeout=100, env=_NO_LEAKS
        )
        for command in ([], [sys.executable, "-m", "emu", "run"])
    )
    assert (here.returncode, here.stdout) == (there.returncode, there.stdout)
    assert _plain(here.stderr) == _plain(there.stderr)
    return there.stderr


@pytest.mark.parametrize("how", ["overflow", "freed", "stack", "double", "global", "nothing"])
def test_address_sanitizer(how: str, tmp_path: Path) -> None:
    told = _judge(tmp_path, _HEAP, "address", how)
    assert ("ERROR: AddressSanitizer" in told) == (how != "nothing")


def test_undefined_behaviour_sanitizer(tmp_path: Path) -> None:
    assert "signed integer overflow" in _judge(tmp_path, _UNDEFINED, "undefined")


def test_thread_sanitizer(tmp_path: Path) -> None:
    (tmp_path / "a.c").write_text(_RACE)
    subprocess.run(["gcc", "-w", "-g", "-fsanitize=thread", "-o", "a", "a.c"], cwd=tmp_path, check=True)
    words = [sys.executable, "-m", "emu", "run", "./a"]
    here = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    compiler = subprocess.run(["gcc", "-dumpversion"], capture_output=True, text=True, check=True)
    if (
        int(compiler.stdout.partition(".")[0]) >= 14
    ):  # its heap and shadow lie elsewhere, where emu has no memory
        assert (here.returncode, here.stdout) == (139, "")
        assert "at 0x730000000000 is not supported: no memory of emu lies there" in here.stderr
        return
    assert (here.returncode, here.stdout) == (66, "ended\n")
    assert "WARNING: ThreadSanitizer: data race" in here.stderr
    assert "Location is global 'shared' of size 4" in here.stderr


_LEAK = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
char *kept;
__attribute__((noinline)) void lose(int size) { memset(malloc(size), 1, size); }
int main(int argc, char **argv) {
    kept = malloc(5);
    if (argc > 1) lose(10), lose(20), memset(__builtin_alloca(4000), 0, 4000);
    puts("ended");
    return 0;
}
"""


@pytest.mark.parametrize("flag", ["address", "leak"])
def test_leak_sanitizer(flag: str, tmp_path: Path) -> None:
    (tmp_path / "a.c").write_text(_LEAK)
    subprocess.run(["gcc", "-w", "-g", f"-fsanitize={flag}", "-o", "a", "a.c"], cwd=tmp_path, check=True)
    words = [sys.executable, "-m", "emu", "run", "./a"]
    clean = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert (clean.returncode, clean.stdout, clean.stderr) == (0, "ended\n", "")
    lost = subprocess.run([*words, "1"], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert lost.returncode == (1 if flag == "address" else 23)
    assert "Direct leak of 20 byte(s) in 1 object(s)" in lost.stderr
    assert "30 byte(s) leaked in 2 allocation(s)" in lost.stderr
