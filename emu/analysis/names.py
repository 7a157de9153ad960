"""What the user means by SYMBOL and OBJECT: names as people write them, found in
the tables of the loaded objects.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from emu.core.errors import EXIT_FINDINGS, EmuError
from emu.elf.demangle import demangle

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.rtld.address_index import Departed
    from emu.rtld.link_map import LinkMap
    from emu.rtld.rtld import Rtld

_NEAREST = 5
Unexported = Callable[["LinkMap", bytes], Iterable[tuple[bytes, object]]]
_ABI_TAG = re.compile(r"\[abi:[^]]*\]")
"""Source: Itanium C++ ABI 5.1.2, <abi-tags>; GCC's attribute abi_tag."""


class NotFoundError(EmuError):
    """Nothing of that name, or several things: the message says which there are."""

    exit_code = EXIT_FINDINGS


class GoneError(NotFoundError):
    """What was asked for was there, and has gone."""


def parse(word: str) -> tuple[str, str | None]:
    """Return the name and the version of `name`, `name@VERSION` or `name@@VERSION`,
    as readelf and nm write them.
    """
    name, at, version = word.partition("@")
    return (name, version.lstrip("@")) if at and name and version.lstrip("@") else (word, None)


def means(word: str, raw: str) -> bool:
    """Whether people may write `word` for the symbol `raw`:
    its name, or its demangled one with or without parameters and ABI tags.
    """
    if word == raw:
        return True
    if not raw.startswith(("_Z", "_R")):
        return False
    return _without_blanks(word) in {_without_blanks(spelling) for spelling in spellings(demangle(raw))}


def spellings(text: str) -> set[str]:
    """Return the ways to write a demangled name:
    as it is, without its ABI tags, without its parameters, without a template's return type.
    """
    found = {text, _ABI_TAG.sub("", text)}
    found |= {without_parameters(one) for one in found}
    return found | {_without_return(one) for one in found}


def find_symbol(rtld: Rtld, word: str, unexported: Unexported) -> bytes:
    """Return the symbol's name as the objects have it;
    `word` is that name, or a demangled one with or without its parameters.

    Of aliases (see there) it is the first that some object refers to. `unexported` gives the static symbols
    of an object by a part of their names.
    Raises NotFoundError, with the nearest names, or with all that it may mean.
    """
    exact = os.fsencode(word)
    names = _all_names(rtld)
    if exact in names:
        return exact
    readable = {
        raw: demangle(raw.decode(errors="replace")) for raw in sorted(names) if raw.startswith((b"_Z", b"_R"))
    }
    wanted = _without_blanks(word)
    found = [raw for raw, text in readable.items() if _without_blanks(text) == wanted]
    if not found:
        found = [raw for raw, text in readable.items() if means(word, raw.decode(errors="replace"))]
    if len(found) == 1 or (found and aliases(rtld, found[0]) == found[1:]):
        referred = _all_names(rtld, undefined=True)
        return next((raw for raw in found if raw in referred), found[0])
    if found:
        listed = "\n".join(f"  {raw.decode(errors='replace')}  {readable[raw]}" for raw in found)
        raise NotFoundError(f"{word}: ambiguous, choose one of\n{listed}")
    text = f"no loaded object has a dynamic symbol {word}"
    maps = [map_ for namespace in rtld.namespaces for map_ in namespace.maps if map_.real is map_]
    keeping = dict.fromkeys(_keeping(maps, word, unexported))
    if keeping:
        text += f"; not exported, and so bound without a look-up: that of {', '.join(keeping)}"
    raise NotFoundError(missing(text, word, _spellings(names, readable.values())))


def find_kept(rtld: Rtld, word: str, unexported: Unexported) -> bytes | None:
    """Return the name of a symbol that no object exports and some have for themselves;
    None if there is none, or several may be meant.
    """
    found = {
        raw
        for namespace in rtld.namespaces
        for map_ in namespace.maps
        if map_.real is map_
        for raw, _ in unexported(map_, os.fsencode(_key(word)))
        if means(word, raw.decode(errors="replace"))
    }
    if len(found) > 1:  # what is meant is rather the function than its variables
        found = {raw for raw in found if not raw.startswith(b"_ZZ")}
    return found.pop() if len(found) == 1 else None


def _key(word: str) -> str:
    """Return the part of a name as people write it that occurs in the mangled one, too."""
    plain = without_parameters(_ABI_TAG.sub("", word))
    return re.split(r"::|<| ", plain.rstrip(">"))[-1].strip().lstrip("~") or word


