"""dlopen: map an object and what it needs, relocate, and only when nothing can fail
any more let the rest of the process see it.

Everything before that point is undone when it fails: the new objects are closed again, by force. Constructors
come after it, and the global scope gets the new objects only after their constructors.

Source: glibc elf/dl-open.c.
"""

from __future__ import annotations

import errno
from collections.abc import Generator
from typing import TYPE_CHECKING

from emu.core.dl_events import (
    GlobalScopeAdded,
    NamespaceCreated,
    NodeleteActivated,
    Opened,
    OpenFailed,
    OpenRequested,
    ScopeSettled,
)
from emu.core.effects import CallGuest, Effect
from emu.core.errors import EmuError, LoaderError, MemoryFault, UnsupportedError, WildPointerError
from emu.core.events import Initializer
from emu.core.ldso_events import Reopened
from emu.rtld.audit import LA_ACT_CONSISTENT, RTLD_AUDIT, activity, head_is_auditing
from emu.rtld.close import close_worker
from emu.rtld.dependency import FOR_RELOCATE, mark_nodelete
from emu.rtld.deps import RTLD_CALLMAP, RTLD_DEEPBIND, RTLD_DLOPEN, RTLD_NOLOAD, map_deps, map_named
from emu.rtld.error import strerror
from emu.rtld.failure import Failing
from emu.rtld.init import init
from emu.rtld.link_map import LT_LOADED, LinkMap
from emu.rtld.map_object import RT_CONSISTENT
from emu.rtld.object_memory import extend_global, make_room
from emu.rtld.relocate import relocate_object
from emu.rtld.scope import DL_NNS, Namespace, list_scopes
from emu.rtld.startup import relocation_order
from emu.rtld.version import check_map_versions

if TYPE_CHECKING:
    from emu.rtld.given import Work
    from emu.rtld.rtld import Rtld

RTLD_LAZY, RTLD_NOW, RTLD_GLOBAL, RTLD_NODELETE = 1, 2, 0x100, 0x1000
LM_ID_BASE, LM_ID_NEWLM, LM_ID_CALLER = 0, -1, -2
_VERSION_SIZE = 24
"""sizeof (struct r_found_version)."""
_LOAD_LOCK, _TLS_LOCK = "_dl_load_lock", "_dl_load_tls_lock"
_FLAG_NAMES = (
    (RTLD_LAZY, "LAZY"), (RTLD_NOW, "NOW"), (RTLD_NOLOAD, "NOLOAD"), (RTLD_DEEPBIND, "DEEPBIND"), (RTLD_GLOBAL, "GLOBAL"),
    (RTLD_NODELETE, "NODELETE"),
)  # fmt: skip


def flag_names(mode: int) -> str:
    """Return the RTLD_* flags of a mode for people, `LAZY|GLOBAL` for instance."""
    return "|".join(name for bit, name in _FLAG_NAMES if mode & bit) or "0"


class _Opening:
    """One dlopen in progress.

    `map` is what it opens, once that is known; `settled` from the point on where nothing can fail.

    `error` is what it fails with.
    """

    __slots__ = ("args", "caller", "error", "file", "had_libc", "map", "mode", "nsid", "settled")

    def __init__(self, file: str, mode: int, caller: int, nsid: int, args: tuple[int, int, int]) -> None:
        self.file, self.mode, self.caller, self.nsid, self.args = file, mode, caller, nsid, args
        self.map: LinkMap | None = None
        self.error: EmuError | None = None
        self.had_libc = True
        self.settled = False


