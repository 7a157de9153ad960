"""Rules about what one C++ class has in two DSOs and that does not become one: typeinfo, and static members.

libstdc++ compares types by name (unless the name begins with `*`), so two typeinfo objects of one class are
one type there; libc++ compares the addresses of the names, so they are two unless both lead to one name:
dynamic_cast and catch fail. Where such types are met, `__dynamic_cast` and `__cxa_throw` are watched. Static
members are two variables under either library. A definition does not merge with others where it is hidden, or
where nobody who has another one sees it (RTLD_LOCAL).

Source: Itanium C++ ABI 2.9.1, 5.2.3; libc++ `_LIBCPP_TYPEINFO_COMPARISON_IMPLEMENTATION`; libstdc++
`type_info::operator==`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.analysis.check_data import ERROR
from emu.analysis.check_notes import NOWHERE, Notes, base
from emu.analysis.kept import how_kept, why_own
from emu.analysis.meant import is_libc, is_standard
from emu.analysis.referred import Referred
from emu.analysis.vague import INTERNAL, compares_addresses, is_of_c_function, is_vague, is_variable
from emu.core.errors import EmuError, MemoryFault
from emu.elf.demangle import demangle
from emu.elf.lsda import CATCH_ALL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from emu.analysis.bindings import Bindings, Exported
    from emu.process.backtrace import FrameInfo
    from emu.rtld.link_map import LinkMap

TYPE, STATIC = "type-twice", "static-twice"
_SHOWN = 4
_DEPTH = 16
"""Bases of a class that are followed at most: the guest's memory says how many there are."""
_CALLS = 100_000
"""Calls of `__dynamic_cast` and `__cxa_throw` that are looked at."""


