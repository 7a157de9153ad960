"""ld.so's errors in the guest: raised by libc's own
`_dl_signal_exception`, caught by its own `_dl_catch_exception`.

A hosted function that fails must end where libc expects it: at the innermost catch, with the message in the
guest's malloc. And where ld.so makes errors fatal (constructors, destructors), libc's catch must be switched
off meanwhile. So a generator that may fail is run *by the guest*: libc's `_dl_catch_exception(exception,
operate, token)` calls our `operate`, which goes on with the generator.

Source: glibc elf/dl-error-skeleton.c, elf/dl-exception.c.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Generator
from typing import TYPE_CHECKING

from emu.core.effects import CallGuest, Effect, Hosted, Jump
from emu.core.errors import LoaderError, UnsupportedError, WildPointerError

if TYPE_CHECKING:
    from emu.glibc.call import HostedCall
    from emu.glibc.contract import Contract
    from emu.rtld.given import Work

_EXCEPTION_SIZE = 24
_OUT_OF_MEMORY = b"out of memory\0\0"


class CaughtError:
    """An error that libc's catch has stored in a `struct dl_exception` at `address`."""

    def __init__(self, errors: Errors, address: int, errcode: int) -> None:
        self._errors, self._address, self._errcode = errors, address, errcode

    def text(self) -> str:
        """Return what dlerror would say of it."""
        arena = self._errors.contract.arena
        objname, errstring = struct.unpack("<QQ", arena.read(self._address, 16))
        parts = [os.fsdecode(arena.read_cstr(objname)), os.fsdecode(arena.read_cstr(errstring))]
        if self._errcode:
            parts.append(os.strerror(self._errcode))
        return ": ".join(part for part in parts if part)

    def reason(self) -> str:
        """Return the message alone."""
        arena = self._errors.contract.arena
        return os.fsdecode(arena.read_cstr(arena.read_u64(self._address + 8)))

    def signal(self) -> Work:
        """Raise it again; this is the end of the hosted function."""
        contract = self._errors.contract
        scratch = self._errors.scratch()
        contract.arena.write(scratch, contract.arena.read(self._address, _EXCEPTION_SIZE))
        contract.rtld.heap.free(self._address)
        yield Jump(contract.guest_function(b"_dl_signal_exception"), (self._errcode, scratch, 0))


