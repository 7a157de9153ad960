"""One client of gdb's remote protocol: its packets and our answers.

Source: gdb's manual, "Remote Serial Protocol"; a packet that is not known gets the empty answer, which says
so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from emu.core.errors import EmuError, MemoryFault
from emu.gdb.files import Files
from emu.gdb.packets import MOST, escape, unescape
from emu.gdb.queries import Queries
from emu.gdb.registers import REGISTERS
from emu.gdb.signals import from_linux, to_linux
from emu.gdb.stop import Stop
from emu.gdb.watches import ACCESS, WRITE, Watch
from emu.kernel import abi

if TYPE_CHECKING:
    from emu.gdb.packets import Connection
    from emu.gdb.target import Target
    from emu.kernel.run.task import Task

OK = b"OK"
_WATCHES = {b"2": WRITE, b"4": ACCESS}
"""As on the real CPU there is none for reads alone (3):
gdb takes one for accesses then, and tells them apart by the value.
"""
_EXPEDITED = (6, 7, 16)
"""rbp, rsp and rip go with each stop, as gdb wants them anyway."""


class ProtocolError(Exception):
    """A packet that cannot be served; the text goes to the client."""


class Session:
    """Serves one client until it leaves; `done` then tells whether the process is over or let go,
    so that nobody else is to be waited for.
    """

    def __init__(self, target: Target, connection: Connection) -> None:
        self.target, self.connection = target, connection
        target.say = self.later
        self._lines: list[str] = []
        self.files = Files(lambda: target.process.kernel)
        self.queries = Queries(self)
        self.done = self.left = self.detached = False
        self.extended = self.multiprocess = False
        self.thread = {b"g": target.last.tid, b"c": 0}
        self._commands: dict[int, Callable[[bytes], bytes | None]] = {
            ord("?"): lambda rest: self.stop_reply(target.last),
            ord("!"): self._extend,
            ord("g"): self._read_registers,
            ord("G"): self._write_registers,
            ord("p"): self._read_register,
            ord("P"): self._write_register,
            ord("m"): self._read_memory,
            ord("x"): self._read_memory_binary,
            ord("M"): self._write_memory,
            ord("X"): self._write_memory_binary,
            ord("H"): self._choose_thread,
            ord("T"): self._thread_alive,
            ord("Z"): lambda rest: self._breakpoint(rest, True),
            ord("z"): lambda rest: self._breakpoint(rest, False),
            ord("q"): self.queries.query,
            ord("Q"): self.queries.set,
            ord("v"): self._verbose,
            ord("D"): self._detach,
            ord("k"): self._kill_silently,
            ord("R"): self._restart,
            ord("s"): lambda rest: self._resume_one(b"s", rest),
            ord("S"): lambda rest: self._resume_one(b"S", rest),
            ord("c"): lambda rest: self._resume_one(b"c", rest),
            ord("C"): lambda rest: self._resume_one(b"C", rest),
            ord("b"): self._back,
        }

    def serve(self) -> None:
        """Answer packets until the client has gone, or wants no more."""
        while not self.left:
            packet = self.connection.receive()
            if packet is None:
                self.done = self.target.last.over
                return
            answer = self.answer(packet)
            if answer is not None:
                self.connection.send(answer)

    def answer(self, packet: bytes) -> bytes | None:
        """Return the answer to one packet, None if there is none."""
        command = self._commands.get(packet[0]) if packet else None
        if command is None:
            return b""
        try:
            return command(packet[1:])
        except MemoryFault:
            return b"E0e"
        except ProtocolError as error:
            return b"E." + str(error).encode()
        except (ValueError, IndexError, KeyError):
            return b"E16"

    def later(self, text: str) -> None:
        """Show the user a line at the next stop."""
        self._lines.append(text)

    def say(self, text: str) -> None:
        """Show the user a line; only while gdb waits for a stop, or for the end of a monitor command."""
        self.connection.send(b"O" + f"{text}\n".encode("utf-8", "surrogateescape").hex().encode())

    # -- stops -----------------------------------------------------------------------------------------------

    def stop_reply(self, stop: Stop) -> bytes:
        """Return what gdb is told of a stop."""
        process = b";process:%x" % abi.PID if self.multiprocess else b""
        if stop.killed is not None:
            return b"X%02x" % from_linux(stop.killed) + process
        if stop.status is not None:
            return b"W%02x" % (stop.status & 0xFF) + process
        task = self.target.task(stop.tid)
        reply = b"T%02x" % from_linux(stop.signal)
        if task is not None:
            values = self.target.registers.general(task)
            reply += b"".join(b"%02x:%s;" % (number, values[number].hex().encode()) for number in _EXPEDITED)
            reply += b"thread:%s;" % self.thread_id(stop.tid)
        if stop.reason:
            reply += f"{stop.reason}:{stop.value};".encode()
        return reply

    def thread_id(self, tid: int) -> bytes:
        """Return a thread's id as this client has them."""
        return b"p%x.%x" % (abi.PID, tid) if self.multiprocess else b"%x" % tid

    def parse_thread(self, text: bytes) -> int:
        """Return the thread of an id: 0 for any, -1 for all."""
        if text.startswith(b"p"):
            _, _, text = text[1:].partition(b".")
        return -1 if text in (b"-1", b"") else int(text, 16)

    def stopped(self, stop: Stop) -> bytes:
        """Note a stop, and tell it."""
        target = self.target
        target.last = stop
        for line in self._lines:
            self.say(line)
        self._lines.clear()
        if stop.text:
            self.say(stop.text)
        if not stop.over:
            self.thread[b"g"] = stop.tid
        return self.stop_reply(stop)

    # -- running ---------------------------------------------------------------------------------------------

    def _verbose(self, rest: bytes) -> bytes | None:
        name, _, arguments = rest.partition(b";")
        if name == b"Cont?":
            return b"vCont;c;C;s;S;t;r"
        if name == b"Cont":
            return self._continue(arguments.split(b";"))
        if name.startswith(b"File:"):
            return self.files.serve(rest[5:])
        if name == b"Kill":
            self._kill()
            return OK
        if name == b"Run":
            return self._run(arguments)
        return b""

    def _continue(self, actions: list[bytes]) -> bytes:
        """vCont: who steps decides; the others run as the schedule has them."""
        chosen: tuple[bytes, int] | None = None
        for action in actions:
            what, _, thread = action.partition(b":")
            tid = self.parse_thread(thread) if thread else 0
            if chosen is None or chosen[0][:1] in b"cC" and what[:1] in b"sSr" or what[:1] in b"S":
                chosen = what, tid
        assert chosen is not None
        what, tid = chosen
        return self._resume(what, tid if tid > 0 else self.target.last.tid)

    def _resume_one(self, what: bytes, rest: bytes) -> bytes:
        signal, _, address = rest.partition(b";") if what in b"SC" else (b"", b"", rest)
        tid = self.thread[b"c"] if self.thread[b"c"] > 0 else self.target.last.tid
        task = self.target.task(tid)
        if address and task is not None:
            self.target.write_registers(task, {16: int(address, 16).to_bytes(8, "little")})
        return self._resume(what + signal, tid)

    def _resume(self, what: bytes, tid: int) -> bytes:
        if self.target.last.over:
            return self.stop_reply(self.target.last)
        kind, rest = what[:1], what[1:]
        signal = to_linux(int(rest, 16)) if kind in b"CS" else 0
        if kind in b"sSr":
            inside = None
            if kind == b"r":
                start, _, end = rest.partition(b",")
                inside = int(start, 16), int(end, 16)
            return self.stopped(self.target.step(tid, signal, inside))
        if kind in b"cC":
            return self.stopped(self.target.resume(signal))
        raise ProtocolError("emu runs all threads or none: non-stop is not supported")

    def _back(self, rest: bytes) -> bytes:
        """bs, bc: backwards. Refused where there is no history."""
        if rest not in (b"s", b"c"):
            return b""
        if self.target.timeline.why_not:
            raise ProtocolError(f"there is no history: {self.target.timeline.why_not}")
        tid = self.thread[b"c"] if self.thread[b"c"] > 0 else self.target.last.tid
        return self.stopped(self.target.back(tid if rest == b"s" else None))

    def _extend(self, _rest: bytes) -> bytes:
        self.extended = True
        return OK

    def _run(self, arguments: bytes) -> bytes:
        """vRun: begin again; the program and its arguments are those that emu was given."""
        words = [bytes.fromhex(word.decode()) for word in arguments.split(b";")]
        wanted = [word.decode("utf-8", "surrogateescape") for word in words]
        try:
            self.target.restart(wanted[0] or None, tuple(wanted[1:]) if len(wanted) > 1 else None)
        except EmuError as error:
            raise ProtocolError(str(error)) from None
        return self.stopped(self.target.last)

    def _restart(self, _rest: bytes) -> None:
        self.target.restart()

    def _kill_silently(self, _rest: bytes) -> None:
        self._kill()

    def _kill(self) -> None:
        self.target.last = Stop(self.target.last.tid, killed=abi.SIGKILL)
        if not self.extended:
            self.done = self.left = True

    def end(self) -> None:
        """End the process and the server, whoever is connected."""
        self._kill()
        self.done = self.left = True

    def _detach(self, _rest: bytes) -> bytes:
        """Let the process go: it runs to its end when the client has heard."""
        self.left = self.detached = True
        self.done = not self.extended
        return OK

    # -- registers and memory --------------------------------------------------------------------------------

    def chosen(self) -> Task:
        """Return the thread that `H g` has chosen."""
        tid = self.thread[b"g"]
        task = self.target.task(tid if tid > 0 else self.target.last.tid)
        return (
            task if task is not None else self.target.execution.task
        )  # after a goto to where it was not yet

    def _read_registers(self, _rest: bytes) -> bytes:
        return b"".join(self.target.registers.read(self.chosen())).hex().encode()

    def _write_registers(self, rest: bytes) -> bytes:
        data, changes = bytes.fromhex(rest.decode()), {}
        for number, register in enumerate(REGISTERS):
            changes[number], data = data[: register.size], data[register.size :]
        self.target.write_registers(self.chosen(), changes)
        return OK

    def _read_register(self, rest: bytes) -> bytes:
        return self.target.registers.read(self.chosen())[int(rest, 16)].hex().encode()

    def _write_register(self, rest: bytes) -> bytes:
        number, _, value = rest.partition(b"=")
        if int(number, 16) >= len(REGISTERS):
            raise ProtocolError(f"there is no register {int(number, 16)}")
        self.target.write_registers(self.chosen(), {int(number, 16): bytes.fromhex(value.decode())})
        return OK

    def _read_memory(self, rest: bytes) -> bytes:
        address, _, size = rest.partition(b",")
        return self.target.read(int(address, 16), min(int(size, 16), MOST // 2 - 8)).hex().encode()

    def _read_memory_binary(self, rest: bytes) -> bytes:
        address, _, size = rest.partition(b",")
        return b"b" + escape(self.target.read(int(address, 16), min(int(size, 16), MOST // 2 - 8)))

    def _write_memory(self, rest: bytes) -> bytes:
        where, _, data = rest.partition(b":")
        self.target.write(int(where.partition(b",")[0], 16), bytes.fromhex(data.decode()))
        return OK

    def _write_memory_binary(self, rest: bytes) -> bytes:
        where, _, data = rest.partition(b":")
        written = unescape(data)
        if written:
            self.target.write(int(where.partition(b",")[0], 16), written)
        return OK

    # -- threads and breakpoints -----------------------------------------------------------------------------

    def _choose_thread(self, rest: bytes) -> bytes:
        tid = self.parse_thread(rest[1:])
        if tid > 0 and self.target.task(tid) is None:
            return b"E03"
        self.thread[rest[:1]] = tid
        return OK

    def _thread_alive(self, rest: bytes) -> bytes:
        return OK if self.target.task(self.parse_thread(rest)) is not None else b"E03"

    def _breakpoint(self, rest: bytes, there: bool) -> bytes:
        kind, where, size = rest.partition(b";")[0].split(b",")
        address = int(where, 16)
        execution = self.target.execution
        if kind in (b"0", b"1"):
            if there:
                self.target.process.arena.read(address, 1)
                execution.breakpoints.add(address)
            else:
                execution.breakpoints.discard(address)
            return OK
        if kind not in _WATCHES:
            return b""
        watch = Watch(_WATCHES[kind], address, int(size, 16))
        if there:
            execution.watches.add(watch)
        else:
            execution.watches.remove(watch)
        return OK
