"""Constructors, in dependency order. Source: glibc elf/dl-init.c:_dl_init, call_init."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from emu.core.effects import CallGuest, Effect
from emu.core.events import Initializer, InitStarted
from emu.core.ldso_events import PreinitStarted
from emu.elf import constants as c
from emu.rtld.link_map import LT_EXECUTABLE, LinkMap

if TYPE_CHECKING:
    from emu.rtld.rtld import Rtld


def init(rtld: Rtld, main: LinkMap, args: tuple[int, int, int]) -> Generator[Effect, int, None]:
    """Call the constructors of `main`'s dependencies; `args` are argc, argv and envp as they get them.

    The DF_1_INITFIRST object comes first, then the program's preinit array, then the rest in `initfini` order
    from the back. The program's own init array is libc's business (`__libc_start_main`), but the program
    counts as initialised from here.
    """
    if rtld.init_first is not None:
        first, rtld.init_first = rtld.init_first, None
        yield from call_init(rtld, first, args)
    preinit = _array(rtld, main, c.DT_PREINIT_ARRAY)
    if preinit and rtld.bus.init:
        rtld.bus.emit(PreinitStarted(main.display_name))
    for address in preinit:
        yield from _call(rtld, main, "preinit_array", address, args)
    for map_ in reversed(main.initfini or [main]):
        yield from call_init(rtld, map_, args)


def call_init(rtld: Rtld, map_: LinkMap, args: tuple[int, int, int]) -> Generator[Effect, int, None]:
    """Call one object's DT_INIT and init array; the flag is set first, so that a cycle of opens ends."""
    if map_.real is not map_ or map_.init_called:
        return
    map_.init_called = True
    rtld.mirror.flags(map_)
    if map_.type == LT_EXECUTABLE and not map_.name:
        return
    told = rtld.rules.empty_calls_told or any(
        map_.dynamic.get(tag) is not None for tag in (c.DT_INIT, c.DT_INIT_ARRAY)
    )
    if rtld.bus.init and told:
        rtld.bus.emit(InitStarted(map_.display_name, map_.ns))
    init_function = map_.dynamic.get(c.DT_INIT)
    if init_function is not None:
        yield from _call(rtld, map_, "DT_INIT", map_.addr + init_function, args)
    for address in _array(rtld, map_, c.DT_INIT_ARRAY):
        yield from _call(rtld, map_, "init_array", address, args)


def _array(rtld: Rtld, map_: LinkMap, tag: int) -> list[int]:
    data = map_.table(rtld.memory, tag)
    return [int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data), 8)]


def _call(
    rtld: Rtld, map_: LinkMap, kind: str, address: int, args: tuple[int, int, int]
) -> Generator[Effect, int, None]:
    if rtld.bus.init:
        rtld.bus.emit(Initializer(map_.display_name, kind, address, rtld.describe(address)))
    yield CallGuest(address, args)
