"""Restartable sequences: the area that each thread registers, and where programs find it.

Up to 2.40 it is a member of `struct pthread`, since 2.41 a block of its own in the static TLS, behind all
modules.

Source: glibc sysdeps/unix/sysv/linux/rseq-internal.h, dl-rseq.h; nptl/pthread_create.c.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from emu.core.effects import Effect, SystemCall
from emu.glibc.probe import find_own

if TYPE_CHECKING:
    from emu.glibc.contract import Contract

_SYS_RSEQ = 334
_RSEQ_SIG = 0x53053053
_AREA = 32
_RSEQ_USED = 20
"""What __rseq_size says of the area in `struct pthread` (rseq-internal.h: RSEQ_AREA_SIZE_INITIAL_USED), and
the least that it says of another.
"""
_AT_RSEQ_FEATURE_SIZE, _AT_RSEQ_ALIGN = 27, 28
_CPU_ID = 4
_UNREGISTERED, _FAILED = -1, -2
_U32, _U64 = (1 << 32) - 1, (1 << 64) - 1


def extra_tls(contract: Contract) -> tuple[int, int]:
    """Return size and alignment of the block that static TLS needs for rseq, (0, 1) where that has its place
    in `struct pthread` or is not known.
    """
    ld_so = contract.rtld.ld_so
    inside = contract.layout.has("pthread", "rseq_area")
    if inside or ld_so is None or find_own(ld_so, b"__rseq_offset") is None:
        return 0, 1
    align = max(contract.info.auxv.get(_AT_RSEQ_ALIGN, 0), _AREA)
    used = max(contract.info.auxv.get(_AT_RSEQ_FEATURE_SIZE, 0), _RSEQ_USED)
    return -(-used // align) * align, align


def register_rseq(contract: Contract, thread: int) -> Generator[Effect, int, None]:
    """Register the main thread's area and publish where it is."""
    rtld, arena, layout = contract.rtld, contract.arena, contract.layout
    assert rtld.ld_so is not None
    size, offset = (find_own(rtld.ld_so, name) for name in (b"__rseq_size", b"__rseq_offset"))
    if size is None or offset is None:
        return
    inside = layout.has("pthread", "rseq_area")
    at = layout.offset("pthread", "rseq_area") if inside else rtld.tls.extra_offset
    features = 0 if inside else contract.info.auxv.get(_AT_RSEQ_FEATURE_SIZE, 0)
    length = _AREA if inside else extra_tls(contract)[0]
    disabled = "glibc.pthread.rseq=0" in rtld.env.get("GLIBC_TUNABLES", "").split(":")
    result = -1 if disabled else (yield SystemCall(_SYS_RSEQ, (thread + at, length, 0, _RSEQ_SIG)))
    if result == 0:
        arena.write_u32(rtld.ld_so.addr + size[4], max(features, _RSEQ_USED))
    else:
        arena.write_u32(thread + at + _CPU_ID, (_FAILED if disabled else _UNREGISTERED) & _U32)
    arena.write_u64(rtld.ld_so.addr + offset[4], at & _U64)
