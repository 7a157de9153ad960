"""Whether stacks may be executed: by what the program asks for, by the tunable glibc.rtld.execstack (since
2.41), by objects that come later.

Source: glibc elf/dl-execstack-tunable.c, elf/dl-load.c:_dl_map_object_from_fd; NEWS 2.41.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from emu.core.errors import LinkError, LoaderError
from emu.elf import constants as c
from emu.rtld.tls_surplus import tunable

if TYPE_CHECKING:
    from emu.elf.header import Phdr
    from emu.rtld.rtld import Rtld

_NEVER, _AS_ASKED, _ALWAYS = 0, 1, 2


def asks(phdrs: list[Phdr]) -> bool:
    """Whether an object with these program headers asks for executable stacks: one that says nothing does."""
    return next((bool(p.flags & c.PF_X) for p in phdrs if p.type == c.PT_GNU_STACK), True)


def begin(rtld: Rtld, program: list[Phdr]) -> None:
    """Decide about the first stack, as Linux has made it for the program.

    Raises LinkError where the tunable forbids what it asks for.
    """
    rtld.executable_stack = asks(program)
    mode = _mode(rtld)
    if mode == _NEVER and rtld.executable_stack:
        raise LinkError("Fatal glibc error: executable stack is not allowed")
    if mode == _ALWAYS and not rtld.executable_stack:
        _allow(rtld)


def require(rtld: Rtld, phdrs: list[Phdr], name: str) -> None:
    """Make stacks executable for a new object that asks for it.

    Raises LoaderError where that may not be any more.
    """
    if rtld.executable_stack or not asks(phdrs):
        return
    if rtld.rules.dlopen_keeps_stack and (rtld.started or _mode(rtld) == _NEVER):
        raise LoaderError(name, "cannot enable executable stack as shared object requires", errno.EINVAL)
    _allow(rtld)


def _allow(rtld: Rtld) -> None:
    rtld.executable_stack = True
    rtld.make_stacks_executable()


def _mode(rtld: Rtld) -> int:
    if not rtld.rules.dlopen_keeps_stack:
        return _AS_ASKED
    mode = tunable(rtld.env.get("GLIBC_TUNABLES", ""), "glibc.rtld.execstack", _AS_ASKED, _NEVER)
    return mode if mode <= _ALWAYS else _AS_ASKED
