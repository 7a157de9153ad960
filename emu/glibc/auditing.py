"""Start-up with auditors: TLS and the thread come first, then each auditor with all that it needs, and only
then the program's own libraries.

As in ld.so, an auditor that cannot be loaded is left out with a word on standard error.

Source: glibc elf/rtld.c:load_audit_modules, load_audit_module.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from emu.core.dl_events import AuditorJoined
from emu.core.effects import CallGuest, Effect
from emu.core.ldso_events import AuditorIgnored
from emu.rtld.audit import INTERFACE, LA_ACT_ADD, RTLD_AUDIT, Auditor, activity_map, objopen
from emu.rtld.close import dl_close
from emu.rtld.dependency import RETURN_NEWEST
from emu.rtld.deps import RTLD_DLOPEN
from emu.rtld.link_map import LinkMap
from emu.rtld.lookup import Query, lookup_symbol
from emu.rtld.map_object import RT_ADD
from emu.rtld.open import LM_ID_NEWLM, RTLD_LAZY, dl_open
from emu.rtld.runtime import undefined

if TYPE_CHECKING:
    from emu.glibc.contract import Contract
    from emu.rtld.given import Work

_MODE = RTLD_LAZY | RTLD_DLOPEN | RTLD_AUDIT


def load_with_auditors(contract: Contract) -> Work:
    """Load the auditors, tell them of what is there, then load the program's libraries.

    Raises LoaderError, ElfError.
    """
    rtld = contract.rtld
    base, ld_so = rtld.namespaces[0], rtld.ld_so
    main = base.maps[0]
    assert ld_so is not None
    errors = contract.errors
    rtld.serve(contract.thread_pointer, contract.mirror.threads, errors.catching, errors.uncaught)
    for name in rtld.auditor_names or ():
        yield from _load(contract, name)
    yield from objopen(rtld, main)
    yield from objopen(rtld, ld_so)
    contract.mirror.debug_pointer(main)
    rtld.set_state(base, RT_ADD)
    yield from activity_map(rtld, main, LA_ACT_ADD)
    yield from rtld.load()
    contract.mirror_base()


def _load(contract: Contract, name: str) -> Work:
    """Load one auditor."""
    rtld, info = contract.rtld, contract.info
    ld_so = rtld.ld_so
    assert ld_so is not None
    last_module = rtld.tls.max_dtv_idx
    opened: list[int] = []

    def opening() -> Work:
        args = (info.argc, info.argv, info.envp)
        opened.append((yield from dl_open(rtld, name, _MODE, ld_so.map_start, LM_ID_NEWLM, args)))

    failure = yield from rtld.catching(opening())
    if failure is not None:
        _refuse(contract, name, failure.reason())
        return
    map_ = rtld.by_address[opened[0]]
    version_at = _function(contract, map_, "la_version")
    if version_at is None:
        error = undefined(rtld, map_, b"la_version", None)
        yield from _unload(contract, map_, last_module)
        rtld.refused.append((name, "LD_AUDIT", error))
        _refuse(contract, name, error.text)
        return
    newest = 2 if rtld.rules.second_audit_interface else 1
    version = (yield CallGuest(version_at, (newest,))) & 0xFFFFFFFF
    if not 0 < version <= newest:
        if version:
            signed = version - (version >> 31 << 32)
            rtld.write_error(
                f"{rtld.bus.task:10}:\tERROR: audit interface '{name}' requires version {signed} "
                f"(maximum supported version {newest}); ignored.\n"
            )
        elif rtld.bus.ldso:
            rtld.bus.emit(AuditorIgnored(map_.display_name, map_.ns))
        yield from _unload(contract, map_, last_module)
        return
    found = {function: _function(contract, map_, function) for function in INTERFACE}
    functions = {function: address for function, address in found.items() if address}
    auditor = Auditor(len(rtld.auditors), map_, functions)
    rtld.auditors.append(auditor)
    rtld.search.objsearch = rtld.objsearch
    contract.mirror.auditors()
    contract.arena.write_u64(rtld.mirror.audit_cookie(ld_so, auditor.index), ld_so.address)
    if rtld.bus.dl:
        rtld.bus.emit(AuditorJoined(map_.display_name, map_.ns, tuple(functions)))
    map_.auditing = True
    rtld.mirror.flags(map_)


def _refuse(contract: Contract, name: str, reason: str) -> None:
    contract.rtld.write_error(
        f"ERROR: ld.so: object '{name}' cannot be loaded as audit interface: {reason}; ignored.\n"
    )


def _function(contract: Contract, map_: LinkMap, name: str) -> int | None:
    """Return the address of a function in the auditor or in what it needs."""
    rtld = contract.rtld
    found = lookup_symbol(rtld, Query(name.encode(), map_, flags=RETURN_NEWEST), [map_.local_scope])
    if found is None:
        if name != "la_version":
            undefined(
                rtld, map_, name.encode(), None
            )  # said where LD_DEBUG asks for it, and otherwise of no account
        return None
    return found.address


def _unload(contract: Contract, map_: LinkMap, last_module: int) -> Generator[Effect, int, None]:
    """Unload what turned out to be no auditor, with its whole namespace.

    Its TLS module ids are free again.
    """
    yield from dl_close(contract.rtld, map_.address, 0)
    contract.rtld.tls.max_dtv_idx = last_module
    contract.mirror.tls()