class Errors:
    """The machinery for one process.

    `operate_stub` is the guest address of the trap that continues a parked generator.
    """

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        self.operate_stub = 0
        self._parked: dict[int, Work] = {}
        self._tokens = 0
        self._scratch: dict[int, int] = {}
        self._last_words: dict[int, list[int]] = {}
        self._occasions: dict[str, int] = {}

    # -- catching --------------------------------------------------------------------------------------------

    def catching(self, work: Work) -> Generator[Effect, int, CaughtError | None]:
        """Run `work`; return the error that ended it, or None."""
        heap, arena = self.contract.rtld.heap, self.contract.arena
        exception = heap.allocate(_EXCEPTION_SIZE)
        errcode = yield from self._run(exception, work)
        if arena.read_u64(exception + 8):
            return CaughtError(self, exception, errcode & 0xFFFFFFFF)
        heap.free(exception)
        return None

    def uncaught(self, work: Work) -> Work:
        """Run `work` with libc's catch switched off: an error in it is the end of the process."""
        yield from self._run(0, work)

    def _run(self, exception: int, work: Work) -> Generator[Effect, int, int]:
        self._tokens += 1
        token = self._tokens
        self._parked[token] = work
        catch = self.contract.guest_function(b"_dl_catch_exception")
        return (yield CallGuest(catch, (exception, self.operate_stub, token)))

    def operate(self, call: HostedCall) -> Hosted:
        """`operate(token)`: what libc's catch calls."""
        work = self._parked.pop(call.args[0], None)
        if work is None:
            raise WildPointerError(call.args[0], "work of the linker's that waits to be done")
        yield from work
        return 0

    # -- raising ---------------------------------------------------------------------------------------------

    def signal(self, error: LoaderError) -> Hosted:
        """Leave a hosted function as ld.so does: by libc's `_dl_signal_error`,
        which makes the exception itself.

        For errors that have an occasion ld.so makes the exception, with both strings in one block of the
        guest's malloc, and calls `_dl_signal_exception`.
        """
        contract = self.contract
        if error.occasion is None:
            words = self._words(error.object_name, error.text)
            yield Jump(contract.guest_function(b"_dl_signal_error"), (error.errno, words[0], 0, words[1]))
        text = error.text.encode(errors="surrogateescape") + b"\0"
        name = error.object_name.encode(errors="surrogateescape") + b"\0"
        block = yield from self._allocate(len(text) + len(name))
        if block:
            contract.arena.write(block, text + name)
            fields = (block + len(text), block, block if contract.linked else 0)
        else:
            block = self._string(_OUT_OF_MEMORY.decode())
            fields = (block + len(_OUT_OF_MEMORY) - 1, block, 0)
        occasion = self._string(error.occasion) if error.occasion else 0
        scratch = self.scratch()
        contract.arena.write(scratch, struct.pack("<QQQ", *fields))
        yield Jump(contract.guest_function(b"_dl_signal_exception"), (error.errno, scratch, occasion))
        return 0

    def scratch(self) -> int:
        """Return the running thread's place for an exception on its way (libc copies it at once)."""
        thread = self.contract.thread_pointer()
        if thread not in self._scratch:
            self._scratch[thread] = self.contract.rtld.heap.allocate(_EXCEPTION_SIZE)
        return self._scratch[thread]

    def _words(self, *texts: str) -> list[int]:
        """Return strings for an error on its way; the running thread's next error takes their place."""
        thread, heap = self.contract.thread_pointer(), self.contract.rtld.heap
        for address in self._last_words.get(thread, ()):
            heap.free(address)
        self._last_words[thread] = [heap.string(text.encode(errors="surrogateescape")) for text in texts]
        return self._last_words[thread]

    def _string(self, text: str) -> int:
        if text not in self._occasions:
            self._occasions[text] = self.contract.rtld.heap.string(text.encode())
        return self._occasions[text]

    # -- ld.so's own entries ---------------------------------------------------------------------------------

    def create(self, exception: int, objname: bytes, text: bytes) -> Hosted:
        """Fill a `struct dl_exception` with copies of both strings in one block of the guest's malloc.

        Source: _dl_exception_create.
        """
        contract = self.contract
        block = yield from self._allocate(len(text) + len(objname) + 2)
        if block:
            contract.arena.write(block, text + b"\0" + objname + b"\0")
            fields = (block + len(text) + 1, block, block if contract.linked else 0)
        else:
            block = self._string(_OUT_OF_MEMORY.decode())
            fields = (block + len(_OUT_OF_MEMORY) - 1, block, 0)
        contract.arena.write(exception, struct.pack("<QQQ", *fields))
        return 0

    def _allocate(self, size: int) -> Generator[Effect, int, int]:
        """Return memory for a message: the guest's, or ld.so's own as long as no libc
        of the program is there (which is never freed).
        """
        contract = self.contract
        if not contract.linked:
            return contract.rtld.heap.allocate(size)
        return (yield CallGuest(contract.guest_function(b"malloc"), (size,)))

    def free(self, exception: int) -> Hosted:
        """Free what `create` made. Source: _dl_exception_free."""
        contract = self.contract
        if contract.linked:
            yield CallGuest(contract.guest_function(b"free"), (contract.arena.read_u64(exception + 16),))
        contract.arena.write(exception, bytes(_EXCEPTION_SIZE))
        return 0

    def create_format(self, call: HostedCall) -> Hosted:
        """`_dl_exception_create_format(exception, objname, fmt, ...)`: knows %s, %x, %lx, %zx and %%,
        as ld.so's does.
        """
        arena = self.contract.arena
        objname = arena.read_cstr(call.args[1]) if call.args[1] else b""
        fmt = arena.read_cstr(call.args[2])
        stack = (arena.read_u64(call.rsp + 8 * (index + 1)) for index in range(len(fmt)))
        values = iter((*call.args[3:], *stack))
        text, at = bytearray(), 0
        while (percent := fmt.find(b"%", at)) >= 0:
            text += fmt[at:percent]
            kind = fmt[percent + 1 : percent + 2]
            at = percent + 2
            if kind == b"s":
                text += arena.read_cstr(next(values))
            elif kind == b"x":
                text += b"%08x" % (next(values) & 0xFFFFFFFF)
            elif kind in (b"l", b"z") and fmt[at : at + 1] == b"x":
                text += b"%016x" % next(values)
                at += 1
            elif kind == b"%":
                text += b"%"
            else:
                raise UnsupportedError(
                    f"format {fmt.decode(errors='replace')!r}", "_dl_exception_create_format"
                )
        return (yield from self.create(call.args[0], objname, bytes(text + fmt[at:])))
