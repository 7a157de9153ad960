"""One call of one function of a library, without a program: what `emu call` does."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from emu.core.effects import CallGuest, Effect, Hosted
from emu.core.errors import EXIT_LOADER, EmuError
from emu.glibc.host_program import HostProgram, build_host_program, call_by_block
from emu.process.process import Process

if TYPE_CHECKING:
    from collections.abc import Generator

    from emu.core.events import EventBus
    from emu.glibc.call import Call
    from emu.glibc.contract import Contract
    from emu.process.config import Result, RunConfig

_RTLD_NOW = 2
_M64 = (1 << 64) - 1


class CallError(EmuError):
    """The library cannot be opened, or has no such function."""

    exit_code = EXIT_LOADER


class Kind(NamedTuple):
    """A C type of an argument or a result: how it travels (integer or SSE class) and how bytes become a value for people."""

    name: str
    floating: bool
    encode: Callable[[str], bytes]
    show: Callable[[bytes, Callable[[int], bytes]], str]


def _integer(form: str) -> tuple[Callable[[str], bytes], Callable[[bytes, Callable[[int], bytes]], str]]:
    width = struct.calcsize(form)
    packed = struct.Struct(form)

    def encode(text: str) -> bytes:
        value = int(text, 0)
        low, high = -(1 << 8 * width - 1), 1 << 8 * width
        if not low <= value < high:
            raise ValueError(f"{text} does not fit {8 * width} bits")
        return (value & _M64).to_bytes(8, "little")

    return encode, lambda data, read: str(packed.unpack(data[:width])[0])


def _floating(form: str) -> tuple[Callable[[str], bytes], Callable[[bytes, Callable[[int], bytes]], str]]:
    packed = struct.Struct(form)
    return (
        lambda text: packed.pack(float(text)).ljust(8, b"\0"),
        lambda data, read: repr(packed.unpack(data[: packed.size])[0]),
    )


def _pointer_text(data: bytes) -> str:
    return hex(int.from_bytes(data, "little"))


def _string_text(data: bytes, read: Callable[[int], bytes]) -> str:
    address = int.from_bytes(data, "little")
    return read(address).decode(errors="backslashreplace") if address else "NULL"


def _kinds() -> dict[str, Kind]:
    kinds = {}
    for name, form in (
        ("char", "<b"), ("short", "<h"), ("int", "<i"), ("long", "<q"), ("uint", "<I"), ("ulong", "<Q"), ("bool", "<?"),
    ):  # fmt: skip
        kinds[name] = Kind(name, False, *_integer(form))
    for name, form in (("double", "<d"), ("float", "<f")):
        kinds[name] = Kind(name, True, *_floating(form))
    kinds["ptr"] = Kind("ptr", False, _integer("<Q")[0], lambda data, read: _pointer_text(data))
    kinds["str"] = Kind("str", False, lambda text: os.fsencode(text), _string_text)
    kinds["void"] = Kind("void", False, lambda text: b"", lambda data, read: "")
    return kinds


KINDS = _kinds()
"""The types by the names that the command line knows."""


class Argument(NamedTuple):
    """An argument as the user gave it."""

    kind: Kind
    text: str


def call_function(
    config: RunConfig, bus: EventBus, library: str, function: str, arguments: list[Argument], returns: Kind
) -> tuple[Result, str | None]:
    """Open `library` in an empty program, call `function`, end the program; return how that ended and the result as text.

    None where the function did not come back (it exited, or died). Raises CallError, EmuError.
    """
    host = build_host_program()
    process = Process(config._replace(image=host.image), bus)
    process.load()
    caller = _Caller(process, host, library, function, arguments, returns)
    result = process.run()
    if caller.error is not None:
        raise caller.error
    return result, caller.text


class _Caller:
    """The hosted `main` of the empty program."""

    def __init__(
        self,
        process: Process,
        host: HostProgram,
        library: str,
        function: str,
        arguments: list[Argument],
        returns: Kind,
    ) -> None:
        assert process.loaded is not None and process.contract is not None
        self.library, self.function, self.arguments, self.returns = library, function, arguments, returns
        self.contract = process.contract
        self.arena, self.heap = process.arena, process.contract.rtld.heap
        self.call = process.loaded.program.bias + host.call
        self.text: str | None = None
        self.error: CallError | None = None
        process.contract.traps[process.loaded.program.bias + host.main] = self.main

    def main(self, _contract: Contract, _call: Call) -> Hosted:
        """Open, look up, call."""
        address = yield from self._find()
        if not address:
            return 1
        words, floats = [], []
        for kind, text in self.arguments:
            value = kind.encode(text)
            if kind.name == "str":
                words.append(self.heap.string(value))
            elif kind.floating:
                floats.append(value)
            else:
                words.append(int.from_bytes(value, "little"))
        rax, xmm0 = yield from call_by_block(self.arena, self.heap, self.call, address, words, floats)
        data = xmm0 if self.returns.floating else rax.to_bytes(8, "little")
        self.text = self.returns.show(data, self.arena.read_cstr)
        return 0

    def _find(self) -> Generator[Effect, int, int]:
        """Return the function's address, 0 with `error` set where there is none. Names are libc's business: dlopen and dlsym."""
        guest = self.contract.guest_function
        path = self.heap.string(os.fsencode(self.library))
        handle = yield CallGuest(guest(b"dlopen"), (path, _RTLD_NOW))
        address = 0
        if handle:
            name = self.heap.string(os.fsencode(self.function))
            address = yield CallGuest(guest(b"dlsym"), (handle, name))
        if not address:
            message = yield CallGuest(guest(b"dlerror"))
            text = os.fsdecode(self.arena.read_cstr(message)) if message else "it is NULL"
            self.error = CallError(text if not handle else f"{self.library}: {self.function}: {text}")
        return address
