"""C++ definitions that many objects may have (vague linkage), and whose run-time library compares types.

Source: Itanium C++ ABI 5.2 (vague linkage), 2.9.5 (typeinfo), 5.1 (mangling).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from emu.analysis.bindings import own_scope
from emu.analysis.meant import is_standard
from emu.elf import constants as c

if TYPE_CHECKING:
    from emu.analysis.bindings import Bindings, Exported
    from emu.rtld.link_map import LinkMap

INTERNAL = re.compile(rb"L\d|12_GLOBAL__N_1")
"""In a mangled name: of internal linkage.

Source: Itanium C++ ABI 5.1.2 (`L`), GCC and clang for anonymous namespaces.
"""
_LIBCXX = re.compile(r"libc\+\+(abi|_shared)?\.so")
_RUNTIME = (
    b"__dynamic_cast",
    b"_ZTVN10__cxxabiv120__si_class_type_infoE",
    b"_ZTVN10__cxxabiv117__class_type_infoE",
    b"_ZTVN10__cxxabiv121__vmi_class_type_infoE",
)
"""What an object with class types asks its C++ run-time library for; who serves that compares its types."""


def compares_addresses(bindings: Bindings, map_: LinkMap) -> bool:
    """Whether an object's types are compared by libc++'s rules: as a library that serves it, or in it.

    Where libstdc++ is there, too, the search order decides which of them that is.
    """
    for name in _RUNTIME:
        reference = bindings.reference(map_, name)
        found = bindings.original(map_, *reference) if reference is not None else None
        if found is not None:
            return _is_libcxx(found.map)
    if any(name in bindings.table(map_).exports for name in _RUNTIME):
        return _is_libcxx(map_)
    return _is_libcxx(map_) or any(_LIBCXX.match(one.soname or "") for one in own_scope(map_)[1:])


def _is_libcxx(map_: LinkMap) -> bool:
    return b"St3__1" in map_.symtab.strings.data or _LIBCXX.match(map_.soname or "") is not None


def is_vague(name: bytes, definition: Exported) -> bool:
    """Whether a definition is a variable's that many objects may have:
    an inline or template static member, a static local of an inline function.
    """
    if definition.type != c.STT_OBJECT or definition.bind not in (c.STB_WEAK, c.STB_GNU_UNIQUE):
        return False
    if not name.startswith((b"_ZN", b"_ZZ")) or INTERNAL.search(name) or is_standard(name):
        return False
    return is_variable(definition.map, definition.map.symtab.entry(definition.number).value)


def is_of_c_function(name: bytes) -> bool:
    """Whether a static local is one of a function with C linkage, which has no parameters in its name:
    each plugin may have such a function.

    Source: Itanium C++ ABI 5.1.6 (local names), 5.1.3 (encodings).
    """
    found = re.match(rb"_ZZ(\d+)", name)
    return found is not None and name[found.end() + int(found[1]) :].startswith(b"E")


def is_variable(map_: LinkMap, value: int) -> bool:
    """Whether a link-time address is where an object has what may be written, also after its linking."""
    start, size = map_.relro or (0, 0)
    if start <= map_.addr + value < start + size:
        return False
    return any(
        p.type == c.PT_LOAD and p.flags & c.PF_W and p.vaddr <= value < p.vaddr + p.memsz for p in map_.phdrs
    )