def dl_open(
    rtld: Rtld, file: str, mode: int, caller: int, nsid: int, args: tuple[int, int, int]
) -> Generator[Effect, int, int]:
    """Open `file` with the RTLD_* bits of `mode` in namespace `nsid`;
    return the guest's link map, 0 for RTLD_NOLOAD of what is not there.

    `caller` is an address in the calling object, `args` are argc, argv and envp for the constructors. Raises
    LoaderError with dlerror's text.
    Source: glibc elf/dl-open.c:_dl_open.
    """
    opening = _Opening(file, mode, caller, nsid, args)
    if not mode & (RTLD_LAZY | RTLD_NOW):
        _request(rtld, opening)
        raise _refused(rtld, opening, "invalid mode for dlopen()")
    yield from rtld.lock(_LOAD_LOCK)
    _request(rtld, opening)
    if nsid == LM_ID_NEWLM:
        namespace = _new_namespace(rtld)
        if namespace is None:
            yield from rtld.unlock(_LOAD_LOCK)
            raise _refused(rtld, opening, "no more namespaces available for dlmopen()")
        opening.nsid = namespace.index
    elif nsid not in (LM_ID_BASE, LM_ID_CALLER) and not (
        0 <= nsid < len(rtld.namespaces) and rtld.namespaces[nsid].maps and not head_is_auditing(rtld, nsid)
    ):
        # ld.so leaves here without giving the lock back; so do we.
        raise _refused(rtld, opening, "invalid target namespace in dlmopen()")
    yield from rtld.lock(_TLS_LOCK)
    failure = yield from rtld.catching(_checked(rtld, opening))
    yield from rtld.unlock(_TLS_LOCK)
    new = opening.map
    if failure is None and opening.settled and new is not None:
        yield from rtld.uncaught(init(rtld, new, args))
        if mode & RTLD_GLOBAL:
            _add_to_global(rtld, new)
        _announce(rtld, new, mode, already=False)
    rtld.search.unload_cache()
    if failure is not None:
        if not opening.had_libc and opening.nsid >= 0:
            rtld.namespaces[opening.nsid].libc_map = None
            rtld.mirror.namespace(rtld.namespaces[opening.nsid])
        if rtld.bus.dl:
            _tell_failure(rtld, opening, failure.text())
        if new is not None:
            rtld.tls.gaps = rtld.tls.gaps or not rtld.rules.closed_ids_reused
            yield from _consistent(rtld, rtld.namespaces[new.ns])
            yield from close_worker(rtld, new, force=True)
        yield from rtld.unlock(_LOAD_LOCK)
        yield from failure.signal()
    yield from rtld.unlock(_LOAD_LOCK)
    return new.address if new is not None else 0


def _request(rtld: Rtld, opening: _Opening) -> None:
    if rtld.bus.dl:
        caller = rtld.describe_caller(opening.caller)
        rtld.bus.emit(OpenRequested(opening.file, flag_names(opening.mode), opening.nsid, caller))


def _refused(rtld: Rtld, opening: _Opening, text: str) -> LoaderError:
    """Return the error for a call that is not even begun, and tell of it."""
    opening.error = error = LoaderError(opening.file, text, errno.EINVAL)
    if rtld.bus.dl:
        _tell_failure(rtld, opening, f"{error}: {strerror(error.errno)}")
    return error


def _tell_failure(rtld: Rtld, opening: _Opening, text: str) -> None:
    """Tell of a failure while everything is as it was then, so that it can be asked about."""
    nsid = max(opening.nsid, 0)
    rtld.failing = Failing(opening.file, opening.mode, nsid, opening.caller, opening.map, opening.error)
    rtld.bus.emit(OpenFailed(opening.file, nsid, text))
    rtld.failing = None


def _new_namespace(rtld: Rtld) -> Namespace | None:
    """Return an empty namespace, made now if there is none; None when there are 16."""
    namespace = next((ns for ns in rtld.namespaces[1:] if not ns.maps), None)
    if namespace is None and len(rtld.namespaces) < DL_NNS:
        namespace = Namespace(len(rtld.namespaces))
        rtld.namespaces.append(namespace)
        rtld.mirror.namespaces()
        rtld.mirror.debug_chain()
    if namespace is not None:
        namespace.libc_map = None
        rtld.set_state(namespace, RT_CONSISTENT)
        if rtld.bus.dl:
            rtld.bus.emit(NamespaceCreated(namespace.index))
    return namespace


