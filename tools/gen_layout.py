#!/usr/bin/env python3
"""Write the layout table of a libc into `emu/glibc/layouts/`, named by its release
and the sizes of its two structures.

    tools/gen_layout.py             # the system's libc, with its debug files (package libc6-dbg)
    tools/gen_layout.py DIR...      # those of unpacked systems

`emu layout` does the work; a table that is kept here serves everybody whose libc is laid out alike.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

LAYOUTS = Path(__file__).resolve().parent.parent / "emu" / "glibc" / "layouts"


def main() -> int:
    """The command; the exit code of the first `emu layout` that fails."""
    for root in sys.argv[1:] or ["/"]:
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "table.json"
            done = subprocess.run(
                [sys.executable, "-m", "emu", "layout", "--sysroot", root, "-o", str(made)], check=False
            )
            if done.returncode:
                return done.returncode
            text = made.read_text()
        table = json.loads(text)
        sizes = (str(table["structures"][name]["size"]) for name in ("rtld_global", "rtld_global_ro"))
        path = LAYOUTS / f"{'-'.join((table['version'], *sizes))}.json"
        path.write_text(text)
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
