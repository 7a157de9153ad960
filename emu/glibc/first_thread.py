"""The main thread as libc's thread library knows it:
its descriptor (the TCB), the lists of stacks, and what the kernel is told of it.

Source: glibc sysdeps/nptl/dl-tls_init_tp.c:__tls_init_tp.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Generator
from typing import TYPE_CHECKING

from emu.core.effects import Effect, SystemCall
from emu.core.errors import LinkError, UnsupportedError
from emu.glibc.execstack import note_stack_flags
from emu.glibc.libpthread import set_pointers
from emu.glibc.probe import find_own
from emu.glibc.rseq import register_rseq

if TYPE_CHECKING:
    from emu.glibc.contract import Contract, StartInfo
    from emu.rtld.rtld import Rtld

_AT_RANDOM = 25
_SYS_ARCH_PRCTL, _SYS_SET_TID_ADDRESS, _SYS_SET_ROBUST_LIST = 158, 218, 273
_ARCH_SET_FS = 0x1002
_STACK_LISTS = ("_dl_stack_used", "_dl_stack_user", "_dl_stack_cache")
_POINTER_GUARD = 0x30
"""Where the TCB has it: the psABI's place, which compiled code knows."""
_ROBUST_LIST_HEAD_SIZE = 24
_THREAD_STATE_JOINABLE = 2
_ALLOCATE_GUARD_USER = 2
"""The `stack_mode` of a stack that libc has not made."""
_INITIALISED = re.compile(rb"\x80\x3d(....)\x00", re.DOTALL)
"""cmpb $0, __rtld_tls_init_tp_called(%rip)"""


def prepare_stack_lists(contract: Contract) -> None:
    """The lists of thread stacks must be circular before the first thread enters one."""
    for name in _STACK_LISTS:
        if contract.layout.has("rtld_global", name):
            head = contract.mirror.global_address(name)
            contract.arena.write(head, struct.pack("<QQ", head, head))
    set_pointers(contract)
    note_stack_flags(contract)
    contract.mirror.set_global("_dl_nns", 1)
    contract.mirror.set_global("_dl_load_adds", contract.rtld.load_adds)


def pointer_guard(rtld: Rtld, thread: int) -> int:
    """Return where the word lies that PTR_MANGLE xors with: ld.so's, or the thread's, as up to 2.43."""
    assert rtld.ld_so is not None
    symbol = find_own(rtld.ld_so, b"__pointer_chk_guard")
    return rtld.ld_so.addr + symbol.value if symbol is not None else thread + _POINTER_GUARD


def first_thread(contract: Contract, info: StartInfo) -> Generator[Effect, int, None]:
    """Make the TCB of the main thread and tell the kernel of it, as `__tls_init_tp` does."""
    arena, rtld = contract.arena, contract.rtld
    try:
        thread = rtld.tls.allocate_thread()
        yield from rtld.tls.allocate_dtv(thread)
    except OSError:
        raise LinkError("cannot allocate TLS data structures for initial thread") from None
    rtld.tls.tell("tcb", thread)
    at = contract.layout.offsets("pthread")
    arena.write_u64(thread, thread)
    arena.write_u64(thread + 16, thread)
    random = arena.read(info.auxv[_AT_RANDOM], 16)
    arena.write(thread + at["header.stack_guard"], b"\0" + random[1:8])
    arena.write(pointer_guard(rtld, thread), random[8:16])
    contract.mirror.set_global("_dl_initial_dtv", arena.read_u64(thread + 8))
    yield SystemCall(_SYS_ARCH_PRCTL, (_ARCH_SET_FS, thread))
    tid = yield SystemCall(_SYS_SET_TID_ADDRESS, (thread + at.get("joinstate", at["tid"]),))
    if "joinstate" in at:
        arena.write_u32(thread + at["joinstate"], _THREAD_STATE_JOINABLE)
    arena.write_u32(thread + at["tid"], tid)
    arena.write_u64(thread + at["specific[]"], thread + at["specific_1stblock"])
    if "user_stack" in at:
        arena.write(thread + at["user_stack"], b"\1")
    else:
        arena.write_u32(thread + at["stack_mode"], _ALLOCATE_GUARD_USER)
    contract.mirror.descriptors[thread] = None
    if contract.layout.has("rtld_global", "_dl_stack_user"):
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
    yield from register_rseq(contract, thread)
    if "rtld_catch" in at:
        _begin_catching(contract)


def _begin_catching(contract: Contract) -> None:
    """Let ld.so's catch keep its state in the thread's descriptor,
    which it does once it knows that there is one (2.37 and later).
    """
    ld_so = contract.rtld.ld_so
    assert ld_so is not None
    catch = find_own(ld_so, b"_dl_catch_exception")
    code = contract.arena.read(ld_so.addr + catch.value, catch.size) if catch is not None else b""
    test = _INITIALISED.search(code)
    if catch is None or test is None:
        raise UnsupportedError("code of _dl_catch_exception: its flag was not found", ld_so.display_name)
    after = ld_so.addr + catch.value + test.end()
    contract.arena.write(after + struct.unpack("<i", test[1])[0], b"\1")
