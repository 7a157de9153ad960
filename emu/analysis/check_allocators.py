"""The rule about memory of one allocator that another frees.

As long as all objects of a namespace get their malloc family from one provider there is nothing to see. From
the moment on at which they do not, the functions of all providers are watched: a block that gets to a
provider that did not hand it out, and that does not pass it on to one who did, is the error. Providers that
only wrap another's functions are found out in the same way.

Source: glibc manual, "Replacing malloc"; C++ [new.delete].
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from emu.analysis.bindings import own_scope
from emu.analysis.check_copies import is_deepbound
from emu.analysis.check_data import ERROR
from emu.analysis.check_notes import NOWHERE, Notes, Occasion, base
from emu.analysis.meant import ALLOCATION_FUNCTIONS, MALLOC, is_cxx_runtime, is_libc, is_operator
from emu.core.record import NamedTuple
from emu.elf.demangle import demangle
from emu.machine import regs
from emu.rtld.link_map import LT_LOADED

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from emu.analysis.bindings import Bindings
    from emu.rtld.link_map import LinkMap

RULE = "allocator-split"
_FREES = frozenset((b"free", b"cfree", b"realloc", b"reallocarray"))
_ALLOCATOR = frozenset((b"malloc",))
_QUERIES = frozenset((b"malloc_usable_size",))
_WRAPPED = (b"dlsym", b"dlvsym", b"__libc_malloc", b"__libc_free")
"""What an object refers to that only wraps another's malloc."""
_PLACES = 10_000
"""So many blocks are known with the place where they were allocated."""


class _Use(NamedTuple):
    """An object whose reference to a function of a family is bound to `provider`; `private`: to its own,
    which nobody else sees.
    """

    user: LinkMap
    name: bytes
    provider: LinkMap
    private: bool = False


class _AllocatorCall(NamedTuple):
    stack: int
    provider: LinkMap
    name: bytes
    aligned: int


class _PendingFree(NamedTuple):
    """A block that came to a provider that it is not from: it may still pass it on."""

    block: int
    provider: LinkMap
    name: bytes
    place: Occasion
    stack: int


class _Block(NamedTuple):
    owners: frozenset[LinkMap]
    place: Occasion


