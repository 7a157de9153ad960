"""The functions of ld.so that are hosted: what they are called with, what they give back.

Each handler gets a `Call` (arguments as the psABI passes them) and returns rax, or a generator of effects. `HOSTED_SYMBOLS` are entered by
a trap planted at their own address in the mapped ld.so, so that every pointer to them stays what it is natively;
`HOSTED_POINTERS` are members of `_rtld_global_ro`.

Source: glibc elf/rtld.c (GLRO initialisers), elf/dl-support.c; the architecture page, "The contract with libc".
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from emu.core.effects import Hosted, Jump
from emu.core.errors import LoaderError, UnsupportedError
from emu.core.events import DtvResized, TlsBlockAllocated
from emu.elf import constants as c
from emu.glibc import threads
from emu.rtld.fini import fini
from emu.rtld.link_map import FORCED_DYNAMIC_TLS_OFFSET, NO_TLS_OFFSET
from emu.rtld.lookup import lookup_symbol
from emu.rtld.tls import UNALLOCATED
from emu.rtld.version import Version

if TYPE_CHECKING:
    from emu.glibc.contract import Contract

_M64 = (1 << 64) - 1


class Call(NamedTuple):
    """A call of a hosted function: the six integer argument registers, rsp (at the return address) and rax."""

    args: tuple[int, int, int, int, int, int]
    rsp: int
    rax: int


Handler = Callable[["Contract", Call], "int | Hosted"]


def runtime_resolve(contract: Contract, call: Call) -> Hosted:
    """Bind a PLT slot on its first call: the stack holds the link map, the slot's index, the caller's return address."""
    rtld = contract.rtld
    address, index = contract.arena.read_u64(call.rsp), contract.arena.read_u64(call.rsp + 8)
    target = yield from rtld.fixup(rtld.by_address[address], index)
    yield Jump(target, pop=16)
    return 0


def tls_get_addr_slow(contract: Contract, call: Call) -> int:
    """`__tls_get_addr` when the DTV is old or the block not yet allocated."""
    module, offset = struct.unpack("<QQ", contract.arena.read(call.args[0], 16))
    block = dtv_block(contract, module)
    return (block + int(offset)) & _M64


def tlsdesc_slow(contract: Contract, call: Call) -> int:
    """A dynamic TLS descriptor's slow path: rax holds its argument (module, offset, generation)."""
    module, offset = struct.unpack("<QQ", contract.arena.read(call.rax, 16))
    block = dtv_block(contract, module)
    return (block + int(offset) - contract.thread_pointer()) & _M64


def dtv_block(contract: Contract, module: int) -> int:
    """Bring the thread's DTV up to date and return its block for `module`, allocated now if need be.

    Source: glibc elf/dl-tls.c:_dl_update_slotinfo, tls_get_addr_tail.
    """
    arena, tls, thread = contract.arena, contract.rtld.tls, contract.thread_pointer()
    dtv = arena.read_u64(thread + 8)
    seen = arena.read_u64(dtv)
    if seen != tls.generation:
        length = arena.read_u64(dtv - 16)
        if tls.max_dtv_idx > length:
            room = tls.max_dtv_idx + 14
            fresh = contract.rtld.heap.allocate((room + 2) * 16, 16)
            arena.write(fresh, arena.read(dtv - 16, 16 * (length + 2)))
            arena.write_u64(fresh, room)
            for index in range(length + 1, room + 1):
                arena.write(fresh + 16 + 16 * index, struct.pack("<QQ", UNALLOCATED, 0))
            dtv = fresh + 16
            arena.write_u64(thread + 8, dtv)
        for index, generation in enumerate(tls.generations):
            if index and generation > seen:
                stale = tls.dynamic_blocks.get(thread, {}).pop(index, 0)
                arena.write(dtv + 16 * index, struct.pack("<QQ", UNALLOCATED, 0))
                if stale:
                    contract.rtld.heap.free(stale)
        arena.write_u64(dtv, tls.generation)
        if contract.rtld.bus.tls:
            contract.rtld.bus.emit(DtvResized(dtv, arena.read_u64(dtv - 16), tls.generation))
    entry = dtv + 16 * module
    block = arena.read_u64(entry)
    if block != UNALLOCATED:
        return block
    map_ = tls.modules[module]
    assert map_ is not None
    if map_.tls_offset not in (NO_TLS_OFFSET, FORCED_DYNAMIC_TLS_OFFSET):
        block = thread - map_.tls_offset
        arena.write(entry, struct.pack("<QQ", block, 0))
        return block
    map_.tls_offset = FORCED_DYNAMIC_TLS_OFFSET
    block = contract.rtld.heap.allocate(map_.tls_blocksize, max(map_.tls_align, 16))
    image = arena.read(map_.tls_initimage, map_.tls_initimage_size) if map_.tls_initimage_size else b""
    arena.write(block, image)
    arena.write(entry, struct.pack("<QQ", block, 0))
    tls.dynamic_blocks.setdefault(thread, {})[module] = block
    if contract.rtld.bus.tls:
        contract.rtld.bus.emit(TlsBlockAllocated(module, map_.display_name, block, False))
    return block


def tls_get_addr_soft(contract: Contract, call: Call) -> int:
    """`_dl_tls_get_addr_soft(link_map)`: the thread's block of a module, 0 if it has none yet."""
    map_ = contract.rtld.by_address[call.args[0]]
    if not map_.tls_modid:
        return 0
    dtv = contract.arena.read_u64(contract.thread_pointer() + 8)
    if map_.tls_modid > contract.arena.read_u64(dtv - 16):
        return 0
    block = contract.arena.read_u64(dtv + 16 * map_.tls_modid)
    return 0 if block == UNALLOCATED else block


