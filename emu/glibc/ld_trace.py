"""LD_TRACE_LOADED_OBJECTS: what ld.so does in place of a run for `ldd`:
list the objects, check symbols, versions, needless dependencies.

Source: glibc elf/rtld.c:dl_main (rtld_mode_trace), elf/ldd.bash.in.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from emu.core.errors import UnsupportedError
from emu.elf import constants as c
from emu.elf.versions import version_defs, version_needs
from emu.rtld.link_map import MappedImage
from emu.rtld.relocate import relocate_object

if TYPE_CHECKING:
    from collections.abc import Mapping

    from emu.core.errors import LoaderError
    from emu.rtld.link_map import LinkMap
    from emu.rtld.rtld import Rtld

STDOUT, STDERR = 1, 2
Write = Callable[[int, str], None]


def list_objects(rtld: Rtld, env: Mapping[str, str], write: Write) -> int:
    """Do what the LD_* variables ask for, on the objects that are loaded and have their TLS laid out;
    return the exit code.
    """
    main = rtld.namespaces[0].maps[0]
    rtld.go_on_after_errors(lambda error: _unresolved(rtld, error, write))
    if rtld.accept_undefined:
        return _unused(rtld, main, write)
    if not main.dynamic.needed:
        write(STDOUT, "\tstatically linked\n")
    else:
        number = re.match(r"[ \t]*(\d*)", env["LD_TRACE_LOADED_OBJECTS"])
        with_program = number is not None and int(number[1] or 0) > 1
        for map_ in rtld.namespaces[0].maps[0 if with_program else 1 :]:
            write(STDOUT, _line(rtld, map_))
    if rtld.verbose:
        for map_ in reversed(main.initfini or [main]):
            if map_ is not rtld.ld_so and not map_.faked:
                _relocate(rtld, map_)
    if env.get("LD_VERBOSE"):
        _versions(rtld, write)
    return 0


def _line(rtld: Rtld, map_: LinkMap) -> str:
    known_as = map_.lib_names[0]
    if map_.faked:
        return f"\t{known_as} => not found\n"
    if known_as == map_.name:
        return f"\t{known_as} (0x{map_.map_start:016x})\n"
    return f"\t{known_as or rtld.program} => {map_.name or rtld.program} (0x{map_.map_start:016x})\n"


def _unresolved(rtld: Rtld, error: LoaderError, write: Write) -> None:
    write(STDERR, f"{error.text}\t({error.object_name or rtld.program})\n")


def _relocate(rtld: Rtld, map_: LinkMap) -> None:
    """Relocate an object only to see what is undefined: no guest code runs."""
    for effect in relocate_object(rtld, map_, not rtld.bind_now, skip_ifunc=True):
        raise AssertionError(f"relocation without IFUNCs asked for {effect}")


def _unused(rtld: Rtld, main: LinkMap, write: Write) -> int:
    """Tell which objects the program itself needs and uses nothing of.

    Like ld.so this takes the objects after the program for those of its DT_NEEDED entries, in order.
    """
    _relocate(rtld, main)
    others = iter([map_ for map_ in rtld.namespaces[0].maps[1:] if map_ is not rtld.vdso])
    unused = []
    for _ in main.dynamic.needed:
        map_ = next(others, None)
        if map_ is None:
            raise UnsupportedError(
                "LD_DEBUG=unused with an object needed twice", rtld.program, "ld.so itself crashes there"
            )
        if not map_.used:
            unused.append(map_)
    if unused:
        write(STDOUT, "Unused direct dependencies:\n")
    for map_ in unused:
        write(STDOUT, f"\t{map_.name}\n")
    return 1 if unused else 0


def _versions(rtld: Rtld, write: Write) -> None:
    """Print each version that an object needs, and the file that has it."""
    first = True
    for map_ in rtld.namespaces[0].maps:
        if map_.dynamic.get(c.DT_VERNEED) is None:
            continue
        if first:
            write(STDOUT, "\n\tVersion information:\n")
            first = False
        write(STDOUT, f"\t{map_.name or rtld.program}:\n")
        image = MappedImage(rtld.memory, map_.addr, map_.display_name)
        for need in version_needs(image, map_.dynamic, map_.symtab.strings, map_.display_name):
            version, file = (
                need.name.decode(errors="surrogateescape"),
                need.file.decode(errors="surrogateescape"),
            )
            weak = "[WEAK] " if need.weak else ""
            write(
                STDOUT, f"\t\t{file} ({version}) {weak}=> {_provider(rtld, file, need.name) or 'not found'}\n"
            )


def _provider(rtld: Rtld, file: str, version: bytes) -> str:
    """Return the name of the loaded object that is known as `file`, if it defines `version`."""
    for map_ in reversed(rtld.namespaces[0].maps[0].searchlist):
        if map_.name == file or file in map_.lib_names:
            if map_.dynamic.get(c.DT_VERDEF) is None:
                return ""
            image = MappedImage(rtld.memory, map_.addr, map_.display_name)
            defined = version_defs(image, map_.dynamic, map_.symtab.strings, map_.display_name)
            return map_.name if any(known.name == version for known in defined) else ""
    return ""