class Allocators:
    """Knows who gets which allocator, and watches them where there are several."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._uses: list[_Use] = []
        self._watched: set[int] = set()
        self._returns: set[int] = set()
        self._calls: dict[int, list[_AllocatorCall]] = {}
        self._blocks: dict[int, _Block] = {}
        self._pending: dict[int, _PendingFree] = {}
        self._passes_on: dict[LinkMap, bool] = {}
        self._split: dict[tuple[LinkMap, LinkMap, bool], tuple[_Use, _Use, Occasion]] = {}

    def look(self, bindings: Bindings, new: Sequence[LinkMap]) -> None:
        """Objects were linked: whose functions do they get?"""
        if RULE not in self._notes.rules:
            return
        rtld = self._notes.process.rtld
        ld_so = rtld.ld_so if rtld is not None else None
        for map_ in new:
            for index, (name, class_) in bindings.table(map_).references.items():
                if name not in MALLOC and not is_operator(name):
                    continue
                found = bindings.bound(map_, index, class_)
                if found is None or found.map is ld_so or _passes_on(found.map, name):
                    continue
                if name in MALLOC and not bindings.table(found.map).exports.keys() & _ALLOCATOR:
                    continue  # a single function around the others
                self._uses.append(_Use(map_, name, found.map))
            self._private(bindings, map_)
        opened = self._notes.here() if any(map_.type == LT_LOADED for map_ in new) else NOWHERE
        for first, second in self._splits():
            key = first.provider, second.provider, is_operator(first.name)
            if key not in self._split and (key[1], key[0], key[2]) not in self._split:
                self._split[key] = first, second, opened
        if self._split:
            for provider in {use.provider for use in self._uses}:
                self._watch(bindings, provider)

    def _private(self, bindings: Bindings, map_: LinkMap) -> None:
        """Functions that an object has for itself:
        hidden, or exported and bound at link time (-Bsymbolic).
        """
        if is_libc(map_):
            return
        names = list(self._notes.hidden(map_))
        if map_.symbolic:
            names += bindings.table(map_).exports
        mine = [name for name in names if name in ALLOCATION_FUNCTIONS]
        if not is_cxx_runtime(map_):
            self._uses += [_Use(map_, name, map_, private=True) for name in mine]

    def forget(self, start: int) -> None:
        """Drop the object that began there and is going."""
        self._uses = [use for use in self._uses if start not in (use.user.map_start, use.provider.map_start)]
        self._blocks = {p: b for p, b in self._blocks.items() if all(o.map_start != start for o in b.owners)}
        self._watched = {at for at in self._watched if not self._gone(start, at)}
        self._returns = {at for at in self._returns if not self._gone(start, at)}

    def _gone(self, start: int, address: int) -> bool:
        gone = self._notes.process.rtld.index.find_departed(address) if self._notes.process.rtld else None
        return gone is not None and gone.start == start

    # -- who gets what ---------------------------------------------------------------------------------------

    def _splits(self) -> Iterator[tuple[_Use, _Use]]:
        """Yield pairs of uses in one namespace that do not fit:
        the same function from two providers, or malloc from one and free from another.
        """
        for operators in (False, True):
            uses = [use for use in self._uses if is_operator(use.name) == operators]
            for ns in {use.user.ns for use in uses}:
                mine = [use for use in uses if use.user.ns == ns]
                yield from _unlike(mine, operators=operators)

    def _wraps(self, provider: LinkMap) -> bool:
        """Whether a provider hands out another's blocks: as it was seen to do, or seems to."""
        if provider in self._passes_on:
            return self._passes_on[provider]
        if is_libc(provider):
            return False
        if is_cxx_runtime(provider):
            return True
        table = provider.symtab
        return any(
            table.strings.holds(name + b"\0", table.entry(index).name) and not table.entry(index).shndx
            for index in range(1, table.count)
            for name in _WRAPPED
        )

    # -- blocks ----------------------------------------------------------------------------------------------

    def _watch(self, bindings: Bindings, provider: LinkMap) -> None:
        """Watch all functions of both families that an object has."""
        places = {
            name: provider.symtab.entry(found.number).value
            for name, found in bindings.table(provider).exports.items()
        }
        for name, vaddr in (places | self._notes.hidden(provider)).items():
            if name not in MALLOC and not is_operator(name) or _passes_on(provider, name):
                continue
            address = provider.addr + vaddr
            if address in self._watched or name in _QUERIES:
                continue
            self._watched.add(address)
            frees = name in _FREES or name.startswith(b"_Zd")
            handler = self._frees if frees else self._allocates
            self._notes.process.cpu.watch_code(
                address, address + 1, partial(self._entered, handler, provider, name)
            )

    def _entered(self, handler: object, provider: LinkMap, name: bytes, _address: int) -> None:
        assert callable(handler)
        handler(provider, name)

    def _allocates(self, provider: LinkMap, name: bytes) -> None:
        """A function that returns a block is entered: see what it returns."""
        process = self._notes.process
        stack = process.cpu.get(regs.RSP)
        task = self._notes.task()
        self._settle(task, stack)
        back = process.arena.read_u64(stack)
        calls = self._calls.setdefault(task, [])
        calls[:] = [call for call in calls if call.stack > stack]
        calls.append(
            _AllocatorCall(stack, provider, name, self._notes.argument(0) if name == b"posix_memalign" else 0)
        )
        if back not in self._returns:
            self._returns.add(back)
            process.cpu.watch_code(back, back + 1, lambda _: self._returned())

    def _returned(self) -> None:
        process = self._notes.process
        stack = process.cpu.get(regs.RSP)
        calls = self._calls.get(self._notes.task(), [])
        while calls and calls[-1].stack + 8 <= stack:
            call = calls.pop()
            if call.stack + 8 != stack:
                continue
            block = process.arena.read_u64(call.aligned) if call.aligned else process.cpu.get(regs.RAX)
            if block:
                self._allocated(call, block, nested=bool(calls))

    def _allocated(self, call: _AllocatorCall, block: int, *, nested: bool) -> None:
        known = self._blocks.get(block)
        inner = known.owners if known is not None else frozenset()
        if inner and call.provider not in inner:
            self._passes_on[call.provider] = True
        elif not inner:
            self._passes_on.setdefault(call.provider, False)
        place = self._notes.here() if not nested and len(self._blocks) < _PLACES else NOWHERE
        self._blocks[block] = _Block(inner | {call.provider}, place)

    def _frees(self, provider: LinkMap, name: bytes) -> None:
        """A function that takes a block is entered."""
        process = self._notes.process
        stack, block, task = process.cpu.get(regs.RSP), self._notes.argument(0), self._notes.task()
        pending = self._pending.get(task)
        known = self._blocks.get(block)
        if pending is not None and pending.block == block and stack <= pending.stack:
            if known is not None and provider in known.owners:
                del self._pending[task]  # it was passed on to one who handed it out
                self._passes_on[pending.provider] = True
        else:
            self._settle(task, stack)
        if known is not None and provider not in known.owners and task not in self._pending:
            self._pending[task] = _PendingFree(block, provider, name, self._notes.here(), stack)
        if known is not None and provider in known.owners:
            del self._blocks[block]
        if name in (b"realloc", b"reallocarray"):
            self._allocates(provider, name)

    def _settle(self, task: int, stack: int) -> None:
        """A thread is somewhere else by now: what it gave to the wrong provider has stayed there."""
        pending = self._pending.get(task)
        if pending is None or stack < pending.stack:
            return
        del self._pending[task]
        self._tell_mixed(pending)

    def _tell_mixed(self, pending: _PendingFree) -> None:
        known = self._blocks.pop(pending.block, None)
        if known is None:
            return
        notes = self._notes
        owner = sorted(known.owners, key=lambda map_: map_.serial)[-1]
        mine, theirs = base(owner.display_name), base(pending.provider.display_name)
        text = demangle(pending.name.decode())
        at = notes.line(pending.place._replace(frames=pending.place.frames[1:]))
        why = self._why(owner, pending.provider)
        notes.report(
            RULE,
            f"a block of {mine}'s allocator{_from(notes.line(known.place))} is given to {text} of {theirs}"
            f"{f' at {at}' if at else ''}: it is not one of its own{why}",
            pending.place, [("allocated by", known.place)], [owner.display_name, pending.provider.display_name],
            key=(owner.serial, pending.provider.serial), severity=ERROR, remedies=self._remedies_for(owner, pending.provider),
        )  # fmt: skip

    # -- the end ---------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """The run has ended: report what was mixed last, and the splits of which no mixing was seen."""
        for pending in list(self._pending.values()):
            self._tell_mixed(pending)
        self._pending.clear()
        mixed = {frozenset(key[1:]) for key in self._notes.drafts if key[0] == RULE}
        for (first, second, operators), (mine, yours, opened) in self._split.items():
            if frozenset((first.serial, second.serial)) in mixed or self._wraps(first) or self._wraps(second):
                continue
            if mine.private or yours.private or not self._outstanding(self._odd(mine, yours)):
                continue  # each frees what it allocates, as far as was seen
            if operators and is_cxx_runtime(first) and is_cxx_runtime(second):
                continue
            self._tell_split(mine, yours, opened)

    def _odd(self, mine: _Use, yours: _Use) -> LinkMap:
        """Return the provider of two that fewer objects have."""
        deep = self._deepbound(mine, yours)
        if deep is not None:
            return (mine if mine.user is deep else yours).provider
        users = [sum(use.provider is one.provider for use in self._uses) for one in (mine, yours)]
        return (mine if users[0] < users[1] else yours).provider

    def _outstanding(self, provider: LinkMap) -> bool:
        """Whether blocks of a provider were never freed, or none was ever seen."""
        return provider not in self._passes_on or any(b.owners == {provider} for b in self._blocks.values())

    def _why(self, owner: LinkMap, other: LinkMap) -> str:
        for (first, second, _), (mine, yours, _) in self._split.items():
            if {first, second} == {owner, other}:
                return f": {_whose(yours)}, but {_whose(mine)}{self._reason(mine, yours)}"
        return ""

    def _tell_split(self, mine: _Use, yours: _Use, opened: Occasion) -> None:
        self._notes.report(
            RULE, f"{_whose(yours)}, but {_whose(mine)}: blocks will be mixed{self._reason(mine, yours)}",
            NOWHERE, [("opened by", opened)], [mine.user.display_name, yours.user.display_name, mine.provider.display_name, yours.provider.display_name],
            key=(mine.provider.serial, yours.provider.serial), remedies=self._remedies(mine, yours),
        )  # fmt: skip

    def _remedies_for(self, owner: LinkMap, other: LinkMap) -> list[str]:
        for (first, second, _), (mine, yours, _) in self._split.items():
            if {first, second} == {owner, other}:
                return self._remedies(mine, yours)
        return []

    def _reason(self, mine: _Use, yours: _Use) -> str:
        deep = self._deepbound(mine, yours)
        return f" ({base(deep.display_name)} was opened with RTLD_DEEPBIND)" if deep is not None else ""

    def _deepbound(self, mine: _Use, yours: _Use) -> LinkMap | None:
        rtld = self._notes.process.rtld
        main = rtld.namespaces[0].main if rtld is not None else None
        return next((use.user for use in (mine, yours) if is_deepbound(use.user, main)), None)

    def _remedies(self, mine: _Use, yours: _Use) -> list[str]:
        deep = self._deepbound(mine, yours)
        if deep is not None:
            return [
                f"open {base(deep.display_name)} without RTLD_DEEPBIND",
                f"let {base(deep.display_name)} free what it allocates",
            ]
        own = [
            use.provider
            for use in (mine, yours)
            if not is_libc(use.provider) and not is_cxx_runtime(use.provider)
        ]
        who = base(own[0].display_name) if own else base(mine.provider.display_name)
        if mine.name != yours.name:
            return [
                f"define all of the family in {who}: malloc, calloc, realloc, free, aligned_alloc, memalign, posix_memalign (operator new with its delete)"
            ]
        return [
            f"export the allocator of {who} from one object that everybody finds first (the program, or a library that it links)",
            f"hide it in {who}, and let {who} free what it allocates",
        ]


