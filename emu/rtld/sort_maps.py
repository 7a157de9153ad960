"""The order of initialisation and finalisation: an object before the objects that it depends on.

Callers run constructors over the result from back to front, destructors from front to back.

Source: glibc elf/dl-sort-maps.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Sequence

SORT_ORIGINAL, SORT_DFS = 1, 2
"""The values of the tunable glibc.rtld.dynamic_sort."""


class SortableMap(Protocol):
    """What the sort looks at in a link map.

    `initfini` are the dependencies, the map itself first (None: not known yet); `reldeps` those that
    relocation added (None: it never added one); `faked` marks an entry that stands for a missing file,
    `main_map` the program of an `ld.so PROGRAM` command, to which no dependency leads.
    """

    @property
    def initfini(self) -> Sequence[SortableMap] | None:
        """Dependencies in DT_NEEDED order, own map first."""

    @property
    def reldeps(self) -> Sequence[SortableMap] | None:
        """Dependencies recorded by symbol look-up, in the order of their discovery."""

    @property
    def faked(self) -> bool:
        """Whether the map stands for a file that was not found."""

    @property
    def main_map(self) -> bool:
        """Whether the map is the program, and was loaded by ld.so."""


M = TypeVar("M", bound=SortableMap)


def sort_maps(
    maps: list[M],
    *,
    force_first: bool,
    for_fini: bool,
    algorithm: int = SORT_DFS,
    stays: Container[M] = (),
    first_always: bool = False,
) -> list[M]:
    """Return `maps` sorted so that, as far as cycles permit, each object precedes its dependencies.

    `force_first` keeps `maps[0]` in front; `for_fini` takes relocation dependencies into account. `algorithm`
    is the value of glibc.rtld.dynamic_sort: 1 is the original sort, any other value the depth-first one.
    `stays` are the maps that a dlclose will not finalise: the original sort does not move those.
    `first_always` keeps `maps[0]` in front also where relocation dependencies had a say, which the
    depth-first sort otherwise leaves out.

    Source: glibc elf/dl-sort-maps.c:_dl_sort_maps.
    Differs: dependencies outside `maps` are passed over, where ld.so relies on there being none.
    """
    if algorithm == SORT_ORIGINAL:
        return _sort_original(maps, force_first, for_fini, stays)
    return _sort_dfs(maps, force_first, for_fini, first_always)


def _sort_dfs(maps: list[M], force_first: bool, for_fini: bool, first_always: bool) -> list[M]:
    """Depth-first: reverse post-order, started from each map from the last to the first.

    With relocation dependencies in play, which may contradict the static ones, the result is sorted once more
    by the static dependencies alone: these prevail in a cycle. That path ends without regard to
    `force_first` unless `first_always`.
    """
    result = _reverse_postorder(maps, for_fini)
    if for_fini and any(m.reldeps is not None for m in result):
        result = _reverse_postorder(result, False)
        force_first &= first_always
    if force_first and result and result[0] is not maps[0] and not maps[0].faked:
        result.remove(maps[0])
        result.insert(0, maps[0])
    return result


def _reverse_postorder(maps: list[M], use_reldeps: bool) -> list[M]:
    # The recursion is kept on a list of iterators: a chain of dependencies may be deeper than Python's stack.
    pending = {id(m): m for m in maps if not m.faked}
    postorder: list[M] = []
    for root in reversed(maps):
        if pending.pop(id(root), None) is None:
            continue
        stack = [(root, _dependencies(root, use_reldeps))]
        while stack:
            current, dependencies = stack[-1]
            for dependency in dependencies:
                if not dependency.main_map and (found := pending.pop(id(dependency), None)) is not None:
                    stack.append((found, _dependencies(found, use_reldeps)))
                    break
            else:
                postorder.append(current)
                stack.pop()
    postorder.reverse()
    return postorder


def _dependencies(map_: SortableMap, use_reldeps: bool) -> Iterator[SortableMap]:
    """Yield the dependencies in the order of the visit.

    DT_NEEDED order, then relocation dependencies, the latest first.
    """
    yield from map_.initfini or ()
    if use_reldeps:
        yield from reversed(map_.reldeps or ())


def _sort_original(maps: list[M], force_first: bool, for_fini: bool, stays: Container[M]) -> list[M]:
    """The sort of 2.34 and before: move each object behind the last object that
    depends on it, until nothing moves.

    Cycles are cut by counting how often an object stood at the front of the unsorted part: once the next one
    to stand there has done so more often than the part is long, the front is taken as settled.
    """
    fixed = maps[:1] if force_first else []
    rest = maps[len(fixed) :]
    count = len(rest)
    seen = [0] * count
    i = 0
    while i < count - 1:
        seen[i] += 1
        this = rest[i]
        k = None
        if not (for_fini and this in stays):
            k = next((k for k in range(count - 1, i, -1) if _depends(rest[k], this, for_fini)), None)
        if k is not None:
            rest.insert(k, rest.pop(i))
            if seen[i + 1] <= count - i:
                seen.insert(k, seen.pop(i))
                continue
        i += 1
        seen[i:] = [0] * (count - i)
    return fixed + rest


def _depends(map_: SortableMap, other: SortableMap, for_fini: bool) -> bool:
    """Whether `map_` must precede `other`.

    A relocation dependency yields to a static one in the other direction.
    """
    if any(dependency is other for dependency in map_.initfini or ()):
        return True
    if not (for_fini and any(dependency is other for dependency in map_.reldeps or ())):
        return False
    return not any(dependency is map_ for dependency in other.initfini or ())
