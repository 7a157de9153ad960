"""One guest process in the hands of Python."""

from __future__ import annotations

import os
import time as host_time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, overload

from emu.analysis.history import History
from emu.api import callers
from emu.api.answers import Answers
from emu.api.checking import Checked
from emu.api.convert import Prototype
from emu.api.dtors import Destructions
from emu.api.engine import Engine
from emu.api.errors import ArgumentError, Error, GuestFault, StateError
from emu.api.events import Event, kinds_of
from emu.api.function import Calls, Function
from emu.api.hooks import Hooks
from emu.api.library import Library
from emu.api.memory import Memory
from emu.api.place import Place
from emu.api.snapshot import Snapshot
from emu.api.thread import Thread
from emu.core.effects import Hosted, Jump
from emu.core.events import CATEGORIES, EventBus, Record
from emu.glibc.host_program import build_host_program
from emu.kernel.clock import EPOCH_NS
from emu.kernel.policy import Policy, Random, RoundRobin
from emu.process import Process as Inner
from emu.process import RunConfig

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.api.hooks import Breakpoint, Interposition
    from emu.glibc.call import Call
    from emu.glibc.contract import Contract


class Process(Answers):
    """A process of the guest: `program` with `args` (after its name), or without one an empty program that hosts libraries.

    A new process stands before its program's first instruction, libraries being linked and initialised; from there guest functions can be
    called, and `run` lets the program run. Leaving the `with` block ends a hosting process as a return from `main` does: destructors and exit
    handlers run.

    `env` is the guest's environment (None: ours), `trace` the categories of events to keep, or "all"; `schedule` is "round-robin", "random" (by
    `seed`) or a policy. `time` is the guest's time at the start, in seconds since 1970, or "now" (None: 2024-01-01, so that runs are alike).
    `stdin`, `stdout` and `stderr` are files or descriptors of the host (None: ours). `tls_dtors`, `unload_rule`,
    `max_memory` and `writable` are as in `RunConfig`. `timeout` is how many seconds of host time one call, `run` or
    `step` may take: then it raises RunTimeout. `check` watches for what `emu check` finds, by all rules or by those named.

    Ctrl-C stops the guest where it is, between two instructions: KeyboardInterrupt. Either way it is whole: `run` and `step` can be called
    again, and `resume` goes on with a call.

    >>> import emu
    >>> with emu.Process() as p:
    ...     libc = p.dlopen("libc.so.6")
    ...     libc.strlen(b"hello")
    5
    """

    def __init__(
        self,
        program: str | os.PathLike[str] | None = None,
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        *,
        sysroot: str = "/",
        cwd: str | None = None,
        trace: Sequence[str] | Literal["all"] = (),
        seed: int = 0,
        time: int | Literal["now"] | None = None,
        schedule: Literal["round-robin", "random"] | Policy = "round-robin",
        tls_dtors: Literal["model", "guest"] = "model",
        unload_rule: Literal["dtor-count", "nodelete-flag"] = "dtor-count",
        stdin: int | BinaryIO | None = None,
        stdout: int | BinaryIO | None = None,
        stderr: int | BinaryIO | None = None,
        writable: Sequence[str] = (),
        max_memory: int | None = None,
        timeout: float | None = None,
        check: bool | Sequence[str] = False,
    ) -> None:
        if unload_rule == "nodelete-flag" and tls_dtors == "guest":
            raise ArgumentError(
                "unload_rule nodelete-flag is not what the guest's libc does: it needs tls_dtors model"
            )
        host = build_host_program() if program is None else None
        if isinstance(schedule, str):
            schedule = Random(seed) if schedule == "random" else RoundRobin()
        config = RunConfig(
            program=os.fspath(program) if program is not None else "emu-host",
            args=tuple(args),
            env=dict(os.environ if env is None else env),
            cwd=cwd if cwd is not None else os.getcwd() if sysroot == "/" else "/",
            sysroot=sysroot,
            seed=seed,
            start_time=_start_time(time),
            writable=tuple(writable),
            max_memory=max_memory,
            tls_dtors=tls_dtors,
            unload_rule=unload_rule,
            image=host.image if host is not None else None,
            policy=schedule,
            stdio=(_descriptor(stdin, 0), _descriptor(stdout, 1), _descriptor(stderr, 2)),
        )
        self._bus = EventBus()
        self.place = Place()
        self._traced = CATEGORIES if trace == "all" else tuple(trace)
        try:
            self._bus.subscribe(self._seen, self._traced)
        except ValueError as error:
            raise Error(str(error)) from None
        self.inner = Inner(config, self._bus)
        """The composition root underneath."""
        self._history = History(self.inner, frozenset(self._traced))
        self._destroyed = Destructions(self.inner) if "dtors" in self._traced else None
        self._checked = Checked(self.inner, self._bus, check) if check else None
        self.place.observers = self._history, self._destroyed, self._checked
        self.memory = Memory(self.inner, self._describe)
        self.engine = Engine(self.inner, timeout)
        self.calls = Calls(self.engine, self.memory)
        self._hosting = host is not None
        self.libraries: weakref.WeakSet[Library] = weakref.WeakSet()
        self.driven: weakref.WeakSet[Thread] = weakref.WeakSet()
        self.watch: Callable[[Record], None] | None = None
        """Told of each event that is traced."""
        self.inner.load()
        if self._checked is not None:
            self._checked.checker.loaded()
        if self.inner.rtld is not None:
            self.inner.rtld.describe_caller = self._caller
        self._hooks = Hooks(self)
        if self.inner.contract is not None:
            self._enter(host.main if host is not None else None)

    def _enter(self, main: int | None) -> None:
        """Link and initialise, up to where Python takes over."""
        engine, contract, loaded = self.engine, self.engine.contract, self.inner.loaded
        assert loaded is not None
        engine.plant()
        station = engine.station()
        engine.stations.append(station)
        trap = loaded.program.bias + main if main is not None else None
        self.inner.complete_backtraces(callers.Callers(engine, trap).complete)
        if trap is not None:
            engine.host_at(trap, station)
        else:
            station.then = Jump(contract.rtld.namespaces[0].maps[0].entry, (0, 0, contract.fini_stub))

            def start(_contract: Contract, _call: Call) -> Hosted:
                return engine.serve(station, at_once=True, first=(contract.link, contract.initialise))

            contract.traps[contract.start_stub] = start
        engine.start()

    def _seen(self, record: Record) -> None:
        self.place.records.append(record)
        if self.watch is not None:
            self.watch(record)

    # -- running ---------------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Run the program to its end and return its exit status (128 + N if signal N killed it: see `report`)."""
        self._leave()
        with self.engine.limited():
            while self.engine.result is None:
                self.engine.proceed()
        return self.engine.result.status

    @overload
    def step(self, until: str = "event") -> Event | str | None: ...

    @overload
    def step(self, until: Breakpoint) -> Breakpoint | None: ...

    def step(self, until: str | Breakpoint = "event") -> Event | str | Breakpoint | None:
        """Run the program until something happens and return that, None when the process ends first.

        `until` is "event" (one of those traced), a category or kind of events that is traced, "trap" (the next system call or
        hosted function, whose name is returned), or a breakpoint.
        """
        with self.engine.limited():
            if isinstance(until, str):
                return self._step(until)
            self._leave()
            hits = until.hits
            while until.hits == hits:
                if self.ended:
                    return None
                self.engine.proceed()
            return until

    def _step(self, until: str) -> Event | str | None:
        wanted = None
        if until not in ("event", "trap"):
            wanted = kinds_of(until)
            self._must_trace(wanted, until)
        elif until == "event" and not self._traced:
            raise Error("step until an event: none are traced, see Process(trace=...)")
        if not self.place.running:
            self.place.cursor = len(self.place.records)
        self._leave()
        traps: list[str] = []
        end = self._hooks.on_trap(traps.append) if until == "trap" else self._hooks.on_event(wanted)
        try:
            while True:
                if traps:
                    return traps[0]
                while until != "trap" and self.place.cursor < len(self.place.records):
                    self.place.cursor += 1
                    record = self.place.records[self.place.cursor - 1]
                    if wanted is None or type(record.event) in wanted:
                        return Event(record)
                if self.ended:
                    return None
                self.engine.proceed()
        finally:
            end()

    def live(self, kind: str) -> Iterator[Event]:
        """Run the program and yield events as they happen."""
        while True:
            event = self.step(kind)
            if not isinstance(event, Event):
                return
            yield event

    def _leave(self) -> None:
        """Let the program have its first thread."""
        if self._hosting:
            raise StateError(
                "the empty program has nothing to run: call functions, and leave the with block to end it"
            )
        if not self.place.running:
            self.place.running = True
            if self.engine.stations:
                self.engine.let_go()
            else:
                self.engine.begin()

    def close(self) -> None:
        """End a hosting process as a return from `main` does; a program that is not over is dropped where it is.

        Raises GuestFault if a signal kills the guest at that. Leaving the `with` block does so too, unless another error leaves it already.
        """
        if self._hosting and not self.ended and self.engine.usable:
            self.engine.finish()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        with suppress(GuestFault) if kind is not None else nullcontext():
            self.close()

    def _caller(self, address: int) -> str:
        """Name the place of a call of the guest: for one that Python makes, the line of Python."""
        stubs, ld_so = self.engine.contract.stubs, self.engine.contract.rtld.ld_so
        # The linker takes a call from a stub for one from ld.so, at its very start.
        from_ld_so = ld_so is not None and address == ld_so.map_start
        if not from_ld_so and not stubs.start <= address < stubs.end:
            return self.inner.symbols.call_site(address)
        return callers.place()

    # -- snapshots ---------------------------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """Note the whole state of the process: memory, registers of all threads, kernel and linker. See `Snapshot`.

        Raises StateError where none can be taken: in a handler or a Python function that the guest is calling, and while a thread is inside the
        linker (dlopen) or in a system call that is half done; the error names it.
        """
        return Snapshot(self)

    def restore(self, snapshot: Snapshot) -> None:
        """Put the process back into the state of a snapshot of its own, even after its end or a crash. Raises ArgumentError, StateError."""
        if snapshot.process is not self:
            raise ArgumentError(f"{snapshot!r} is not of this process")
        snapshot.restore()

    @property
    def aside(self) -> list[object]:
        """What a snapshot leaves alone, being Python's."""
        return [self, self.calls, self._hooks]

    # -- hooks ------------------------------------------------------------------------------------------------------------------

    def interpose(
        self, where: str | Function | int, handler: Callable[..., Any], prototype: Prototype | None = None
    ) -> Interposition:
        """Let `handler` answer every call of a guest function, from whoever it comes; other code runs as fast as before.

        `prototype` has the types; without one the handler gets as many unsigned 64-bit words as it takes, and returns one. The result's `original` is the
        function itself, for the handler to call. A handler that is a generator yields calls of the guest (see `Call`) and returns the result.

        >>> import ctypes, emu
        >>> with emu.Process() as p:
        ...     libc = p.dlopen("libc.so.6")
        ...     with p.interpose("abs", lambda x: doubled.original(x) * 2) as doubled:
        ...         libc.abs(-4)
        8
        """
        return self._hooks.interpose(where, handler, prototype)

    def breakpoint(
        self, where: str | Function | int, handler: Callable[[Breakpoint], object] | None = None
    ) -> Breakpoint:
        """Call `handler` whenever the instruction at `where` is about to run; without one it is a place for `step` to go to.

        It may read and change registers and memory. One that is a generator may also have the guest called, see `Call`.

        >>> import emu
        >>> with emu.Process() as p:
        ...     libc = p.dlopen("libc.so.6")
        ...     def handler(stop):
        ...         print("asked for", stop["rdi"], "and abs says", (yield emu.Call(libc.abs, -5)))
        ...     with p.breakpoint("sleep", handler):
        ...         libc.sleep(3)
        asked for 3 and abs says 5
        0
        """
        return self._hooks.breakpoint(where, handler)

    def resume(self) -> None:
        """Go on with a call that was broken off, by Ctrl-C or by the limit of time, to its end; its result is lost."""
        self.engine.resume()

    def __repr__(self) -> str:
        state = (
            f"ended with status {self.status}" if self.ended else "running" if self.place.running else "ready"
        )
        return f"<emu.Process {self.inner.config.program}, {state}>"


def _descriptor(file: int | BinaryIO | None, default: int) -> int:
    return default if file is None else file if isinstance(file, int) else file.fileno()


def _start_time(given: int | Literal["now"] | None) -> int:
    """Return nanoseconds since the epoch. Raises ArgumentError."""
    if given is None:
        return EPOCH_NS
    if given == "now":
        return host_time.time_ns()
    if not isinstance(given, int) or not 0 <= given < 1 << 33:
        raise ArgumentError(f'time={given!r} is neither "now" nor a whole number of seconds since 1970')
    return given * 10**9
