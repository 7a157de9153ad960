"""The functions of ld.so that are hosted: what they are called with, what they give back.

Each handler gets a `HostedCall` (arguments as the psABI passes them) and returns rax, or a generator of
effects. `HOSTED_SYMBOLS` are entered by a trap planted at their own address in the mapped ld.so, so that
every pointer to them stays what it is natively; `HOSTED_POINTERS` are members of `_rtld_global_ro`.

Source: glibc elf/rtld.c (GLRO initialisers), elf/dl-support.c; the architecture page, "The contract with
libc".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from emu.core.effects import CallGuest, Hosted, Jump
from emu.core.errors import UnsupportedError
from emu.elf import constants as c
from emu.glibc import dlfcn, dlsym, threads
from emu.glibc.call import Handler, HostedCall
from emu.rtld.audit import preinit
from emu.rtld.audit_binding import pltexit, symbind_dlsym
from emu.rtld.fini import fini
from emu.rtld.found import symbol_of
from emu.rtld.runtime import fixup, profile_fixup

if TYPE_CHECKING:
    from emu.glibc.contract import Contract

_M64 = (1 << 64) - 1


def runtime_resolve(contract: Contract, call: HostedCall) -> Hosted:
    """Bind a PLT slot on its first call: the stack holds the link map, the slot's
    index, the caller's return address.
    """
    rtld = contract.rtld
    address, index = contract.arena.read_u64(call.rsp), contract.arena.read_u64(call.rsp + 8)
    target = yield from fixup(rtld, contract.link_map(address), index)
    yield Jump(target, pop=16)
    return 0


def runtime_profile(contract: Contract, call: HostedCall) -> Hosted:
    """`_dl_profile_fixup(link_map, index, caller, regs, framesize)`:
    where a call through a PLT slot goes, with auditors to hear of it.
    """
    rtld, args = contract.rtld, call.args
    return (yield from profile_fixup(rtld, contract.link_map(args[0]), args[1], args[3], args[4]))


def runtime_pltexit(contract: Contract, call: HostedCall) -> Hosted:
    """`_dl_audit_pltexit(link_map, index, regs, results)`: the call has come back."""
    rtld, args = contract.rtld, call.args
    map_ = contract.link_map(args[0])
    result = (map_.reloc_results or {}).get(args[1])
    if result is not None:
        yield from pltexit(rtld, map_, result, args[2], args[3])
    return 0


def audit_preinit(contract: Contract, call: HostedCall) -> Hosted:
    """`_dl_audit_preinit(link_map)`: libc is about to call `main`."""
    if contract.rtld.auditors:  # without any, ld.so does not look at its argument
        yield from preinit(contract.rtld, contract.link_map(call.args[0]))
    return 0


def audit_symbind_alt(contract: Contract, call: HostedCall) -> Hosted:
    """`_dl_audit_symbind_alt(link_map, symbol, void **value, definer)`: libc's dlsym has found something."""
    rtld, arena = contract.rtld, contract.arena
    map_, target = contract.link_map(call.args[0]), contract.link_map(call.args[3])
    index = (call.args[1] - target.addr - (target.dynamic.get(c.DT_SYMTAB) or 0)) // 24
    value = yield from symbind_dlsym(rtld, map_, symbol_of(target, index), arena.read_u64(call.args[2]))
    arena.write_u64(call.args[2], value)
    return 0


def tls_get_addr_slow(contract: Contract, call: HostedCall) -> Hosted:
    """`__tls_get_addr` when the DTV is old or the block not yet allocated."""
    module, offset = struct.unpack("<QQ", contract.arena.read(call.args[0], 16))
    return ((yield from contract.rtld.tls.block(contract.thread_pointer(), module)) + int(offset)) & _M64


def tlsdesc_slow(contract: Contract, call: HostedCall) -> Hosted:
    """A dynamic TLS descriptor's slow path: rax holds its argument (module, offset, generation)."""
    module, offset = struct.unpack("<QQ", contract.arena.read(call.rax, 16))
    thread = contract.thread_pointer()
    return ((yield from contract.rtld.tls.block(thread, module)) + int(offset) - thread) & _M64


