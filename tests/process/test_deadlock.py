"""The report of a deadlock in the loader: its lock by name, who holds it and for
what, and how every thread got there.
"""

from __future__ import annotations

import re
import subprocess

import pytest

from tests import support
from tools import fixtures


def test_the_loaders_lock_is_named_with_its_holder() -> None:
    folder = fixtures.build("thread-loader-lock")
    done = support.emu("run", "./main", "sym", cwd=folder)
    said = done.stderr.decode()
    assert (done.exit, done.stdout) == (125, b"plugin: initialising\n")
    for pattern in (
        r"^  thread 1000 \(main\) waits on a futex at 0x\w+ \(settings in ./main\), held by thread 1001 \(main\)$",
        r"^  thread 1001 \(main\) waits for the dynamic loader's lock \(_dl_load_lock\), held by thread 1000 \(main\) in dlopen of ./plugin.so "
        r"\(main \(.*/main.cc:38\)\), which runs _GLOBAL__sub_I_\w+.* \(.*/plugin.cc:\d+\) of ./plugin.so, and that waits on a futex",
    ):
        assert re.search(pattern, said, re.MULTILINE), said
    first, second = said.split("  thread 1001 ")
    frames = re.findall(r"#\d+ (\S+)", first)
    assert [
        frame
        for frame in frames
        if frame in ("lock_settings()", "Init::Init()", "_dl_open", "dlopen", "main")
    ] == ["lock_settings()", "Init::Init()", "_dl_open", "dlopen", "main"]
    # libc's debug symbols have both names, or one of them.
    names = [name.lstrip("_") for name in re.findall(r"#\d+ (\S+)", second)]
    assert names[-3:] == ["worker(void*)", "start_thread", "clone3"]


def test_natively_it_hangs() -> None:
    folder = fixtures.build("thread-loader-lock")
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(["./main", "sym"], cwd=folder, capture_output=True, timeout=1, check=False)
