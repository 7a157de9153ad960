"""The guest's root directory, as the user names it and before a dynamic program relies on it. A run at `/`
loads nothing of this.
"""

from __future__ import annotations

import os


def named_sysroot(word: str) -> str:
    """Return the folder that `--sysroot WORD` means: a folder, or a name that `emu sysroot` keeps. Raises
    SysrootError.
    """
    if os.path.isdir(word):
        return word
    from emu.sysroot import store

    return store.resolve(word)


def check_sysroot(root: str) -> None:
    """Raise SysrootError where `root` is another system, but none that a dynamic program can run in."""
    if os.path.realpath(root) != "/":
        from emu.sysroot.inspect import inspect

        inspect(root)