def _passes_on(provider: LinkMap, name: bytes) -> bool:
    """Whether a function of libc calls the one realloc that everybody else gets.

    Source: glibc malloc/reallocarray.c.
    """
    return name == b"reallocarray" and is_libc(provider)


def _unlike(uses: list[_Use], *, operators: bool) -> Iterator[tuple[_Use, _Use]]:
    by_name: dict[bytes, dict[LinkMap, _Use]] = {}
    for use in uses:
        by_name.setdefault(use.name, {}).setdefault(use.provider, use)
    for providers in by_name.values():
        one = list(providers.values())
        yield from ((one[0], other) for other in one[1:])
    if operators:
        return  # the library's own operators call those that were replaced
    frees = list(by_name.get(b"free", {}).values())
    for name, providers in by_name.items():
        if name == b"free" or name in _QUERIES:
            continue
        for use in providers.values():
            for free in frees:
                if free.provider is not use.provider and own_scope(use.user):
                    yield use, free


def _whose(use: _Use) -> str:
    user = use.provider if is_libc(use.user) else use.user  # libc's own calls show what it was replaced by
    owner = "its own" if user is use.provider else f"{base(use.provider.display_name)}'s"
    return f"{base(user.display_name)}'s {demangle(use.name.decode())} is {owner}"


def _from(line: str) -> str:
    return f" (from {line})" if line else ""