def _checked(rtld: Rtld, opening: _Opening) -> Work:
    """Open, and take a table that leads nowhere for what it is: a damaged object. (ld.so would die of it.)"""
    try:
        yield from _begin(rtld, opening)
    except WildPointerError:
        raise
    except MemoryFault as fault:
        name = opening.map.name if opening.map is not None else opening.file
        opening.error = LoaderError(name, f"object file is damaged: it leads to {fault.address:#x}")
        raise opening.error from None
    except EmuError as error:
        opening.error = error
        raise


def _begin(rtld: Rtld, opening: _Opening) -> Work:
    """All of dlopen that can fail, and the changes that follow at once when it has not."""
    file, mode = opening.file, opening.mode
    call_map = None
    if "$" in file or opening.nsid == LM_ID_CALLER or "/" not in file:
        find = rtld.index.find_known if rtld.rules.caller_by_find_object else rtld.index.find
        call_map = find(opening.caller) or rtld.namespaces[0].maps[0]
        if opening.nsid == LM_ID_CALLER:
            opening.nsid = call_map.ns
    namespace = rtld.namespaces[opening.nsid]
    opening.had_libc = namespace.libc_map is not None
    untold = rtld.rules.idle_opens_untold and rtld.find_loaded(file, namespace) is not None
    new = yield from map_named(rtld, file, call_map, LT_LOADED, opening.nsid, mode | RTLD_CALLMAP)
    if new is None:
        return
    opening.map = new
    new.direct_opencount += 1
    rtld.mirror.opencount(new)
    if new.searchlist:
        yield from _open_again(rtld, new, mode, untold)
        return
    if mode & RTLD_NODELETE:
        mark_nodelete(rtld, new, FOR_RELOCATE, "RTLD_NODELETE")
    yield from map_deps(rtld, new, [], mode & (RTLD_DLOPEN | RTLD_DEEPBIND | RTLD_AUDIT))
    for map_ in new.searchlist:
        if not map_.real.versions:
            check_map_versions(
                map_.real,
                rtld.memory,
                lambda name: rtld.find_loaded(name, namespace),
                bus=rtld.bus,
                relr=rtld.rules.relative_words_read,
            )
            yield from _allocate_versions(rtld, map_.real)
            rtld.mirror.versions(map_.real)
    if not rtld.rules.consistent_after_relocation:
        yield from activity(rtld, namespace, LA_ACT_CONSISTENT)
        rtld.set_state(namespace, RT_CONSISTENT)
    _show_scopes(rtld, new, 0)
    assert new.initfini is not None
    for map_ in relocation_order(rtld, new, opened=True):
        if not map_.real.relocated:
            lazy = bool(mode & RTLD_LAZY) and not rtld.bind_now
            yield from relocate_object(rtld, map_, lazy, audited=not mode & RTLD_AUDIT)
    yield from _consistent(rtld, namespace)
    if mode & RTLD_GLOBAL and opening.nsid and rtld.namespaces[0] is not namespace:
        raise UnsupportedError(
            f"RTLD_GLOBAL in namespace {opening.nsid}", new.display_name, "ld.so itself crashes there"
        )
    yield from make_room(rtld, new, to_global=bool(mode & RTLD_GLOBAL))
    yield from _settle(rtld, new, namespace, opening)


def _allocate_versions(rtld: Rtld, map_: LinkMap) -> Work:
    """Take the memory for the table of an object's versions."""
    if map_.versions and rtld.owed.active:
        block = yield from rtld.owed.call(b"calloc", len(map_.versions), _VERSION_SIZE)
        if not block:
            map_.versions = []
            raise LoaderError(map_.name, "cannot allocate version reference table", errno.ENOMEM)
        map_.lent["versions"] = block


def _consistent(rtld: Rtld, namespace: Namespace) -> Work:
    """Tell that a namespace is consistent again, where that comes only after relocation."""
    if rtld.rules.consistent_after_relocation and namespace.state != RT_CONSISTENT:
        yield from activity(rtld, namespace, LA_ACT_CONSISTENT)
        rtld.set_state(namespace, RT_CONSISTENT)


