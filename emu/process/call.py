"""One call of one function of a library, without a program: what `emu call` does."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from emu.core.effects import CallGuest, Effect, Hosted
from emu.core.errors import EXIT_LOADER, EmuError
from emu.core.record import NamedTuple
from emu.glibc.host_program import HostProgram, call_by_block, host_program_for
from emu.kernel.abi import PROT_EXEC
from emu.process.process import Process

if TYPE_CHECKING:
    from collections.abc import Generator

    from emu.core.events import EventBus
    from emu.glibc.call import HostedCall
    from emu.glibc.contract import Contract
    from emu.process.config import Result, RunConfig
    from emu.rtld.link_map import LinkMap

_RTLD_NOW = 2
_M64 = (1 << 64) - 1
_POINTER, _REFERENCE = " *", " &"


class CallError(EmuError):
    """The library cannot be opened, or has no such function."""

    exit_code = EXIT_LOADER


class Kind(NamedTuple):
    """A C type of an argument or a result: how it travels (integer or SSE class) and
    how bytes become a value for people.
    """

    name: str
    floating: bool
    encode: Callable[[str], bytes]
    show: Callable[[bytes, Callable[[int], bytes]], str]


def _integer(form: str) -> tuple[Callable[[str], bytes], Callable[[bytes, Callable[[int], bytes]], str]]:
    width = struct.calcsize(form)
    packed = struct.Struct(form)

    def encode(text: str) -> bytes:
        try:
            value = int(text, 0)
        except ValueError:
            raise ValueError("") from None
        low, high = -(1 << 8 * width - 1), 1 << 8 * width
        if not low <= value < high:
            raise ValueError(f"{text} does not fit {8 * width} bits")
        return (value & _M64).to_bytes(8, "little")

    return encode, lambda data, read: str(packed.unpack(data[:width])[0])


def _floating(form: str) -> tuple[Callable[[str], bytes], Callable[[bytes, Callable[[int], bytes]], str]]:
    packed = struct.Struct(form)

    def encode(text: str) -> bytes:
        try:
            value = float(text)
        except ValueError:
            raise ValueError("") from None
        return packed.pack(value).ljust(8, b"\0")

    return (
        encode,
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
        ("char", "<b"), ("short", "<h"), ("int", "<i"), ("long", "<q"), ("bool", "<?"),
        ("uchar", "<B"), ("ushort", "<H"), ("uint", "<I"), ("ulong", "<Q"),
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
    """An argument as the user gave it; `kind` is the name of the type if the user said it."""

    kind: str
    text: str


class CallRequest(NamedTuple):
    """What is to be called: `function` of `library`, and what it returns if the
    user said so (a name of KINDS, or empty).

    Where the library cannot be opened, `explain` gets the process and its name, and returns what to add to
    dlerror's words. Where there is no symbol of that very name, `resolve` gets the library and dlerror's
    words, and returns the symbol that is meant; it raises EmuError.
    """

    library: str
    function: str
    arguments: tuple[Argument, ...]
    returns: str
    resolve: Callable[[LinkMap, str, str], bytes]
    explain: Callable[[Process, str], str]


class CallAnswer(NamedTuple):
    """How the program ended, the function's result as text (None where it did not come back), and what it was
    taken for if nothing said.
    """

    result: Result
    text: str | None
    guessed: str


def call_function(config: RunConfig, bus: EventBus, request: CallRequest) -> CallAnswer:
    """Open a library in an empty program, call a function, end the program. Raises CallError, EmuError."""
    host = host_program_for(config.sysroot)
    process = Process(config._replace(image=host.image), bus)
    process.load()
    caller = _Caller(process, host, request)
    result = process.run()
    if caller.error is not None:
        raise caller.error
    return CallAnswer(result, caller.text, caller.guessed)


class _Caller:
    """The hosted `main` of the empty program."""

    def __init__(self, process: Process, host: HostProgram, request: CallRequest) -> None:
        assert process.loaded is not None and process.contract is not None
        self.process, self.request, self.contract = process, request, process.contract
        self.arena, self.heap = process.arena, process.contract.rtld.heap
        self.call = process.loaded.program.bias + host.call
        self.text: str | None = None
        self.guessed = ""
        self.names: dict[str, int] = {}
        self.error: CallError | None = None
        process.contract.plant(process.loaded.program.bias + host.main, self.main)

    def main(self, _contract: Contract, _call: HostedCall) -> Hosted:
        """Open, look up, call."""
        address = yield from self._find()
        if not address:
            return 1
        area = self.process.space.find(address)
        if area is not None and not area.prot & PROT_EXEC:
            self.error = CallError(
                f"{self.request.function} is data, no function: emu shell has lib.in_dll(TYPE, NAME)"
            )
            return 1
        try:
            arguments, returns = self._typed(address)
        except CallError as error:
            self.error = error
            return 1
        words, floats = [], []
        for kind, value in arguments:
            if kind.name == "str":
                words.append(self.heap.string(value))
            elif kind.name.removesuffix(_REFERENCE) in KINDS and kind.name not in KINDS:
                room = self.heap.allocate(
                    len(value), len(value)
                )  # as C++ does it with a value that lies nowhere
                self.arena.write(room, value)
                words.append(room)
            elif kind.floating:
                floats.append(value)
            else:
                words.append(int.from_bytes(value, "little"))
        rax, xmm0 = yield from call_by_block(self.arena, self.heap, self.call, address, words, floats)
        data = xmm0 if returns.floating else rax.to_bytes(8, "little")
        self.text = returns.show(data, self.arena.read_cstr)
        name = next((name for name, value in self.names.items() if str(value) == self.text), "")
        self.text += f" ({name})" if name else ""
        return 0

    def _typed(self, address: int) -> tuple[list[tuple[Kind, bytes]], Kind]:
        """Return the arguments by kind and the kind of the result:
        by what the user said, else by DWARF, else by a guess. Raises CallError.
        """
        request = self.request
        known = self.process.symbols.prototype(address)
        kinds = [argument.kind for argument in request.arguments]
        returns = request.returns
        if known is not None:
            least = len(known.parameters)
            if len(kinds) < least or len(kinds) > least and not known.variadic:
                more = " or more" if known.variadic else ""
                raise CallError(
                    f"{request.function} takes {least}{more} argument{'s' * (least != 1)} "
                    f"({', '.join(known.parameters) or 'none'}), not {len(kinds)}"
                )
            kinds[:least] = [kind or by_file for kind, by_file in zip(kinds, known.parameters, strict=False)]
            self.names = known.result_names if not returns else {}
            returns = returns or known.returns
        if not returns:
            returns = self.guessed = "int"
        texts = [argument.text for argument in request.arguments]
        for at, values in enumerate(known.names if known is not None else ()):
            texts[at] = str(values.get(texts[at], texts[at]))
        unknown = next((kind for kind in (*kinds, returns) if kind and _kind(kind) is None), None)
        if unknown is not None:
            raise CallError(
                f"{request.function}: a value of type {unknown} cannot be written here: use emu.Process from Python"
            )
        result = _kind(returns)
        assert result is not None
        return [
            _encoded(kind, text, at) for at, (kind, text) in enumerate(zip(kinds, texts, strict=True), 1)
        ], result

    def _find(self) -> Generator[Effect, int, int]:
        """Return the function's address, 0 with `error` set where there is none.

        Names are libc's business: dlopen and dlsym.
        """
        guest, request = self.contract.guest_function, self.request
        path = self.heap.string(os.fsencode(request.library))
        handle = yield CallGuest(guest(b"dlopen"), (path, _RTLD_NOW))
        if not handle:
            message = yield CallGuest(guest(b"dlerror"))
            text = os.fsdecode(self.arena.read_cstr(message))
            self.error = CallError(text + request.explain(self.process, request.library))
            return 0
        name = self.heap.string(os.fsencode(request.function))
        address = yield CallGuest(guest(b"dlsym"), (handle, name))
        if address:
            return address
        message = yield CallGuest(guest(b"dlerror"))
        if not message:
            self.error = CallError(f"{request.library}: {request.function}: it is NULL")
            return 0
        library, text = self.contract.rtld.by_address[handle], os.fsdecode(self.arena.read_cstr(message))
        try:
            name = self.heap.string(request.resolve(library, request.function, text))
        except EmuError as error:
            self.error = CallError(f"{request.library}: {request.function}: {error}")
            return 0
        return (yield CallGuest(guest(b"dlsym"), (handle, name)))


def _encoded(kind: str, text: str, number: int) -> tuple[Kind, bytes]:
    """Return an argument's kind and bytes; without a kind it is guessed, and what is no number can be a
    pointer to text. Raises CallError.
    """
    name = kind or guess(text)
    found = _kind(name)
    assert found is not None
    try:
        return found, found.encode(text)
    except ValueError as error:
        if name == "ptr" and guess(text) == "str":
            return KINDS["str"], KINDS["str"].encode(text)
        why = str(error) or ("give an address, or use emu.Process from Python" if name not in KINDS else "")
        raise CallError(f"argument {number}: {text!r} is no {name}{': ' * bool(why)}{why}") from None


def _kind(name: str) -> Kind | None:
    """Return the kind that DWARF or the user names, None for what cannot be written in a word.

    Pointers to data are addresses; a reference to a number is one to a copy of it.
    """
    if name in KINDS:
        return KINDS[name]
    if not name.endswith((_POINTER, _REFERENCE)):
        return None
    number = KINDS.get(name.removesuffix(_REFERENCE), KINDS["ptr"])
    return Kind(name, False, number.encode, KINDS["ptr"].show)


def guess(text: str) -> str:
    """Return the kind that a word looks like."""
    try:
        return "int" if -(1 << 31) <= int(text, 0) < 1 << 31 else "long"
    except ValueError:
        pass
    try:
        float(text)
    except ValueError:
        return "str"
    return "double" if any(c.isdigit() for c in text) else "str"
