"""What libc's pthread_create asks of ld.so: TLS for a thread, its return, executable stacks.

The DTV and the blocks of dynamic modules come from the loader's heap, whereas natively they come from malloc, and libc itself frees
what the DTV's `to_free` points to when it reuses a cached stack (nptl/allocatestack.c:get_cached_stack). So `to_free` stays zero here, and
`Tls.dynamic_blocks` says what belongs to which thread.

Source: glibc elf/dl-tls.c; sysdeps/unix/sysv/linux/dl-execstack.c:__nptl_change_stack_perm.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from emu.core.effects import Hosted, SystemCall

if TYPE_CHECKING:
    from emu.glibc.call import Call
    from emu.glibc.contract import Contract

_SYS_MPROTECT = 10
_READ_WRITE_EXECUTE = 7
_DTV = 8
"""Where the TCB has its DTV pointer."""


def allocate_tls(contract: Contract, call: Call) -> int:
    """`_dl_allocate_tls(mem)`: DTV and static TLS for a new thread; `mem`, if any, is the TCB's place on the thread's own stack."""
    tls = contract.rtld.tls
    tcb = call.args[0] or tls.allocate_thread()
    if call.args[0]:
        tls.allocate_dtv(tcb)
    tls.initialise_thread(tcb)
    return tcb


def allocate_tls_init(contract: Contract, call: Call) -> int:
    """`_dl_allocate_tls_init(tcb, init_tls)`: give a reused stack's TLS its first values again."""
    tcb = call.args[0]
    if tcb:
        release_blocks(contract, tcb)
        tls, arena = contract.rtld.tls, contract.arena
        dtv = arena.read_u64(tcb + _DTV)
        if arena.read_u64(dtv - 16) < tls.max_dtv_idx:
            contract.rtld.heap.free(dtv - 16)
            tls.allocate_dtv(tcb)
        tls.initialise_thread(tcb)
    return tcb


def deallocate_tls(contract: Contract, call: Call) -> int:
    """`_dl_deallocate_tls(tcb, dealloc_tcb)`: take back the dynamic blocks, the DTV, and the TCB where it was ours."""
    tcb, tls, heap = call.args[0], contract.rtld.tls, contract.rtld.heap
    release_blocks(contract, tcb)
    heap.free(contract.arena.read_u64(tcb + _DTV) - 16)
    if call.args[1] & 1:
        heap.free(tcb + tls.tcb_size - tls.static_size)
    return 0


def release_blocks(contract: Contract, tcb: int) -> None:
    """Free the blocks of dynamic modules that a thread has."""
    for block in contract.rtld.tls.dynamic_blocks.pop(tcb, {}).values():
        contract.rtld.heap.free(block)


def change_stack_perm(contract: Contract, call: Call) -> Hosted:
    """`__nptl_change_stack_perm(pd)`: make a thread's stack executable; returns 0 or an errno."""
    at = contract.layout.offset("pthread", "stackblock")
    block, size, guard = struct.unpack("<3Q", contract.arena.read(call.args[0] + at, 24))
    result = yield SystemCall(_SYS_MPROTECT, (block + guard, size - guard, _READ_WRITE_EXECUTE))
    return -result