class Types:
    """Knows which classes have several typeinfo objects, and which variables are there twice."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._hidden: dict[LinkMap, dict[bytes, int]] = {}
        self._referred: dict[LinkMap, Referred] = {}
        self._compares: dict[LinkMap, bool] = {}
        self._split: dict[int, bytes] = {}
        self._pairs: set[tuple[str, int, int]] = set()
        self._watched: set[int] = set()
        self._calls = 0

    def look(self, bindings: Bindings, new: Sequence[LinkMap]) -> None:
        """Objects were linked: what have they that others have, too?"""
        if not {TYPE, STATIC} & self._notes.rules:
            return
        for map_ in new:
            self._hidden[map_] = {} if is_libc(map_) else self._hidden_symbols(map_)
            self._compares[map_] = compares_addresses(bindings, map_)
            if self._compares[map_]:
                exported = bindings.table(map_).exports
                for name, value in self._notes.typeinfo(map_).items():
                    if name not in exported and not INTERNAL.search(name) and not is_standard(name):
                        self._hidden[map_].setdefault(name, value)
        for map_ in new:
            self._types(bindings, map_)
            self._statics(bindings, map_)

    def forget(self, start: int) -> None:
        """Drop the object that began there and is going."""
        for map_ in [map_ for map_ in self._hidden if map_.map_start == start]:
            del self._hidden[map_]
            self._referred.pop(map_, None)
            self._compares.pop(map_, None)
            self._split = {at: name for at, name in self._split.items() if not map_.contains(at)}

    def _hidden_symbols(self, map_: LinkMap) -> dict[bytes, int]:
        """Return the C++ objects of external linkage that an object has but does not export."""
        hidden = self._notes.hidden(map_)
        return {
            name: value
            for name, value in hidden.items()
            if not INTERNAL.search(name) and not is_standard(name)
        }

    # -- typeinfo --------------------------------------------------------------------------------------------

    def _types(self, bindings: Bindings, map_: LinkMap) -> None:
        if not self._compares[map_]:
            return
        mine = dict(self._typeinfo(bindings, map_))
        for other in bindings.objects():
            if other is map_ or other.ns != map_.ns or not self._compares.get(other, False):
                continue
            theirs = dict(self._typeinfo(bindings, other))
            names = sorted(name for name, at in mine.items() if self._differ(at, theirs.get(name, at)))
            if not names:
                continue
            for name in names:
                self._split[mine[name]] = self._split[theirs[name]] = name
            self._tell_types(names, map_, other)
        if self._split:
            self._watch_casts(bindings)

    def _differ(self, one: int, other: int) -> bool:
        """Whether two typeinfo objects are two types: their names lie at different places.

        Source: Itanium C++ ABI 2.9.5 (the name follows the vtable).
        """
        arena = self._notes.process.arena
        try:
            return one != other and arena.read_u64(one + 8) != arena.read_u64(other + 8)
        except MemoryFault:
            return True

    def _typeinfo(self, bindings: Bindings, map_: LinkMap) -> Iterator[tuple[bytes, int]]:
        """Yield the class types of an object and the typeinfo that its own code means by each."""
        for name, value in self._hidden[map_].items():
            if name.startswith(b"_ZTI"):
                yield name, map_.addr + value
        for name in bindings.table(map_).exports:
            if name.startswith(b"_ZTI") and not is_standard(name):
                yield name, self._meant(bindings, map_, name)

    def _meant(self, bindings: Bindings, map_: LinkMap, name: bytes) -> int:
        reference = bindings.reference(map_, name)
        found = bindings.bound(map_, *reference) if reference is not None else None
        return _address(found or bindings.table(map_).exports[name])

    def _tell_types(self, names: list[bytes], one: LinkMap, other: LinkMap) -> None:
        key = (TYPE, *sorted((one.serial, other.serial)))
        self._pairs.add(key)  # type: ignore[arg-type]
        what = ", ".join(demangle(name.decode()) for name in names[:_SHOWN])
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        places = " and in ".join(f"{base(m.display_name)} ({self._how(m, names[0])})" for m in (one, other))
        plain = [demangle(name.decode()).removeprefix("typeinfo for ") for name in names[:_SHOWN]]
        self._notes.report(
            TYPE, f"{what}{more} {'is' if len(names) == 1 else 'are'} in {places}: two objects for one type, and libc++ compares addresses:"
            " dynamic_cast and catch across them fail",
            NOWHERE, [], [one.display_name, other.display_name], key=key, remedies=self._type_remedies(names[0], ", ".join(plain), one, other),
        )  # fmt: skip

    def _how(self, map_: LinkMap, name: bytes) -> str:
        """Return how an object has its own definition: kept to itself, or why others' do not become it."""
        if name in self._hidden[map_]:
            return how_kept(self._notes.process.symbols, map_, name)
        return why_own(self._notes.process, map_, name)

    def _type_remedies(self, name: bytes, types: str, one: LinkMap, other: LinkMap) -> list[str]:
        """Return what makes one type of two: visibility helps only where it is what keeps them apart."""
        ways = {base(map_.display_name): self._how(map_, name) for map_ in (one, other)}
        remedies = [f"link {who} without -Bsymbolic" for who, how in ways.items() if "Bsymbolic" in how]
        remedies += [f"open {who} without RTLD_DEEPBIND" for who, how in ways.items() if "DEEPBIND" in how]
        if any(map_ for map_ in (one, other) if name in self._hidden[map_]) or not remedies:
            remedies.append(
                f'give {types} default visibility in all objects: __attribute__((visibility("default"))) on the class'
            )
        return [
            *remedies,
            f"give {types}, and each of its bases that both have, a key function (a virtual function that is not inline) in one shared library,"
            " and export it from there",
        ]

    def _watch_casts(self, bindings: Bindings) -> None:
        for map_ in bindings.objects():
            for symbol, entered in ((b"__dynamic_cast", self._casts), (b"__cxa_throw", self._throws)):
                found = bindings.table(map_).exports.get(symbol)
                if found is not None and _address(found) not in self._watched:
                    self._watch(_address(found), entered)

    def _watch(self, address: int, entered: Callable[[], None]) -> None:
        self._watched.add(address)
        self._notes.process.cpu.watch_code(address, address + 1, lambda _: entered())

    def _casts(self) -> None:
        """`__dynamic_cast(object, static type, wanted type, hint)` is entered:
        has the object's class the wanted one for a base, but not that typeinfo?
        """
        self._calls += 1
        wanted = self._notes.argument(2)
        name = self._split.get(wanted)
        if name is None or self._calls > _CALLS:
            return
        arena = self._notes.process.arena
        try:
            vtable = arena.read_u64(self._notes.argument(0))
            bases = self._bases(arena.read_u64(vtable - 8))
        except MemoryFault:
            return
        if wanted in bases or name not in {self._split.get(at) for at in bases}:
            return
        rtld = self._notes.process.rtld
        assert rtld is not None
        theirs = next(at for at in bases if self._split.get(at) == name)
        one, other = rtld.find_map(wanted), rtld.find_map(theirs)
        if one is None or other is None:
            return
        here = self._notes.here()
        text = demangle(name.decode()).removeprefix("typeinfo for ")
        line = self._notes.line(here._replace(frames=here.frames[1:]))
        self._notes.report(
            TYPE, f"dynamic_cast to {text}{f' at {line}' if line else ''} fails, though the object is one: typeinfo for {text} is in {base(one.display_name)}"
            f" ({self._how(one, name)}) and in {base(other.display_name)} ({self._how(other, name)}), two objects, and libc++ compares addresses",
            here, [], [one.display_name, other.display_name], key=(TYPE, *sorted((one.serial, other.serial))), severity=ERROR,
            remedies=self._type_remedies(name, text, one, other),
        )  # fmt: skip

    def _throws(self) -> None:
        """`__cxa_throw(object, type, destructor)` is entered:
        does a handler for the class pass it, since it means another typeinfo?
        """
        self._calls += 1
        if self._calls > _CALLS:
            return
        try:
            types = self._bases(self._notes.argument(1))
            names = {self._split[at] for at in types if at in self._split}
            passed = self._passed(types, names) if names else None
        except (MemoryFault, EmuError):
            return  # the guest's tables are what they are
        if passed is not None:
            self._tell_catch(*passed)

    def _passed(self, types: Sequence[int], names: set[bytes]) -> tuple[int, FrameInfo] | None:
        """Return the typeinfo of the first handler that is passed though it is for such a class, with its
        frame; None where it is caught first.
        """
        process = self._notes.process
        for frame in process.backtrace()[1:]:
            if frame.inlined or frame.object in ("", "[emu]"):
                continue
            handlers = process.backtraces.caught_types(frame.pc - 1)
            for handler in handlers or ():
                if handler == CATCH_ALL or handler in types:
                    return None
                if self._split.get(handler) in names:
                    return handler, frame
            if handlers is None:
                return None
        return None

    def _tell_catch(self, handler: int, frame: FrameInfo) -> None:
        rtld = self._notes.process.rtld
        assert rtld is not None
        name = self._split[handler]
        thrown = next(at for at in self._bases(self._notes.argument(1)) if self._split.get(at) == name)
        one, other = rtld.find_map(thrown), rtld.find_map(handler)
        if one is None or other is None:
            return
        here = self._notes.here()
        text = demangle(name.decode()).removeprefix("typeinfo for ")
        line = self._notes.line(here._replace(frames=here.frames[1:]))
        where = (
            f"{base(frame.file)}:{frame.line}" if frame.file else f"{base(frame.object)}+{frame.offset:#x}"
        )
        self._notes.report(
            TYPE, f"an exception of type {text}{f', thrown at {line},' if line else ''} passes the catch for that type in {frame.function or '??'} ({where}):"
            f" typeinfo for {text} is in {base(one.display_name)} ({self._how(one, name)}) and in {base(other.display_name)} ({self._how(other, name)}),"
            " two objects, and libc++ compares addresses",
            here, [], [one.display_name, other.display_name], key=(TYPE, *sorted((one.serial, other.serial))), severity=ERROR,
            remedies=self._type_remedies(name, text, one, other),
        )  # fmt: skip

    def _bases(self, type_: int) -> list[int]:
        """Return the typeinfo of a class and of its bases.

        Source: Itanium C++ ABI 2.9.5 (__si_class_type_info, __vmi_class_type_info).
        """
        arena, waiting = self._notes.process.arena, [type_]
        found: list[int] = []
        while waiting and len(found) < _DEPTH:
            at = waiting.pop()
            found.append(at)
            kind = self._notes.process.symbols.variable(arena.read_u64(at) - 16)
            if "__si_class_type_info" in kind:
                waiting.append(arena.read_u64(at + 16))
            elif "__vmi_class_type_info" in kind:
                count = min(arena.read_u32(at + 20), _DEPTH)
                waiting += [arena.read_u64(at + 24 + 16 * number) for number in range(count)]
        return found

    # -- static members --------------------------------------------------------------------------------------

    def _statics(self, bindings: Bindings, map_: LinkMap) -> None:
        """Variables of vague linkage (weak or unique where they are exported) of which
        another object has its own.
        """
        groups: dict[LinkMap, list[bytes]] = {}
        for name, definition in bindings.table(map_).exports.items():
            if not is_vague(name, definition) or not self._is_elsewhere(bindings, map_, name):
                continue
            mine = self._own(bindings, map_, name)
            if mine is None or mine.map is not map_:
                continue
            for other in bindings.objects():
                if other is map_ or other.ns != map_.ns:
                    continue
                theirs = bindings.table(other).exports.get(name)
                if name in self._hidden.get(other, ()):
                    groups.setdefault(other, []).append(name)
                elif theirs is not None and is_vague(name, theirs):
                    own = self._own(bindings, other, name)
                    if own is not None and own.map is other:
                        groups.setdefault(other, []).append(name)
        for name, value in self._hidden[map_].items():
            if name.startswith((b"_ZT", b"_ZG")):
                continue
            if name.startswith(b"_ZZ") and not is_of_c_function(name) and is_variable(map_, value):
                for other in self._keeping(bindings, map_, name):
                    groups.setdefault(other, []).append(name)
            for definition in bindings.definitions(map_.ns, name):
                if definition.map is not map_ and is_vague(name, definition):
                    groups.setdefault(definition.map, []).append(name)
        for other, names in groups.items():
            key = (STATIC, *sorted((map_.serial, other.serial)))
            if key not in self._pairs:
                self._pairs.add(key)  # type: ignore[arg-type]
                self._tell_statics(sorted(set(names)), map_, other)

    def _is_elsewhere(self, bindings: Bindings, map_: LinkMap, name: bytes) -> bool:
        """Whether another object has a definition of a name, exported or not."""
        return len(bindings.definitions(map_.ns, name)) > 1 or any(
            name in hidden for other, hidden in self._hidden.items() if other is not map_
        )

    def _keeping(self, bindings: Bindings, map_: LinkMap, name: bytes) -> Iterator[LinkMap]:
        """Yield the other objects that have a static local of an inline function for themselves alone,
        as this one has.
        """
        for other in bindings.objects():
            theirs = self._hidden.get(other, {}).get(name)
            if (
                theirs is not None
                and other is not map_
                and other.ns == map_.ns
                and is_variable(other, theirs)
            ):
                yield other

    def _own(self, bindings: Bindings, map_: LinkMap, name: bytes) -> Exported | None:
        """Return the definition that an object uses: by its reference, or without one its own, if it was
        linked to that (the program's, or by -Bsymbolic) and its code or a pointer in its data refers to it.
        """
        reference = bindings.reference(map_, name)
        if reference is not None:
            return bindings.bound(map_, *reference)
        own = bindings.table(map_).exports.get(name) if map_.symbolic or map_.type == 0 else None
        if own is None:
            return None
        if map_ not in self._referred:
            self._referred[map_] = Referred(self._notes.process.arena, map_)
        value = map_.symtab.entry(own.number).value
        return own if self._referred[map_].uses(value, own.size) else None

    def _tell_statics(self, names: list[bytes], one: LinkMap, other: LinkMap) -> None:
        shown = ", ".join(demangle(name.decode(errors="replace")) for name in names[:_SHOWN])
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        places = " and in ".join(f"{base(m.display_name)} ({self._how(m, names[0])})" for m in (one, other))
        it = "it" if len(names) == 1 else "each"
        self._notes.report(
            STATIC, f"{shown}{more} {'is' if len(names) == 1 else 'are'} in {places}: {it} is a variable of its own in both",
            NOWHERE, [], [one.display_name, other.display_name], key=(STATIC, *sorted((one.serial, other.serial))),
            remedies=self._static_remedies(names[0], one, other),
        )  # fmt: skip

    def _static_remedies(self, name: bytes, one: LinkMap, other: LinkMap) -> list[str]:
        """Return how two variables become one, or are hidden from each other for good."""
        remedies = [
            "define it in one shared library that both need, and only declare it (extern) in the header"
        ]
        kept = [map_ for map_ in (one, other) if name in self._hidden[map_]]
        if len(kept) == 2:
            program = next((base(map_.display_name) for map_ in kept if map_.type == 0), "")
            also = f", and link {program} with -rdynamic" if program else ""
            return [*remedies, f"export it from both: default visibility of its function or class{also}"]
        for map_ in (one, other):
            if name in self._hidden[map_]:
                how = "link it with -rdynamic" if map_.type == 0 else "default visibility"
                remedies.append(f"export it from {base(map_.display_name)}: {how}")
            elif map_.symbolic:
                remedies.append(
                    f"link {base(map_.display_name)} without -Bsymbolic (-Bsymbolic-functions leaves data alone)"
                )
        if len(remedies) == 1:
            remedies.append(
                f"open {base(one.display_name)} or {base(other.display_name)}, whichever comes first, with RTLD_GLOBAL"
            )
            remedies.append("if each is to have its own, hide it in both: -fvisibility=hidden")
        return remedies


def _address(definition: Exported) -> int:
    return definition.map.addr + definition.map.symtab.entry(definition.number).value
