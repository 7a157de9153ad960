"""What ld.so has found out when the program starts:
`_rtld_global_ro`, and its variables that others know by name.

Source: glibc elf/rtld.c:dl_main, sysdeps/unix/sysv/linux/dl-sysdep.c, dl-parse_auxv.h; setup-vdso-pointers in
dl-vdso-setup.h.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.glibc import hosted
from emu.glibc.probe import find_own

if TYPE_CHECKING:
    from emu.glibc.contract import Contract, StartInfo

_AT_CLKTCK, _AT_PAGESZ, _AT_MINSIGSTKSZ, _AT_HWCAP2 = 17, 6, 51, 26
_VDSO = (
    ("_dl_vdso_clock_gettime64", b"__vdso_clock_gettime"),
    ("_dl_vdso_gettimeofday", b"__vdso_gettimeofday"),
    ("_dl_vdso_time", b"__vdso_time"),
    ("_dl_vdso_getcpu", b"__vdso_getcpu"),
    ("_dl_vdso_clock_getres_time64", b"__vdso_clock_getres"),
)


def fill_rtld_global_ro(contract: Contract, info: StartInfo) -> None:
    """Write each member that this release has; ld.so's second relocation leaves them as they are."""
    rtld, ro = contract.rtld, contract.mirror.set_ro_if_there
    ro("_dl_pagesize", info.auxv.get(_AT_PAGESZ, 4096))
    ro("_dl_clktck", info.auxv.get(_AT_CLKTCK, 100), 4)
    ro("_dl_minsigstacksize", info.auxv.get(_AT_MINSIGSTKSZ, 2048))
    ro("_dl_hwcap2", info.auxv.get(_AT_HWCAP2, 0))
    ro("_dl_auxv", info.auxv_address)
    ro("_dl_lazy", 0 if rtld.bind_now else 1, 4)
    ro("_dl_tls_static_size", rtld.tls.static_size)
    ro("_dl_tls_static_align", rtld.tls.static_align)
    ro("_dl_tls_static_surplus", rtld.tls.surplus)
    ro("_dl_dso_sort_algo", rtld.sort_algorithm, 4)
    ro("_dl_debug_fd", contract.options.debug_fd, 4)
    ro("_dl_debug_mask", contract.options.debug_mask, 4)
    catch = rtld.lookup(b"_dl_catch_error", None if contract.linked else rtld.ld_so)
    if catch is not None:
        ro("_dl_catch_error", catch)
    if rtld.vdso is not None:
        ro("_dl_sysinfo_dso", rtld.vdso.map_start)
        ro("_dl_sysinfo_map", rtld.vdso.address)
        for member, name in _VDSO:
            ro(member, rtld.vdso_functions.get(name, 0))
    for member in hosted.HOSTED_POINTERS:
        ro(member, contract.pointer_stubs[member])
    ld_so = rtld.ld_so
    assert ld_so is not None
    for name, value, size in (
        (b"__libc_stack_end", info.stack_pointer, 8),
        (b"_dl_argv", info.argv, 8),
        (b"__libc_enable_secure", int(rtld.secure), 4),
    ):
        symbol = find_own(ld_so, name)
        if symbol is not None:
            contract.arena.write(ld_so.addr + symbol.value, value.to_bytes(size, "little"))
