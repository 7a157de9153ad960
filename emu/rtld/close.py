"""dlclose: count down, and when a count reaches zero find out by mark and sweep what must stay;
finalise and unmap the rest.

The roots are the objects that were there at start-up, those that are open, those that are NODELETE, and those
whose thread_local destructors have not all run. What a root needs, or has bound to, stays with it. An object
that stays only for its destructors is not unloaded when the last of them has run: the next collection in its
namespace finds it.

Source: glibc elf/dl-close.c; stdlib/cxa_thread_atexit_impl.c for the count.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from emu.core.dl_events import CloseRequested, Kept, ScopeRemoved, Unloaded, Unloading
from emu.core.errors import LoaderError
from emu.rtld.address_index import Departed
from emu.rtld.audit import LA_ACT_CONSISTENT, LA_ACT_DELETE, activity, objclose
from emu.rtld.audit_binding import forget_slots
from emu.rtld.fini import call_fini
from emu.rtld.given import Closing
from emu.rtld.link_map import LT_LOADED, LinkMap
from emu.rtld.map_object import RT_CONSISTENT, RT_DELETE, unmap_object
from emu.rtld.object_memory import fewer_scopes, release
from emu.rtld.sort_maps import sort_maps

if TYPE_CHECKING:
    from collections.abc import Container

    from emu.rtld.given import Work
    from emu.rtld.rtld import Rtld
    from emu.rtld.scope import Namespace, Scope

_LOAD_LOCK, _TLS_LOCK, _WRITE_LOCK = "_dl_load_lock", "_dl_load_tls_lock", "_dl_load_write_lock"
Parent = tuple[LinkMap, str]


def dl_close(rtld: Rtld, address: int, caller: int) -> Work:
    """Close the object whose link map lies at `address`; `caller` is the return address of dlclose.

    Raises LoaderError "shared object not open".

    Source: glibc elf/dl-close.c:_dl_close.
    """
    yield from rtld.lock(_LOAD_LOCK)
    map_ = rtld.by_address.get(address)
    if map_ is None:
        # ld.so reads whatever lies there now; that nothing is open there is all that can be said.
        if rtld.bus.dl:
            place = rtld.describe_caller(caller) if caller else ""
            rtld.bus.emit(CloseRequested(f"{address:#x}", 0, 0, 0, "not open", place))
        yield from rtld.unlock(_LOAD_LOCK)
        raise LoaderError("", "shared object not open")
    if map_.nodelete_active:
        _announce(rtld, map_, map_.direct_opencount, map_.direct_opencount, "nodelete", caller)
        yield from rtld.unlock(_LOAD_LOCK)
        return
    if map_.direct_opencount == 0:
        _announce(rtld, map_, 0, 0, "not open", caller)
        yield from rtld.unlock(_LOAD_LOCK)
        raise LoaderError(map_.name, "shared object not open")
    yield from close_worker(rtld, map_, force=False, caller=caller)
    yield from rtld.unlock(_LOAD_LOCK)


def _announce(rtld: Rtld, map_: LinkMap, before: int, after: int, outcome: str, caller: int) -> None:
    if rtld.bus.dl:
        rtld.bus.emit(
            CloseRequested(
                map_.display_name,
                map_.ns,
                before,
                after,
                outcome,
                rtld.describe_caller(caller) if caller else "",
            )
        )


def close_worker(rtld: Rtld, map_: LinkMap, *, force: bool, caller: int = 0) -> Work:
    """Take one direct open away and collect if that was the last.

    `force` undoes a failed dlopen. Source: _dl_close_worker.
    """
    before = map_.direct_opencount
    after = before - 1
    if after > 0 or map_.type != LT_LOADED or rtld.closing is not Closing.NO:
        if after > 0:
            outcome = "referenced"
        elif map_.type != LT_LOADED:
            outcome = "start-up object"
        else:
            outcome = "later"
            rtld.closing = Closing.RERUN
    else:
        outcome = "failed open" if force else "collect"
    map_.direct_opencount = after
    rtld.mirror.opencount(map_)
    _announce(rtld, map_, before, after, outcome, caller)
    if outcome not in ("collect", "failed open"):
        return
    namespace = rtld.namespaces[map_.ns]
    by = f"dlclose in {rtld.describe_caller(caller)}" if caller else "a dlopen that failed"
    closed: LinkMap | None = map_
    while True:
        rtld.closing = Closing.PENDING
        yield from _collect(rtld, namespace, force, by, closed)
        closed = None
        if rtld.closing is not Closing.RERUN:
            break
    rtld.closing = Closing.NO


def root_kinds(rtld: Rtld, map_: LinkMap) -> list[tuple[str, int]]:
    """Return what by itself keeps an object, each with its count:
    start-up, open-count, nodelete, tls-dtors.
    """
    kinds = []
    if map_.type != LT_LOADED:
        kinds.append(("start-up", 1))
    if map_.direct_opencount > 0:
        kinds.append(("open-count", map_.direct_opencount))
    if map_.nodelete_active:
        kinds.append(("nodelete", 1))
    if rtld.unload_rule == "dtor-count" and (count := rtld.mirror.dtor_count(map_)):
        kinds.append(("tls-dtors", count))
    return kinds


def held_by(map_: LinkMap) -> list[Parent]:
    """Return what an object keeps while it stays, and how:
    "dependency" for what it needs, "relocation" for what it has bound to.
    """
    held = [(needed, "dependency") for needed in (map_.initfini or ())[1:]]
    return held + [(bound, "relocation") for bound in map_.reldeps or ()]


def mark(rtld: Rtld, namespace: Namespace) -> dict[LinkMap, Parent | None]:
    """Return the objects that stay, each with the object that keeps it and how
    ("dependency", "relocation"), None for a root.

    The chain over the parents is a shortest one.
    """
    kept: dict[LinkMap, Parent | None] = {map_: None for map_ in namespace.maps if root_kinds(rtld, map_)}
    queue = deque(kept)
    while queue:
        map_ = queue.popleft()
        for needed, kind in held_by(map_):
            if needed not in kept:
                kept[needed] = (map_, kind)
                queue.append(needed)
    return kept


def keepers(rtld: Rtld, kept: dict[LinkMap, Parent | None], map_: LinkMap) -> list[Kept]:
    """Return why an object stays: one reason for each kind of root that it is
    itself, else the chain that leads to it from one.
    """
    chain, edges = [map_], []
    while (parent := kept[chain[-1]]) is not None:
        chain.append(parent[0])
        edges.append(parent[1])
    names = tuple(m.display_name for m in reversed(chain))
    steps = tuple(reversed(edges))
    return [
        Kept(map_.display_name, map_.ns, kind, count, names, steps)
        for kind, count in root_kinds(rtld, chain[-1])
    ]


def _fini_order(
    rtld: Rtld, namespace: Namespace, closed: LinkMap | None, stays: Container[LinkMap]
) -> list[LinkMap]:
    """Return the objects of a namespace in the order in which those that go are finalised;
    `closed` has just been closed.
    """
    maps, first_always = list(namespace.maps), rtld.rules.closed_goes_first
    if first_always and closed is not None:
        at = maps.index(closed)
        maps[0], maps[at] = maps[at], maps[0]
    return sort_maps(
        maps,
        force_first=closed is not None if first_always else namespace.index == 0,
        for_fini=True,
        algorithm=rtld.sort_algorithm,
        stays=stays,
        first_always=first_always,
    )


def _collect(rtld: Rtld, namespace: Namespace, force: bool, by: str, closed: LinkMap | None) -> Work:
    """One mark and sweep over a namespace, in which `closed` has just been closed
    (None: the collection is done once more).
    """
    kept = mark(rtld, namespace)
    if rtld.bus.dl:
        for map_ in namespace.maps:
            if map_ not in kept:
                rtld.bus.emit(Unloading(map_.display_name, map_.ns, map_.init_called))
            elif map_.type == LT_LOADED:
                for reason in keepers(rtld, kept, map_):
                    rtld.bus.emit(reason)
    stand_ins = {map_ for map_ in namespace.maps if map_.real is not map_}
    ordered = _fini_order(rtld, namespace, closed, kept.keys() | stand_ins)
    going: list[LinkMap] = []
    for map_ in ordered:
        if map_ not in kept:
            if map_.init_called:
                yield from rtld.uncaught(call_fini(rtld, map_, once=rtld.rules.finalised_once))
            if rtld.rules.delete_told_first and not going:
                yield from activity(rtld, namespace, LA_ACT_DELETE)
            yield from objclose(rtld, map_)
            map_.removed = True
            rtld.mirror.flags(map_)
            going.append(map_)
        elif map_.type == LT_LOADED:
            yield from _repair(rtld, map_, kept)
    if not going:
        return
    if not rtld.rules.delete_told_first:
        yield from activity(rtld, namespace, LA_ACT_DELETE)
    rtld.set_state(namespace, RT_DELETE)
    if namespace.main is not None and any(map_.global_ for map_ in going):
        # In place: the list is the global scope of every object.
        namespace.main.searchlist[:] = [m for m in namespace.main.searchlist if not m.removed]
        rtld.mirror.searchlist(namespace.main)
    yield from rtld.lock(_TLS_LOCK)
    yield from rtld.lock(_WRITE_LOCK)
    any_tls = any(map_.tls_blocksize for map_ in going)
    for map_ in going:
        if map_.tls_blocksize:
            rtld.tls.remove_module(map_)
    static_used = rtld.tls.reclaim_static(going)
    for map_ in going:
        yield from forget_slots(rtld, map_)
        _destroy(rtld, namespace, map_, force, by)
        yield from release(rtld, map_)
    yield from rtld.unlock(_WRITE_LOCK)
    if any_tls:
        rtld.tls.next_generation(by)
        if static_used is not None:
            rtld.tls.static_used = static_used
        rtld.mirror.tls()
    yield from rtld.unlock(_TLS_LOCK)
    yield from activity(rtld, namespace, LA_ACT_CONSISTENT)
    if not namespace.maps and namespace is rtld.namespaces[-1]:
        while not rtld.namespaces[-1].maps:
            rtld.namespaces.pop()
        rtld.mirror.namespaces()
    rtld.set_state(namespace, RT_CONSISTENT)


def _repair(rtld: Rtld, map_: LinkMap, kept: dict[LinkMap, Parent | None]) -> Work:
    """Take the scopes of dying objects from a survivor.

    One without a search list of its own gets its dependencies in their place.
    """
    scopes: list[Scope] = []
    removed = False
    for scope in map_.scopes:
        if scope.symbolic or scope.owner in kept:
            scopes.append(scope)
            continue
        if not removed and not map_.searchlist and map_.initfini is not None:
            map_.searchlist[:] = map_.initfini
            rtld.mirror.searchlist(map_)
            scopes.append(map_.local_scope)
        removed = True
        if rtld.bus.scopes and scope.owner is not None:
            rtld.bus.emit(ScopeRemoved(map_.display_name, map_.ns, scope.owner.display_name))
    if removed:
        map_.scopes = scopes
        rtld.mirror.scopes(map_)
        yield from fewer_scopes(rtld, map_)
    if map_.loader is not None and map_.loader not in kept:
        map_.loader = None
        rtld.mirror.loader(map_)


def _destroy(rtld: Rtld, namespace: Namespace, map_: LinkMap, force: bool, by: str) -> None:
    """Unmap an object and forget it. A failed dlopen also gives back the unique symbols that it defined."""
    rtld.tls.tell_release(map_)
    if force:
        unique = namespace.unique
        for name in [name for name, first in unique.items() if first.map is map_]:
            del unique[name]
    if map_.map_end:
        rtld.index.remove(map_)
        departed = Departed(
            map_.map_start, map_.map_end, map_.display_name, map_.path, map_.addr, rtld.bus.now(),
            rtld.bus.upcoming if rtld.bus.dl else 0, by, map_.file_id,
        )  # fmt: skip
        rtld.index.depart(departed)
    if rtld.bus.dl:
        rtld.bus.emit(Unloaded(map_.display_name, map_.ns, map_.map_start, map_.map_end))
    rtld.on_unload(map_)
    unmap_object(rtld, map_)
    index = namespace.maps.index(map_)
    del namespace.maps[index]
    rtld.mirror.unlinked(namespace, index)
    if namespace.libc_map is map_:
        namespace.libc_map = None
    if rtld.init_first is map_:
        rtld.init_first = None
    rtld.search.forget(map_)
    for argument in map_.tlsdesc_arguments:
        rtld.heap.free(argument)
    rtld.mirror.free_map(map_)