def _open_again(rtld: Rtld, new: LinkMap, mode: int, untold: bool) -> Work:
    """Open what is open: only the count, NODELETE and the global scope can change.

    LD_DEBUG tells nothing of the count alone where that is `untold`.
    """
    pinned = bool(mode & RTLD_NODELETE) and not new.nodelete_active
    promoted = bool(mode & RTLD_GLOBAL) and not new.global_
    _announce(rtld, new, mode, already=True)
    if rtld.bus.ldso and (pinned or promoted or not untold):
        rtld.bus.emit(Reopened(new.display_name, new.ns, new.direct_opencount))
    if pinned:
        mark_nodelete(rtld, new, 0, "RTLD_NODELETE")
    if promoted:
        yield from extend_global(rtld, new)
        _add_to_global(rtld, new)


def _announce(rtld: Rtld, map_: LinkMap, mode: int, *, already: bool) -> None:
    if rtld.bus.dl:
        rtld.bus.emit(Opened(map_.display_name, map_.ns, map_.direct_opencount, already, flag_names(mode)))


def _settle(rtld: Rtld, new: LinkMap, namespace: Namespace, opening: _Opening) -> Work:
    """Beyond this point nothing fails: NODELETE, scopes, TLS, and an early word to a new libc."""
    for map_ in namespace.maps:
        if map_.nodelete_pending:
            map_.nodelete_active, map_.nodelete_pending = True, False
            rtld.mirror.nodelete(map_)
            if rtld.bus.dl:
                rtld.bus.emit(NodeleteActivated(map_.display_name, map_.ns))
    rtld.index.know(new.searchlist)
    for map_ in new.searchlist:
        first = 0
        if map_.init_called and map_.type == LT_LOADED:
            if new.local_scope in map_.scopes:
                continue
            first = len(map_.scopes)
            map_.scopes.append(new.local_scope)
            rtld.mirror.scopes(map_)
        _show_scopes(rtld, map_, first)
    yield from _settle_tls(rtld, new)
    libc = namespace.libc_map
    if not opening.had_libc and libc is not None:
        early = rtld.lookup(b"__libc_early_init", libc)
        if early is not None:
            if rtld.bus.init:
                rtld.bus.emit(Initializer(libc.display_name, "early_init", early, rtld.describe(early)))
            yield CallGuest(early, (0,))
    opening.settled = True


def _settle_tls(rtld: Rtld, new: LinkMap) -> Work:
    """Make the new TLS modules known, and give static blocks their first values in every thread.

    Source: update_tls_slotinfo.
    """
    tls = rtld.tls
    added = [map_ for map_ in new.searchlist if not map_.init_called and map_.tls_blocksize]
    for map_ in added:
        tls.add_module(map_)
    if not added:
        return
    tls.next_generation(f"dlopen of {new.display_name}")
    if rtld.bus.tls:
        for map_ in added:
            tls.announce(map_)
    rtld.mirror.tls()
    for map_ in added:
        if map_.need_tls_init:
            yield from tls.update_slotinfo(rtld.thread_pointer())
            tls.initialise_static(map_)
            rtld.mirror.flags(map_)


def _show_scopes(rtld: Rtld, map_: LinkMap, first: int) -> None:
    list_scopes(rtld, map_, first)
    if rtld.bus.scopes:
        for number, scope in enumerate(map_.scopes[first:], first):
            members = tuple(m.name or rtld.program for m in scope.maps)
            rtld.bus.emit(ScopeSettled(map_.display_name, map_.ns, number, members))


def _add_to_global(rtld: Rtld, new: LinkMap) -> None:
    """Append an object and what it needs to the global scope, as far as they are not in it.

    Source: add_to_global_update.
    """
    main = rtld.namespaces[new.ns].main
    if main is None:
        raise UnsupportedError(
            f"RTLD_GLOBAL in namespace {new.ns}", new.display_name, "ld.so itself crashes there"
        )
    for map_ in list(new.searchlist):
        if not map_.global_:
            map_.global_ = True
            main.searchlist.append(map_)
            rtld.mirror.flags(map_)
            if rtld.bus.dl:
                rtld.bus.emit(GlobalScopeAdded(map_.display_name, map_.ns))
    rtld.mirror.searchlist(main)
