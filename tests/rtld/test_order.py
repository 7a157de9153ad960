"""The order of constructors and destructors over dependency graphs:
ld.so's answer on real objects against ours.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_GRAPHS = [
    "main:a,b a:c b:c c:",
    "main:a a:b b:c c:a",
    "main:b,a a:b b:",
    "main:a,b,c a:b b:c c:b",
    "main:d,a a:b,c b:d c:d d:",
    "main:a,e a:b,c b:d c:d d:a e:c",
]


def _build(folder: Path, graph: str) -> Path:
    """Build the objects that the graph names, each printing its name; cycles are closed by linking twice."""
    nodes = {
        name: [d for d in deps.split(",") if d] for name, deps in (part.split(":") for part in graph.split())
    }
    for name in nodes:
        code = f'#include <stdio.h>\n__attribute__((constructor)) static void up(void) {{ printf("+{name}"); }}\n'
        code += f'__attribute__((destructor)) static void down(void) {{ printf("-{name}"); }}\n'
        (folder / f"{name}.c").write_text(code + ("int main(void) { return 0; }\n" if name == "main" else ""))
    libraries = [name for name in nodes if name != "main"]
    flags = ["-Wl,--no-as-needed", "-Wl,-rpath,$ORIGIN", "-L."]
    for linked in (False, True):
        for name in libraries:
            needed = [f"-lx{d}" for d in nodes[name]] if linked else []
            command = [
                "gcc",
                "-shared",
                "-fPIC",
                "-o",
                f"libx{name}.so",
                f"{name}.c",
                f"-Wl,-soname,libx{name}.so",
                *flags,
            ]
            subprocess.run([*command, *needed], cwd=folder, check=True)
    needed = [f"-lx{d}" for d in nodes["main"]]
    subprocess.run(["gcc", "-o", "main", "main.c", *flags, *needed], cwd=folder, check=True)
    return folder / "main"


@pytest.mark.parametrize("sort", [1, 2])
@pytest.mark.parametrize("graph", _GRAPHS)
def test_order_equals_ld_so(graph: str, sort: int, tmp_path: Path) -> None:
    main = _build(tmp_path, graph)
    env = {**os.environ, "GLIBC_TUNABLES": f"glibc.rtld.dynamic_sort={sort}"}
    native = subprocess.run([str(main)], env=env, capture_output=True, check=True)
    emulated = subprocess.run(
        [sys.executable, "-m", "emu", "run", str(main)], env=env, capture_output=True, check=True
    )
    assert native.stdout
    assert emulated.stdout == native.stdout