def find_dso_for_object(contract: Contract, call: Call) -> int:
    """`_dl_find_dso_for_object(address)`: the link map that contains an address, or NULL."""
    map_ = contract.rtld.find_map(call.args[0])
    return map_.address if map_ is not None else 0


def find_object(contract: Contract, call: Call) -> int:
    """`_dl_find_object(pc, struct dl_find_object *)`: 0 and where the unwind table is, or -1.

    The stub page answers for itself, so that unwinding passes through hosted frames.
    """
    address, result = call.args[0], call.args[1]
    stubs = contract.stubs
    if stubs.start <= address < stubs.end:
        fields = (0, stubs.start, stubs.end, contract.rtld.namespaces[0].maps[0].address, stubs.eh_frame_hdr)
        contract.arena.write(result, struct.pack("<5Q", *fields))
        return 0
    map_ = contract.rtld.find_map(address)
    if map_ is None:
        return _M64
    header = next((map_.addr + p.vaddr for p in map_.phdrs if p.type == c.PT_GNU_EH_FRAME), 0)
    contract.arena.write(result, struct.pack("<5Q", 0, map_.map_start, map_.map_end, map_.address, header))
    return 0


def lookup_symbol_x(contract: Contract, call: Call) -> int | Hosted:
    """`_dl_lookup_symbol_x(name, undef_map, ref, scopes, version, type_class, flags, skip_map)` for libc's dlsym and iconv.

    Returns the defining link map and stores the guest address of its symbol at `ref`.
    """
    arena, rtld = contract.arena, contract.rtld
    name = arena.read_cstr(call.args[0])
    undef_map = rtld.by_address[call.args[1]]
    scopes = [contract.scope_at(address) for address in _pointers(contract, call.args[3])]
    version = _version(contract, call.args[4])
    flags = arena.read_u64(call.rsp + 8) & 0xFFFFFFFF
    skip = rtld.by_address.get(arena.read_u64(call.rsp + 16))
    reference = arena.read_u64(call.args[2])
    found = lookup_symbol(
        name,
        undef_map,
        0,
        scopes,
        version,
        call.args[5] & 0xFFFFFFFF,
        rtld.namespaces,
        flags=flags,
        skip_map=skip,
    )
    if found is None:
        arena.write_u64(call.args[2], 0)
        weak = reference and arena.read(reference + 4, 1)[0] >> 4 == c.STB_WEAK
        if weak:
            return 0
        text = f"undefined symbol: {name.decode(errors='replace')}"
        if version is not None:
            text += f", version {version.name.decode(errors='replace')}"
        error = LoaderError(undef_map.name or rtld.program, text, occasion="symbol lookup error")
        return contract.signal_error(error)
    symtab = found[0].dynamic.get(c.DT_SYMTAB)
    assert symtab is not None
    arena.write_u64(call.args[2], found[0].addr + symtab + 24 * found[1])
    return found[0].address


def _pointers(contract: Contract, address: int) -> list[int]:
    found = []
    while value := contract.arena.read_u64(address):
        found.append(value)
        address += 8
    return found


def _version(contract: Contract, address: int) -> Version | None:
    if not address:
        return None
    name, hash_, hidden = struct.unpack("<QIi", contract.arena.read(address, 16))
    return Version(contract.arena.read_cstr(name), hash_, bool(hidden), b"")


def run_fini(contract: Contract, call: Call) -> Hosted:
    """`_dl_fini()`, the oldest exit handler."""
    yield from fini(contract.rtld)
    return 0


def exception_create(contract: Contract, call: Call) -> Hosted:
    """`_dl_exception_create(exception, objname, errstring)`: a copy of both strings in one block of the guest's malloc."""
    arena = contract.arena
    objname = arena.read_cstr(call.args[1]) if call.args[1] else b""
    yield from contract.fill_exception(call.args[0], objname, arena.read_cstr(call.args[2]))
    return 0


def exception_free(contract: Contract, call: Call) -> Hosted:
    """`_dl_exception_free(exception)`."""
    yield from contract.free_exception(call.args[0])
    return 0


def nothing(contract: Contract, call: Call) -> int:
    """A function with nothing to do here: auditing is not supported, so no auditor is told."""
    return 0


def unsupported(name: str) -> Handler:
    """Return a handler that names what is missing."""

    def handler(contract: Contract, call: Call) -> int:
        raise UnsupportedError(f"{name} (run-time loading)", contract.rtld.program)

    return handler


HOSTED_SYMBOLS: dict[bytes, Handler] = {
    b"_dl_allocate_tls": threads.allocate_tls,
    b"_dl_allocate_tls_init": threads.allocate_tls_init,
    b"_dl_deallocate_tls": threads.deallocate_tls,
    b"_dl_find_dso_for_object": find_dso_for_object,
    b"_dl_audit_preinit": nothing,
    b"_dl_audit_symbind_alt": nothing,
    b"_dl_exception_create": exception_create,
    b"_dl_exception_free": exception_free,
    b"_dl_rtld_di_serinfo": unsupported("_dl_rtld_di_serinfo"),
    b"__nptl_change_stack_perm": threads.change_stack_perm,
    b"_dl_exception_create_format": unsupported("_dl_exception_create_format"),
}
HOSTED_POINTERS: dict[str, Handler] = {
    "_dl_lookup_symbol_x": lookup_symbol_x,
    "_dl_open": unsupported("dlopen"),
    "_dl_close": unsupported("dlclose"),
    "_dl_tls_get_addr_soft": tls_get_addr_soft,
    "_dl_find_object": find_object,
    "_dl_libc_freeres": nothing,
    "_dl_error_free": nothing,
}
