"""LD_DEBUG and its like in one process: what the guest's environment asks for, and where the lines go.

Source: glibc elf/rtld.c:process_envvars, process_dl_debug.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, cast

from emu.elf import constants as c
from emu.glibc.ld_debug import HELP, LdDebug, help_text, output_path, parse_mask
from emu.glibc.ld_debug_words import NO_WORDS, Words, words_of
from emu.glibc.show_auxv import show_auxv
from emu.kernel import abi

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from emu.core.events import EventBus
    from emu.kernel.exec import ExecImage
    from emu.kernel.kernel import Kernel
    from emu.rtld.rules import Rules

_STDOUT, _STDERR = 1, 2
_DEFFILEMODE = 0o666


def words_in(kernel: Kernel, interpreter: ExecImage) -> Words:
    """Return what a mapped ld.so can say under LD_DEBUG."""
    loads = [phdr for phdr in interpreter.phdrs if phdr.type == c.PT_LOAD and not phdr.flags & c.PF_W]
    return words_of(kernel.arena.read(interpreter.bias + phdr.vaddr, phdr.filesz) for phdr in loads)


class Debugging:
    """The debugging of one run. `mask` is `_dl_debug_mask`, `fd` the guest's descriptor that the lines go to.

    `helped` tells that LD_DEBUG=help was answered and nothing else is to be done. `program` is argv[0],
    `program_name` what events call the program.
    """

    def __init__(
        self,
        kernel: Kernel,
        env: Mapping[str, str],
        program: str,
        program_name: str,
        pid: int,
        interpreter: ExecImage,
    ) -> None:
        self._kernel = kernel
        self._names = program, program_name, pid
        self._lines: LdDebug | None = None
        self.fd = _STDERR
        if "LD_SHOW_AUXV" in env:
            pairs = cast("Iterator[tuple[int, int]]", struct.iter_unpack("<QQ", kernel.program.auxv))
            self.write(_STDOUT, show_auxv(pairs, lambda at: os.fsdecode(kernel.arena.read_cstr(at))))
        asked = env.get("LD_DEBUG", "")
        self.words = words_in(kernel, interpreter) if asked else NO_WORDS
        self.mask, unknown = parse_mask(asked, self.words)
        for word in unknown:
            self.write(_STDERR, f"warning: debug option `{word}' unknown; try LD_DEBUG=help\n")
        self.helped = bool(self.mask & HELP)
        if self.helped:
            self.write(_STDOUT, help_text(self.words))
            return
        path = output_path(env, pid)
        if self.mask and path is not None:
            self.fd = self._open(path)

    def attach(self, bus: EventBus) -> None:
        """Write ld.so's lines from now on, if any are asked for."""
        if self.mask:
            program, program_name, pid = self._names
            self._lines = LdDebug(self.mask, program, program_name, pid, self._write_bytes, self.words)
            self._lines.attach(bus, 0 if self._kernel is self._kernel.system.leader else pid)

    def obey(self, rules: Rules) -> None:
        """Speak as the release with these rules does."""
        if self._lines is not None:
            self._lines.names_finished = not rules.empty_ends_told

    def detach(self, bus: EventBus) -> None:
        """Write no more: the program is another one's now, or over."""
        if self._lines is not None:
            bus.unsubscribe(self._lines)

    def of_child(self, kernel: Kernel) -> Debugging:
        """Return the same for a process that was forked; it is to be attached."""
        from copy import copy

        child = copy(self)
        child._kernel, child._names = kernel, (*self._names[:2], kernel.pid)
        return child

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
        """Open the file of LD_DEBUG_OUTPUT at the lowest free descriptor;
        standard output serves where that fails.
        """
        flags = abi.O_WRONLY | abi.O_APPEND | abi.O_CREAT | abi.O_NOFOLLOW
        try:
            return self._kernel.fds.install(self._kernel.fs.open(path, flags, _DEFFILEMODE))
        except OSError:
            return _STDOUT
