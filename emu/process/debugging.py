"""LD_DEBUG and its like in one process: what the guest's environment asks for, and where the lines go.

Source: glibc elf/rtld.c:process_envvars, process_dl_debug.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, cast

from emu.glibc.ld_debug import HELP, LdDebug, help_text, output_path, parse_mask
from emu.glibc.show_auxv import show_auxv
from emu.kernel import abi

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from emu.core.events import EventBus
    from emu.kernel.kernel import Kernel

_STDOUT, _STDERR = 1, 2
_DEFFILEMODE = 0o666


class Debugging:
    """The debugging of one run. `mask` is `_dl_debug_mask`, `fd` the guest's descriptor that the lines go to.

    `helped` tells that LD_DEBUG=help was answered and nothing else is to be done. `program` is argv[0], `program_name` what events call the program.
    """

    def __init__(
        self, kernel: Kernel, env: Mapping[str, str], program: str, program_name: str, pid: int
    ) -> None:
        self._kernel = kernel
        self._names = program, program_name, pid
        self.fd = _STDERR
        if "LD_SHOW_AUXV" in env:
            pairs = cast("Iterator[tuple[int, int]]", struct.iter_unpack("<QQ", kernel.program.auxv))
            self.write(_STDOUT, show_auxv(pairs, lambda at: os.fsdecode(kernel.arena.read_cstr(at))))
        self.mask, unknown = parse_mask(env.get("LD_DEBUG", ""))
        for word in unknown:
            self.write(_STDERR, f"warning: debug option `{word}' unknown; try LD_DEBUG=help\n")
        self.helped = bool(self.mask & HELP)
        if self.helped:
            self.write(_STDOUT, help_text())
            return
        path = output_path(env, pid)
        if self.mask and path is not None:
            self.fd = self._open(path)

    def attach(self, bus: EventBus) -> None:
        """Write ld.so's lines from now on, if any are asked for."""
        if self.mask:
            program, program_name, pid = self._names
            LdDebug(self.mask, program, program_name, pid, self._write_bytes).attach(bus)

    def write(self, fd: int, text: str) -> None:
        """Write text to one of the guest's descriptors."""
        self._write(fd, os.fsencode(text))

    def _write_bytes(self, data: bytes) -> None:
        self._write(self.fd, data)

    def _write(self, fd: int, data: bytes) -> None:
        try:
            file = self._kernel.file(fd)
            while data:
                data = data[file.write(data) :]
        except OSError:
            return  # ld.so does not look whether it was heard, either

    def _open(self, path: str) -> int:
        """Open the file of LD_DEBUG_OUTPUT at the lowest free descriptor; standard output serves where that fails."""
        flags = abi.O_WRONLY | abi.O_APPEND | abi.O_CREAT | abi.O_NOFOLLOW
        try:
            return self._kernel.fds.install(self._kernel.fs.open(path, flags, _DEFFILEMODE))
        except OSError:
            return _STDOUT
