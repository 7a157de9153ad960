"""What is loaded, as gdb's remote protocol has it, and where a thread's variables are.

Source: gdb's manual, "Library List Format for SVR4 Targets"; remote.c of gdbserver's protocol for
qGetTLSAddr.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.sax.saxutils import quoteattr

from emu.rtld.link_map import NO_TLS_OFFSET

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.process import Process
    from emu.rtld.link_map import LinkMap


_VDSO = "linux-vdso.so.1"
"""gdb finds it by the auxiliary vector."""


def link_maps(process: Process) -> Iterator[LinkMap]:
    """Yield all objects of all namespaces, in the order of their lists."""
    if process.rtld is not None:
        for namespace in process.rtld.namespaces:
            yield from namespace.maps


def library_list(process: Process) -> str:
    """Return the list of the libraries, the program itself apart."""
    maps = list(link_maps(process))
    main = f' main-lm="{maps[0].address:#x}"' if maps and maps[0].address else ""
    lines = [f'<library-list-svr4 version="1.0"{main}>']
    for number, map_ in enumerate(maps):
        if number and map_.path and map_.name != _VDSO:
            lines.append(
                f'<library name={quoteattr(map_.name or map_.path)} lm="{map_.address or map_.map_start:#x}" '
                f'l_addr="{map_.addr:#x}" l_ld="{map_.ld:#x}" lmid="{map_.ns:#x}"/>'
            )
    return "".join([*lines, "</library-list-svr4>"])


def tls_address(process: Process, thread_pointer: int, offset: int, link_map: int) -> int | None:
    """Return where a thread has the variable at `offset` in the block of the object `link_map`;
    None if it has no block yet.
    """
    rtld = process.rtld
    map_ = next((m for m in link_maps(process) if link_map in (m.address, m.map_start)), None)
    if rtld is None or map_ is None or not map_.tls_modid:
        return None
    if map_.tls_offset > NO_TLS_OFFSET:
        return thread_pointer - map_.tls_offset + offset
    block = rtld.tls.soft_block(thread_pointer, map_)
    return block + offset if block else None
