"""Guard pages (Linux 6.13): which si_code an access has.

It is that of the area where the area forbids it, else SEGV_MAPERR.
"""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

from tests.support import compile_c, emu

if TYPE_CHECKING:
    from pathlib import Path

_SOURCE = r"""
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
static sigjmp_buf back;
static void handler(int number, siginfo_t *info, void *context) {
    (void)context;
    printf(" %d/%d", number, info->si_code);
    siglongjmp(back, 1);
}
int main(void) {
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigaction(SIGSEGV, &action, 0);
    for (int prot = 0; prot < 4; prot++) {
        volatile char *page = (char *)mmap(0, 12288, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) + 4096;
        printf("prot %d, %d:", prot, madvise((void *)page, 4096, 102));
        if (!sigsetjmp(back, 1)) (void)*page;
        if (!sigsetjmp(back, 1)) *page = 1;
        if (!sigsetjmp(back, 1)) ((void (*)(void))page)();
        puts("");
    }
}
"""
_SAID = b"prot 0, 0: 11/2 11/2 11/2\nprot 1, 0: 11/1 11/2 11/1\nprot 2, 0: 11/1 11/1 11/1\nprot 3, 0: 11/1 11/1 11/1\n"


def test_the_area_forbids_or_the_guard_page(tmp_path: Path) -> None:
    (tmp_path / "main.c").write_text(_SOURCE)
    compile_c(tmp_path, "-o", "main", "main.c")
    assert emu("run", "./main", cwd=tmp_path).stdout == _SAID
    if tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 13):
        assert subprocess.run(["./main"], cwd=tmp_path, capture_output=True, check=False).stdout == _SAID
