"""Corruption: a guest that writes over what the linker and libc keep in its memory,
and goes on as if nothing had been.

Python reads these structures: link maps, `_rtld_global`, r_debug, scopes, TCBs and DTVs, lists of
destructors, of stacks and of robust mutexes, exit functions, dynamic sections, symbol tables, unwind
information, stacks. Each case writes over a few words, does a few things that every program does, and asks
what Python's users ask.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from functools import partial
from random import Random
from typing import NamedTuple

from emu.elf import constants as c
from emu.machine import regs
from tools.fuzzing.guests import Guest

_M64 = (1 << 64) - 1
_TABLES = (
    c.DT_HASH, c.DT_GNU_HASH, c.DT_SYMTAB, c.DT_STRTAB, c.DT_RELA, c.DT_JMPREL, c.DT_VERSYM, c.DT_VERDEF, c.DT_VERNEED, c.DT_PLTGOT, c.DT_INIT_ARRAY,
    c.DT_FINI_ARRAY,
)  # fmt: skip
_TABLE_SIZE, _STACK = 0x400, 0x600


class Range(NamedTuple):
    """A structure in the guest's memory: what it is, where."""

    what: str
    start: int
    size: int


def ranges(guest: Guest) -> Iterator[Range]:
    """Yield the structures that Python reads."""
    p = guest.process
    contract, layout = p.engine.contract, p.engine.contract.layout
    mirror, rtld = contract.mirror, p.rtld
    for map_ in p.link_maps:
        yield Range("link map", map_.address, layout.size("link_map"))
        yield Range("dynamic section", map_.ld, 16 * (len(map_.dynamic.entries) + 1))
        for tag in _TABLES:
            at = map_.dynamic.get(tag)
            if at:
                yield Range("table", map_.addr + at, _TABLE_SIZE)
        for phdr in map_.phdrs:
            if phdr.type == c.PT_GNU_EH_FRAME:
                yield Range("unwind table", map_.addr + phdr.vaddr, min(phdr.memsz, _TABLE_SIZE))
        yield Range("ELF header", map_.map_start, 0x40 + 56 * len(map_.phdrs))
    yield Range("_rtld_global", mirror.rtld_global, layout.size("rtld_global"))
    yield Range("_rtld_global_ro", mirror.rtld_global_ro, layout.size("rtld_global_ro"))
    yield Range("r_debug", mirror.r_debug, 40)
    for thread in mirror.threads():
        yield Range("TCB", thread, layout.size("pthread"))
        yield Range("static TLS", thread - rtld.tls.static_size, rtld.tls.static_size)
        dtv = p.inner.arena.read_u64(thread + 8)
        yield Range("DTV", dtv - 16, 16 * 20)
    for address, (size, _) in rtld.heap._sizes.items():
        yield Range("the linker's heap", address, size)
    yield Range("stack", p.inner.cpu.get(regs.RSP), _STACK)
    yield Range("stubs", contract.stubs.start, contract.stubs.end - contract.stubs.start)
    for name in ("_IO_2_1_stdout_", "environ", "__exit_funcs", "_dl_open_hook"):
        at = guest._found(name)
        if at:
            yield Range(name, at, 64)
    yield from _libc_data(guest)


def _libc_data(guest: Guest) -> Iterator[Range]:
    libc = guest.libc.link_map
    for phdr in libc.phdrs:
        if phdr.type == c.PT_LOAD and phdr.flags & c.PF_W:
            for at in range(libc.addr + phdr.vaddr, libc.addr + phdr.vaddr + phdr.memsz - 0x400, 0x400):
                yield Range("libc's data", at, 0x400)


def corruption(guest: Guest) -> Callable[[int], None]:
    """Return what does case N."""
    by_kind: dict[str, list[Range]] = {}
    for one in ranges(guest):
        by_kind.setdefault(one.what, []).append(one)
    kinds = [*sorted(by_kind), "destructors", "TCB", "DTV"]

    def case(number: int) -> None:
        random = Random(f"corrupt {number}")
        guest.begin(random)
        nodes: list[Range] = []
        guest.attempt(partial(_prepare, guest, random, nodes))
        by_kind["destructors"] = nodes or by_kind["TCB"]
        kind = kinds[number % len(kinds)]
        place = random.choice(by_kind[kind])
        for _ in range(random.choice((1, 4, 16, 64))):
            if not random.randrange(4):
                place = random.choice(by_kind[kind])
            _write(guest, random, place, by_kind)
        for _ in range(random.choice((1, 2, 4))):
            if not guest.attempt(_action(guest, random)):
                break
        guest.attempt(_question(guest, random))
        if not random.randrange(8) and guest.process.engine.usable:
            guest.attempt(guest.process.close)

    return case