def _keeping(maps: Iterable[LinkMap], word: str, unexported: Unexported) -> Iterator[str]:
    """Yield the objects that have the symbol in their static tables only, with the
    name in full where `word` is not that.
    """
    for map_ in maps:
        for raw, _ in unexported(map_, os.fsencode(_key(word))):
            name = raw.decode(errors="replace")
            if means(word, name):
                yield map_.display_name + (f" ({demangle(name)})" if name != word else "")


def aliases(rtld: Rtld, name: bytes) -> list[bytes]:
    """Return the symbols that people write as they write `name`, and that each
    object defines where it defines that.

    So it is with the two names of a C++ constructor or destructor of a class without virtual bases. Source:
    Itanium C++ ABI 5.1.4.3.
    """
    if not name.startswith(b"_Z"):
        return []
    places: dict[bytes, set[tuple[LinkMap, int, int]]] = {}
    for namespace in rtld.namespaces:
        for map_ in namespace.maps:
            table = map_.symtab
            entries = [table.entry(index) for index in range(1, table.count)]
            same = (e for e in entries if e.defined and table.strings.holds(name + b"\0", e.name))
            here = {(e.shndx, e.value) for e in same}
            for index, entry in enumerate(entries, 1):
                if (entry.shndx, entry.value) in here:
                    places.setdefault(table.symbol_name(index), set()).add((map_, entry.shndx, entry.value))
    return sorted(
        other
        for other in places
        if other != name and places[other] == places[name] and _readable(other) == _readable(name)
    )


def _readable(name: bytes) -> str:
    return demangle(name.decode(errors="replace"))


def find_objects(rtld: Rtld, word: str) -> list[LinkMap]:
    """Return the loaded objects that `word` names:
    a soname, a file's name, a path, or a part of those that only one file has.

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
    file = only_with(word, (map_.display_name for map_ in maps))
    if file is not None:
        return [map_ for map_ in maps if os.path.basename(map_.display_name) == file]
    raise NotFoundError(missing(f"no object {word} is loaded", word, known))


def only_with(part: str, names: Iterable[str]) -> str | None:
    """Return the one file (the last part of its name) among `names` that has `part` in its name, None if none
    has it. Raises NotFoundError for several.
    """
    found = sorted({os.path.basename(name) for name in names if has_part(part, name)})
    if len(found) > 1:
        raise NotFoundError(f"{part}: ambiguous, choose one of {', '.join(found)}")
    return found[0] if found else None


def has_part(part: str, name: str) -> bool:
    """Whether `part` is part of a file's name, or (with a slash) of its path."""
    return bool(part) and part in (name if "/" in part else os.path.basename(name))


def gone_text(word: str, gone: Departed) -> str:
    """Return by whom an object was unloaded."""
    return f"{word} has gone: it was unloaded by {gone.by}"


def names_of(rtld: Rtld, map_: LinkMap) -> Iterator[str]:
    """Yield the names that an object is known by:
    its paths, their last parts, its soname, what it was asked for as.
    """
    yield map_.display_name
    yield map_.path
    yield _real_path(rtld, map_.path)
    yield os.path.basename(map_.display_name)
    yield os.path.basename(map_.path)
    for name in filter(None, map_.lib_names):
        yield name
        yield os.path.basename(name)
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
            symbols = (table.entry(index) for index in range(1, table.count))
            places = (fields.name for fields in symbols if not undefined or not fields.defined)
            names.update(table.strings.at(place) for place in places if place < size)
    names.discard(b"")
    return names


def defined(map_: LinkMap) -> Iterator[bytes]:
    """Yield the names that an object defines for others."""
    for index in range(1, map_.symtab.count):
        if map_.symtab.entry(index).defined:
            yield map_.symtab.symbol_name(index)


def _without_blanks(text: str) -> str:
    return "".join(text.split())


def without_parameters(text: str) -> str:
    """Return a demangled name up to the parameter list,
    which is the last one in parentheses that no template or other list holds.
    """
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
    return plain.union(readable, map(without_parameters, readable))


def missing(text: str, word: str, known: Iterable[str], alike: float = 0.6) -> str:
    """Return the text, with the nearest of the known names: those `alike` enough, 1 being the same."""
    from difflib import get_close_matches

    nearest = get_close_matches(word, sorted(known), _NEAREST, alike)
    return f"{text}; nearest: {', '.join(nearest)}" if nearest else text
