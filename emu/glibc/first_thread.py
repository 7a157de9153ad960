"""The main thread as libc's thread library knows it: its descriptor (the TCB), the lists of stacks, and what the kernel is told of it.

Source: glibc sysdeps/nptl/dl-tls_init_tp.c:__tls_init_tp, sysdeps/unix/sysv/linux/rseq-internal.h.
"""

from __future__ import annotations

import struct
from collections.abc import Generator
from typing import TYPE_CHECKING

from emu.core.effects import Effect, SystemCall
from emu.elf import constants as c
from emu.glibc.probe import find_own

if TYPE_CHECKING:
    from emu.glibc.contract import Contract, StartInfo

_AT_RANDOM = 25
_SYS_ARCH_PRCTL, _SYS_SET_TID_ADDRESS, _SYS_SET_ROBUST_LIST, _SYS_RSEQ = 158, 218, 273, 334
_ARCH_SET_FS = 0x1002
_RSEQ_SIG = 0x53053053
_RSEQ_USED = 20
"""What __rseq_size says of an area of 32 bytes (rseq-internal.h: RSEQ_AREA_SIZE_INITIAL_USED)."""
_ROBUST_LIST_HEAD_SIZE = 24


def prepare_stack_lists(contract: Contract) -> None:
    """The lists of thread stacks must be circular before the first thread enters one."""
    for name in ("_dl_stack_used", "_dl_stack_user", "_dl_stack_cache"):
        head = contract.mirror.global_address(name)
        contract.arena.write(head, struct.pack("<QQ", head, head))
    main = contract.rtld.namespaces[0].maps[0]
    flags = next((p.flags for p in main.phdrs if p.type == c.PT_GNU_STACK), 7)
    contract.mirror.set_global(
        "_dl_stack_flags", flags | (c.PF_X if contract.rtld.executable_stack else 0), 4
    )
    contract.mirror.set_global("_dl_nns", 1)
    contract.mirror.set_global("_dl_load_adds", contract.rtld.load_adds)


def first_thread(contract: Contract, info: StartInfo) -> Generator[Effect, int, None]:
    """Make the TCB of the main thread and tell the kernel of it, as `__tls_init_tp` does."""
    arena, rtld = contract.arena, contract.rtld
    thread = rtld.tls.allocate_thread()
    at = contract.layout.offsets("pthread")
    arena.write_u64(thread, thread)
    arena.write_u64(thread + 16, thread)
    random = arena.read(info.auxv[_AT_RANDOM], 16)
    arena.write(thread + at["header.stack_guard"], b"\0" + random[1:8])
    arena.write(thread + at["header.pointer_guard"], random[8:16])
    contract.mirror.set_global("_dl_initial_dtv", arena.read_u64(thread + 8))
    yield SystemCall(_SYS_ARCH_PRCTL, (_ARCH_SET_FS, thread))
    tid = yield SystemCall(_SYS_SET_TID_ADDRESS, (thread + at["tid"],))
    arena.write_u32(thread + at["tid"], tid)
    arena.write_u64(thread + at["specific[]"], thread + at["specific_1stblock"])
    arena.write(thread + at["user_stack"], b"\1")
    users = contract.mirror.global_address("_dl_stack_user")
    node = thread + at["list"]
    arena.write(node, struct.pack("<QQ", users, users))
    arena.write(users, struct.pack("<QQ", node, node))
    robust = thread + at["robust_head"]
    arena.write_u64(thread + at["robust_prev"], robust)
    futex_offset = 0xFFFFFFE0  # offsetof (pthread_mutex_t, __lock) minus that of its list node: -32
    arena.write(robust, struct.pack("<QqQ", robust, futex_offset - (1 << 32), 0))
    yield SystemCall(_SYS_SET_ROBUST_LIST, (robust, _ROBUST_LIST_HEAD_SIZE))
    arena.write_u64(thread + at["stackblock_size"], info.stack_pointer)
    yield from _rseq(contract, thread)


def _rseq(contract: Contract, thread: int) -> Generator[Effect, int, None]:
    """Register the restartable-sequences area and publish where it is. Source: sysdeps/unix/sysv/linux/rseq-internal.h."""
    at = contract.layout.offsets("pthread").get("rseq_area")
    ld_so = contract.rtld.ld_so
    assert ld_so is not None
    size = find_own(ld_so, b"__rseq_size")
    offset = find_own(ld_so, b"__rseq_offset")
    if at is None or size is None or offset is None:
        return
    disabled = "glibc.pthread.rseq=0" in contract.rtld.env.get("GLIBC_TUNABLES", "").split(":")
    result = -1 if disabled else (yield SystemCall(_SYS_RSEQ, (thread + at, 32, 0, _RSEQ_SIG)))
    if result == 0:
        contract.arena.write_u32(ld_so.addr + size[4], _RSEQ_USED)
    else:
        contract.arena.write_u32(thread + at + 4, (-2 if disabled else -1) & 0xFFFFFFFF)
    contract.arena.write_u64(ld_so.addr + offset[4], at)
