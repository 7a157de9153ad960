"""The thread library where it is a library of its own, as before 2.34:
what libc and libpthread then expect of ld.so besides the rest.

libc calls through pointers in `_rtld_global` that libpthread replaces by its own when it is initialised.
Until then, and for good in a program without threads, ld.so's count in `__count` alone (so that libpthread's
mutexes take over what is held).

Source: glibc 2.33 elf/rtld.c:rtld_lock_default_lock_recursive,
nptl/nptl-init.c:__pthread_initialize_minimal_internal; dlfcn/dlerror.c,
sysdeps/generic/ldsodefs.h:rtld_active.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emu.glibc.call import Handler, HostedCall
    from emu.glibc.contract import Contract

_COUNT = 4
"""Where a pthread_mutex_t has `__count`."""
_DIRECTORIES = 64
"""More than any list of search directories that would lie at `_dl_init_all_dirs`:
the guest only asks whether there is one.
"""


def _lock(contract: Contract, call: HostedCall) -> int:
    return _count(contract, call.args[0], 1)


def _unlock(contract: Contract, call: HostedCall) -> int:
    return _count(contract, call.args[0], -1)


def _count(contract: Contract, lock: int, by: int) -> int:
    contract.arena.write_u32(lock + _COUNT, contract.arena.read_u32(lock + _COUNT) + by & 0xFFFFFFFF)
    return 0


def _nothing(contract: Contract, call: HostedCall) -> int:
    return 0


POINTERS: dict[str, Handler] = {
    "_dl_rtld_lock_recursive": _lock,
    "_dl_rtld_unlock_recursive": _unlock,
    "_dl_init_static_tls": _nothing,
    "_dl_wait_lookup_done": _nothing,
    "_dl_make_stack_executable_hook": _nothing,
}
"""Members of `_rtld_global` and what they lead to.

Static TLS of a new module and executable stacks are seen to for all threads by the linker itself.
"""


def set_pointers(contract: Contract) -> None:
    """Fill the pointers, as far as this release has them, and what libdl asks whether ld.so is there."""
    mirror = contract.mirror
    for member in POINTERS:
        if mirror.layout.has("rtld_global", member):
            mirror.set_global(member, contract.pointer_stubs[member])
    mirror.set_ro_if_there("_dl_init_all_dirs", contract.rtld.heap.allocate(_DIRECTORIES))
