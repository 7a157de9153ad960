"""Stacks on which code may run: for objects that ask for it.

Source: glibc sysdeps/unix/sysv/linux/dl-execstack.c, nptl/nptl-stack.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.elf import constants as c

if TYPE_CHECKING:
    from emu.glibc.contract import Contract

_PROT_READ, _PROT_WRITE, _PROT_EXEC = 1, 2, 4
_RWX = _PROT_READ | _PROT_WRITE | _PROT_EXEC


def note_stack_flags(contract: Contract) -> None:
    """Write what libc is to make new stacks: PF_ bits, since 2.43 PROT_ bits."""
    rtld, mirror = contract.rtld, contract.mirror
    main = rtld.namespaces[0].maps[0]
    flags = next((p.flags for p in main.phdrs if p.type == c.PT_GNU_STACK), c.PF_R | c.PF_W | c.PF_X)
    flags |= c.PF_X if rtld.executable_stack else 0
    if contract.layout.has("rtld_global", "_dl_stack_flags"):
        mirror.set_global("_dl_stack_flags", flags, 4)
        return
    pairs = ((c.PF_R, _PROT_READ), (c.PF_W, _PROT_WRITE), (c.PF_X, _PROT_EXEC))
    mirror.set_global("_dl_stack_prot_flags", sum(prot for bit, prot in pairs if flags & bit), 4)


def make_stacks_executable(contract: Contract) -> None:
    """Let code run on every stack, now and later."""
    space, arena, mirror = contract.space, contract.arena, contract.mirror
    for area in list(space):
        if area.name == "[stack]":
            space.mprotect(area.start, area.end - area.start, _RWX)
    if not contract.rtld.started:
        return
    note_stack_flags(contract)
    at = contract.layout.offsets("pthread")
    for thread in mirror.stacks("_dl_stack_used", "_dl_stack_cache"):
        block = arena.read_u64(thread + at["stackblock"])
        start = block + arena.read_u64(thread + at["guardsize"])
        end = block + arena.read_u64(thread + at["stackblock_size"])
        if block:
            space.mprotect(start, end - start, _RWX)
