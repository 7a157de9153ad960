"""A process that runs emu again and again: it imports the emulator once and forks for each run.

A request is a line of JSON, [folder, arguments of emu]; the answer is one too, [exit code, output, standard
error].
"""

from __future__ import annotations

import importlib
import json
import os
import sys

#: What a run would import besides the command line.
_PRELOAD = ("emu.cli.main", "emu.cli.run", "emu.process")


def run(folder: str, arguments: list[str]) -> tuple[int, str, str]:
    """Run one emu in a child; return its exit code and both outputs."""
    files = [os.memfd_create("output"), os.memfd_create("errors")]
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(files[0], 1)
        os.dup2(files[1], 2)
        os.chdir(folder)
        sys.argv = ["emu", *arguments]
        from emu.cli.main import main

        try:
            main()
        finally:
            # As the interpreter would, but without what belongs to the parent.
            sys.stdout.flush()
            sys.stderr.flush()
            failure = sys.exc_info()[1]
            if isinstance(failure, SystemExit):
                os._exit(failure.code if isinstance(failure.code, int) else 1)
            sys.excepthook(*sys.exc_info())
            sys.stderr.flush()
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    texts = []
    for file in files:
        os.lseek(file, 0, os.SEEK_SET)
        with os.fdopen(file, "rb") as stream:
            texts.append(stream.read().decode(errors="backslashreplace"))
    return (status if status >= 0 else 128 - status), texts[0], texts[1]


def main() -> None:
    """Serve until standard input ends."""
    for name in _PRELOAD:
        importlib.import_module(name)
    for line in sys.stdin:
        print(json.dumps(run(*json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
