"""What libc's pthread_create asks of ld.so: TLS for a thread, its return, executable stacks.

The DTV and the blocks of dynamic modules come from the program's malloc, and libc itself frees what the
DTV's `to_free` points to when it reuses a cached stack (nptl/allocatestack.c:get_cached_stack).

Source: glibc elf/dl-tls.c; sysdeps/unix/sysv/linux/dl-execstack.c:__nptl_change_stack_perm.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from emu.core.effects import Hosted, SystemCall

if TYPE_CHECKING:
    from emu.glibc.call import HostedCall
    from emu.glibc.contract import Contract

_SYS_MPROTECT = 10
_READ_WRITE_EXECUTE = 7
_DTV = 8
"""Where the TCB has its DTV pointer."""


def allocate_tls(contract: Contract, call: HostedCall) -> Hosted:
    """`_dl_allocate_tls(mem)`: DTV and static TLS for a new thread, 0 if there is no memory; `mem`, if any,
    is the TCB's place on the thread's own stack.
    """
    tls = contract.rtld.tls
    tcb = call.args[0] or tls.allocate_thread()
    if not (yield from tls.allocate_dtv(tcb)):
        return 0
    yield from tls.initialise_thread(tcb)
    tls.tell("tcb ready", tcb)
    contract.mirror.descriptors[tcb] = None
    return tcb


def allocate_tls_init(contract: Contract, call: HostedCall) -> Hosted:
    """`_dl_allocate_tls_init(tcb, init_tls)`: give a reused stack's TLS its first values again."""
    tcb = call.args[0]
    if tcb:
        yield from contract.rtld.tls.initialise_thread(tcb)
    return tcb


def deallocate_tls(contract: Contract, call: HostedCall) -> Hosted:
    """`_dl_deallocate_tls(tcb, dealloc_tcb)`: take back the dynamic blocks, the DTV, and the TCB where it
    was ours.
    """
    tcb, rtld, arena = call.args[0], contract.rtld, contract.arena
    rtld.tls.tell("tcb freed", tcb, value=call.args[1] & 1)
    contract.mirror.descriptors.pop(tcb, None)
    dtv = arena.read_u64(tcb + _DTV)
    if rtld.owed.active:
        for index in range(1, arena.read_u64(dtv - 16) + 1):
            block = arena.read_u64(dtv + 16 * index + 8)
            if block:
                rtld.tls.tell("block freed", tcb, index, block)
            if block or rtld.owed.interposed:
                yield from rtld.owed.call(b"free", block)
        if not rtld.heap.free(dtv - 16):
            yield from rtld.owed.call(b"free", dtv - 16)
    if call.args[1] & 1:
        rtld.heap.free(tcb + rtld.tls.tcb_size - rtld.tls.static_size)
    return 0


def change_stack_perm(contract: Contract, call: HostedCall) -> Hosted:
    """`__nptl_change_stack_perm(pd)`: make a thread's stack executable; returns 0 or an errno."""
    at = contract.layout.offset("pthread", "stackblock")
    block, size, guard = struct.unpack("<3Q", contract.arena.read(call.args[0] + at, 24))
    result = yield SystemCall(_SYS_MPROTECT, (block + guard, size - guard, _READ_WRITE_EXECUTE))
    return -result