def _prepare(guest: Guest, random: Random, nodes: list[Range]) -> None:
    """Give the threads something to lose: destructors, a block of dynamic TLS. Tell
    where the destructors' nodes are.
    """
    p, register = guest.process, guest.function("__cxa_thread_atexit_impl", 3)
    free = guest.function("free", 1).address
    for _ in range(random.randrange(4)):
        register(free, 0, guest.seed.link_map.map_start)
    if random.randrange(2):
        guest.seed.count(1)
    atexit = p.engine.contract.atexit
    assert atexit is not None
    nodes += [Range("destructors", one.node, 32) for one in atexit.pending(p.inner.thread_pointer())]


def _write(guest: Guest, random: Random, place: Range, by_kind: dict[str, list[Range]]) -> None:
    """Write a wild value, a word of elsewhere, a pointer to itself, or noise."""
    arena = guest.process.inner.arena
    at = place.start + random.randrange(max(place.size // 8, 1)) * 8
    if not arena.check(at, 8, 0):
        return
    old = arena.read_u64(at)
    other = random.choice(by_kind[random.choice(sorted(by_kind))])
    match random.randrange(8):
        case 0:
            value = at
        case 1:
            value = other.start + random.randrange(max(other.size // 8, 1)) * 8
        case 2:
            value = old ^ 1 << random.randrange(64)
        case 3:
            value = old + random.choice((-16, -8, -1, 1, 8, 16))
        case 4:
            width = random.choice((1, 2, 4))
            arena.write(at + random.randrange(8 // width) * width, random.randbytes(width))
            return
        case _:
            value = guest.value(random)
    arena.write(at, struct.pack("<Q", value & _M64))


def _action(guest: Guest, random: Random) -> Callable[[], object]:
    """Return something that a program does."""
    p, call = guest.process, guest.function
    at = guest.room
    seed, libc = guest.seed.handle, guest.libc.handle
    handle = random.choice((seed, libc, 0))
    name = random.choice((guest.text(random), at + 0xF00))
    p.inner.arena.write(at + 0xF00, random.choice((b"count\0", b"scale\0", b"puts\0", b"counter\0")))
    actions: list[Callable[[], object]] = [
        lambda: p.dlopen("libm.so.6"),
        lambda: p.dlopen("libseed.so"),
        lambda: call("dlmopen", 3)(_M64, guest.text(random), 2),
        lambda: call("dlsym", 2)(handle, name),
        lambda: call("dlvsym", 3)(seed, name, guest.text(random)),
        lambda: p.dlclose(seed),
        lambda: call("dladdr1", 4)(guest.called[0], at, at + 64, random.choice((1, 2))),
        lambda: call("dlinfo", 3)(handle, random.randrange(1, 12), at),
        lambda: call("dl_iterate_phdr", 2)(guest._found("strlen"), 0),
        lambda: call("_dl_find_object", 2)(guest.called[0], at),
        lambda: call("__call_tls_dtors", 0)() if guest._found("__call_tls_dtors") else None,
        lambda: guest.seed.count(2),
        lambda: guest.thread.call(guest.seed.count, 3),
        lambda: p.thread().close(),
        lambda: guest.thread.close(),
        lambda: call("backtrace", 2)(at, 20),
        lambda: call("pthread_getattr_np", 2)(p.inner.thread_pointer(), at),
        lambda: call("pthread_exit", 1)(0),
        lambda: call("exit", 1)(0),
        lambda: call("puts", 1)(guest.text(random)),
        lambda: call("abort", 0)(),
    ]
    return random.choice(actions)


def _question(guest: Guest, random: Random) -> Callable[[], object]:
    """Return something that a user of Python asks."""
    p = guest.process
    questions: list[Callable[[], object]] = [
        lambda: repr(p.link_maps),
        lambda: repr([p.scopes(map_.display_name) for map_ in p.link_maps]),
        lambda: repr(p.tls()),
        lambda: repr(p.tls(guest.thread)),
        lambda: repr(p.threads),
        lambda: str(p.why_loaded("libseed.so")),
        lambda: str(p.explain("scale")),
        lambda: str(p.explain("malloc")),
        lambda: p.symbols("libseed.so"),
        lambda: [str(frame) for frame in p.inner.backtrace()],
        lambda: p.lookup("count"),
        lambda: guest.seed.in_dll(__import__("ctypes").c_int, "counter").value,
    ]
    return random.choice(questions)