def tls_get_addr_soft(contract: Contract, call: HostedCall) -> int:
    """`_dl_tls_get_addr_soft(link_map)`: the thread's block of a module, 0 if it has none yet."""
    if call.args[0] in contract.rtld.departed:
        return 0
    map_ = contract.link_map(call.args[0])
    return contract.rtld.tls.soft_block(contract.thread_pointer(), map_)


def find_dso_for_object(contract: Contract, call: HostedCall) -> int:
    """`_dl_find_dso_for_object(address)`: the link map that contains an address, or NULL."""
    map_ = contract.rtld.find_map(contract.caller(call.args[0]))
    return map_.address if map_ is not None else 0


def find_object(contract: Contract, call: HostedCall) -> int:
    """`_dl_find_object(pc, struct dl_find_object *)`: 0 and where the unwind table is, or -1.

    The stub page and the call page answer for themselves, so that unwinding passes through hosted frames.
    """
    address, result = call.args[0], call.args[1]
    rtld = contract.rtld
    main = rtld.namespaces[0].maps[0]
    for page, owner in ((contract.stubs, rtld.ld_so or main), (contract.call_page, main)):
        if page is not None and page.start <= address < page.end:
            fields = (0, page.start, page.end, owner.address, page.eh_frame_hdr)
            contract.arena.write(result, struct.pack("<5Q", *fields))
            return 0
    map_ = rtld.index.find_known(address)
    if map_ is None:
        return _M64
    header = next((map_.addr + p.vaddr for p in map_.phdrs if p.type == c.PT_GNU_EH_FRAME), 0)
    contract.arena.write(result, struct.pack("<5Q", 0, map_.map_start, map_.map_end, map_.address, header))
    return 0


def run_fini(contract: Contract, call: HostedCall) -> Hosted:
    """`_dl_fini()`, the oldest exit handler."""
    yield from fini(contract.rtld)
    return 0


def exception_create(contract: Contract, call: HostedCall) -> Hosted:
    """`_dl_exception_create(exception, objname, errstring)`:
    a copy of both strings in one block of the guest's malloc.
    """
    arena = contract.arena
    objname = arena.read_cstr(call.args[1]) if call.args[1] else b""
    return (yield from contract.errors.create(call.args[0], objname, arena.read_cstr(call.args[2])))


def exception_free(contract: Contract, call: HostedCall) -> Hosted:
    """`_dl_exception_free(exception)`."""
    return (yield from contract.errors.free(call.args[0]))


def error_free(contract: Contract, call: HostedCall) -> Hosted:
    """`_dl_error_free(message)`: libc gives back what came from ld.so's malloc, which is the program's."""
    if contract.linked:
        yield CallGuest(contract.guest_function(b"free"), (call.args[0],))
    return 0


def nothing(contract: Contract, call: HostedCall) -> int:
    """A function with nothing to do here."""
    return 0


def unsupported(name: str) -> Handler:
    """Return a handler that names what is missing."""

    def handler(contract: Contract, call: HostedCall) -> int:
        raise UnsupportedError(f"{name} (run-time loading)", contract.rtld.program)

    return handler


HOSTED_SYMBOLS: dict[bytes, Handler] = {
    b"_dl_allocate_tls": threads.allocate_tls,
    b"_dl_allocate_tls_init": threads.allocate_tls_init,
    b"_dl_deallocate_tls": threads.deallocate_tls,
    b"_dl_find_dso_for_object": find_dso_for_object,
    b"_dl_audit_preinit": audit_preinit,
    b"_dl_audit_symbind_alt": audit_symbind_alt,
    b"_dl_exception_create": exception_create,
    b"_dl_exception_free": exception_free,
    b"_dl_rtld_di_serinfo": dlfcn.di_serinfo,
    b"__nptl_change_stack_perm": threads.change_stack_perm,
    b"_dl_exception_create_format": lambda contract, call: contract.errors.create_format(call),
}
HOSTED_POINTERS: dict[str, Handler] = {
    "_dl_lookup_symbol_x": dlsym.lookup_symbol_x,
    "_dl_open": dlfcn.open_,
    "_dl_close": dlfcn.close,
    "_dl_tls_get_addr_soft": tls_get_addr_soft,
    "_dl_find_object": find_object,
    "_dl_libc_freeres": nothing,
    "_dl_error_free": error_free,
}
