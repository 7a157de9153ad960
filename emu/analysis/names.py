"""What the user means by SYMBOL and OBJECT: names as people write them, found in the tables of the loaded objects."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from emu.core.errors import EXIT_FINDINGS, EmuError
from emu.elf import constants as c
from emu.elf.demangle import demangle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from emu.rtld.address_index import Departed
    from emu.rtld.link_map import LinkMap
    from emu.rtld.rtld import Rtld

_NEAREST = 5


class NotFoundError(EmuError):
    """Nothing of that name, or several things: the message says which there are."""

    exit_code = EXIT_FINDINGS


class GoneError(NotFoundError):
    """What was asked for was there, and has gone."""


def parse(word: str) -> tuple[str, str | None]:
    """Return the name and the version of `name`, `name@VERSION` or `name@@VERSION`, as readelf and nm write them."""
    name, at, version = word.partition("@")
    return (name, version.lstrip("@")) if at and name and version.lstrip("@") else (word, None)


def find_symbol(rtld: Rtld, word: str, unexported: Callable[[LinkMap, bytes], object]) -> bytes:
    """Return the symbol's name as the objects have it; `word` is that name, or a demangled one with or without its parameters.

    Of aliases (see there) it is the first that some object refers to. `unexported` finds a definition that only the static symbol table of an
    object has.
    Raises NotFoundError, with the nearest names, or with all that it may mean.
    """
    exact = os.fsencode(word)
    names = _all_names(rtld)
    if exact in names:
        return exact
    readable = {raw: demangle(raw.decode(errors="replace")) for raw in sorted(names) if raw.startswith(b"_Z")}
    wanted = _without_blanks(word)
    found = [raw for raw, text in readable.items() if _without_blanks(text) == wanted]
    if not found:
        shorter = {raw: _without_parameters(text) for raw, text in readable.items()}
        found = [
            raw
            for raw, text in shorter.items()
            if wanted in (_without_blanks(text), _without_blanks(_without_return(text)))
        ]
    if len(found) == 1 or (found and aliases(rtld, found[0]) == found[1:]):
        referred = _all_names(rtld, undefined=True)
        return next((raw for raw in found if raw in referred), found[0])
    if found:
        listed = "\n".join(f"  {raw.decode(errors='replace')}  {readable[raw]}" for raw in found)
        raise NotFoundError(f"{word}: ambiguous, choose one of\n{listed}")
    text = f"no loaded object has a dynamic symbol {word}"
    maps = [map_ for namespace in rtld.namespaces for map_ in namespace.maps if map_.real is map_]
    keeping = [map_.display_name for map_ in maps if unexported(map_, exact) is not None]
    if keeping:
        text += f"; not exported, and so bound without a look-up: that of {', '.join(keeping)}"
    raise NotFoundError(missing(text, word, _spellings(names, readable.values())))


def aliases(rtld: Rtld, name: bytes) -> list[bytes]:
    """Return the symbols that people write as they write `name`, and that each object defines where it defines that.

    So it is with the two names of a C++ constructor or destructor of a class without virtual bases. Source: Itanium C++ ABI 5.1.4.3.
    """
    if not name.startswith(b"_Z"):
        return []
    places: dict[bytes, set[tuple[LinkMap, int, int]]] = {}
    for namespace in rtld.namespaces:
        for map_ in namespace.maps:
            table = map_.symtab
            symbols = [(index, *table.fields(index)) for index in range(1, table.count)]
            here = {(s[4], s[5]) for s in symbols if s[4] and table.strings.holds(name + b"\0", s[1])}
            for index, _, _, _, shndx, value, _ in symbols:
                if (shndx, value) in here:
                    places.setdefault(table.symbol_name(index), set()).add((map_, shndx, value))
    return sorted(
        other
        for other in places
        if other != name and places[other] == places[name] and _readable(other) == _readable(name)
    )


def _readable(name: bytes) -> str:
    return demangle(name.decode(errors="replace"))


def find_objects(rtld: Rtld, word: str) -> list[LinkMap]:
    """Return the loaded objects that `word` names: a soname, a file's name, a path.

    Raises NotFoundError, which says so if the object has gone.
    """
    spellings = {word, _real_path(rtld, word)} if "/" in word else {word}
    maps = [map_ for namespace in rtld.namespaces for map_ in namespace.maps if map_.real is map_]
    found = [map_ for map_ in maps if spellings & set(names_of(rtld, map_))]
    if found:
        return found
    for gone in reversed(rtld.index.departed):
        if spellings & {gone.name, gone.path, os.path.basename(gone.name), os.path.basename(gone.path)}:
            raise GoneError(gone_text(word, gone))
    known = {name for map_ in maps for name in names_of(rtld, map_)}
    raise NotFoundError(missing(f"no object {word} is loaded", word, known))


def gone_text(word: str, gone: Departed) -> str:
    """Return when and by whom an object was unloaded."""
    return f"{word} has gone: it was unloaded after {gone.time / 1e9:.6f} s by {gone.by}"


def names_of(rtld: Rtld, map_: LinkMap) -> Iterator[str]:
    """Yield the names that an object is known by: its paths, their last parts, its soname, what it was asked for as."""
    yield map_.display_name
    yield map_.path
    yield _real_path(rtld, map_.path)
    yield os.path.basename(map_.display_name)
    yield os.path.basename(map_.path)
    yield from (name for name in map_.lib_names if name)
    if map_.soname is not None:
        yield map_.soname
    if map_ is rtld.namespaces[0].main:
        yield rtld.program


def _real_path(rtld: Rtld, path: str) -> str:
    try:
        return rtld.files.realpath(path)
    except OSError:
        return path  # the vDSO, or a file that is gone


def _all_names(rtld: Rtld, *, undefined: bool = False) -> set[bytes]:
    """Return the names in all symbol tables, or those that are not defined where they stand."""
    names: set[bytes] = set()
    for namespace in rtld.namespaces:
        for map_ in namespace.maps:
            table = map_.symtab
            size = len(table.strings.data)
            # Without a hash table the table's end is a guess: what lies behind it may be no symbol.
            symbols = (table.fields(index) for index in range(1, table.count))
            places = (fields[0] for fields in symbols if not undefined or fields[3] == c.SHN_UNDEF)
            names.update(table.strings.at(place) for place in places if place < size)
    names.discard(b"")
    return names


def _without_blanks(text: str) -> str:
    return "".join(text.split())


def _without_parameters(text: str) -> str:
    """Return a demangled name up to the parameter list, which is the last one in parentheses that no template or other list holds."""
    end = text.rfind(")")
    depth = 0
    for at in range(end, -1, -1):
        depth += {")": 1, "(": -1}.get(text[at], 0)
        if depth == 0:
            return text[:at] if at > 0 else text
    return text


def _without_return(text: str) -> str:
    """Return a demangled name without the return type that a template function has, and only such a one."""
    depth = 0
    if not text.endswith(">") or " for " in text:
        return text
    for at in range(len(text) - 1, -1, -1):
        depth += {">": 1, "<": -1, ")": 1, "(": -1}.get(text[at], 0)
        if depth == 0 and text[at] == " ":
            return text[at + 1 :]
    return text


def _spellings(names: Iterable[bytes], readable: Iterable[str]) -> set[str]:
    plain = {name.decode(errors="replace") for name in names}
    return plain.union(readable, map(_without_parameters, readable))


def missing(text: str, word: str, known: Iterable[str], alike: float = 0.6) -> str:
    """Return the text, with the nearest of the known names: those `alike` enough, 1 being the same."""
    from difflib import get_close_matches

    nearest = get_close_matches(word, sorted(known), _NEAREST, alike)
    return f"{text}; nearest: {', '.join(nearest)}" if nearest else text
