"""One guest process in the hands of Python.

One piece: all that a user may ask of a process, a method each; `linking`, `answers` and `hooks` do it.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TypeVar, overload

from emu.api import callers
from emu.api import config as given
from emu.api.answers import Answers
from emu.api.config import Schedule, TlsDtors, UnloadRule
from emu.api.convert import Prototype
from emu.api.dtors import Destroyed
from emu.api.engine import Engine
from emu.api.errors import ArgumentError, Error, GuestFault, StateError
from emu.api.events import Event, Events, kinds_of
from emu.api.function import Calls, Function
from emu.api.hooks import Hooks
from emu.api.library import Library, Symbol
from emu.api.linking import RTLD_NOW, Linking, describe
from emu.api.memory import Memory
from emu.api.place import Position
from emu.api.pointer import ForTheGuest
from emu.api.reasons import Reasons
from emu.api.snapshot import Snapshot
from emu.api.thread import Thread
from emu.api.views import LinkMaps, Scopes, ThreadInfo, Threads, Tls
from emu.core.effects import Hosted, Jump
from emu.core.events import EventBus, Record
from emu.machine.engines import CpuName, EngineName
from emu.process import Process as Inner
from emu.process import Result

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from emu.analysis.answer import Answer
    from emu.api.checking import Findings
    from emu.api.hooks import Breakpoint, Interposition
    from emu.api.timeline import Timeline
    from emu.glibc.call import HostedCall
    from emu.glibc.contract import Contract
    from emu.kernel.run.policy import Policy
    from emu.rtld.rtld import Rtld

T = TypeVar("T")


class Process(ForTheGuest, instead="use Process.memory"):
    """A process of the guest: `program` with `args` (after its name), or without
    one an empty program that hosts libraries.

    A new process stands before its program's first instruction, libraries being linked and initialised; from
    there guest functions can be called, and `run` lets the program run. Leaving the `with` block ends a
    hosting process as a return from `main` does: destructors and exit handlers run.

    `env` is the guest's environment (None: ours), `trace` the categories of events to keep (one, several, or
    "all"); `schedule` is "round-robin", "random" (by `seed`), "replay:FILE" or a policy. `time` is the
    guest's time at the start, in seconds since 1970, or "now" (None: 2024-01-01, so that runs are alike).
    `stdin`, `stdout` and `stderr` are files or descriptors of the host (None: ours). `tls_dtors`,
    `unload_rule`, `max_memory`, `writable` and `writable_as_root` are as in `RunConfig`. `timeout` is how
    many seconds of host time one call, `run` or `step` may take: then it raises RunTimeout. `check`
    watches for what `emu check` finds, by all rules or by those named.

    `memory` is the guest's, `libraries` are those that Python holds, `driven` the threads that it steps.
    `watch` is told of each event, None for nobody. `engine`, `calls` and `place` are how it runs guest code,
    and where it stands: for emu itself.

    Ctrl-C stops the guest where it is, between two instructions: KeyboardInterrupt. Either way it is whole:
    `run` and `step` can be called again, and `resume` goes on with a call.

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
        sysroot: str | os.PathLike[str] = "/",
        cwd: str | os.PathLike[str] | None = None,
        trace: Sequence[str] | str = (),
        seed: int = 0,
        time: int | Literal["now"] | None = None,
        schedule: Schedule | str | Policy = "round-robin",
        tls_dtors: TlsDtors = "model",
        unload_rule: UnloadRule = "dtor-count",
        stdin: int | BinaryIO | None = None,
        stdout: int | BinaryIO | None = None,
        stderr: int | BinaryIO | None = None,
        writable: Sequence[str] = (),
        writable_as_root: bool = False,
        max_memory: int | None = None,
        timeout: float | None = None,
        check: bool | Sequence[str] = False,
        engine: EngineName | None = None,
        cpu: CpuName = "host",
    ) -> None:
        wanted = given.Wanted(
            program, args, env, sysroot, cwd, seed, time, schedule, tls_dtors, unload_rule, (stdin, stdout, stderr), writable,
            writable_as_root, max_memory, engine, cpu,
        )  # fmt: skip
        config, main = given.run_config(wanted)
        timeout = given.limit(timeout)
        self._bus = EventBus()
        self.place = Position()
        self._traced = given.categories(trace)
        self._bus.subscribe(self._seen, self._traced)
        self.inner = Inner(config, self._bus, self._caller)
        """The composition root underneath."""
        self._answers = Answers(self, self._bus, self._traced, check)
        self.place.observers = self._answers.observers
        self.memory = Memory(self.inner, partial(describe, self.inner))
        self.engine = Engine(self.inner, timeout)
        self.calls = Calls(self.engine, self.memory, self.perform)
        self._linking = Linking(self, self.inner, self.engine, self.calls, self.memory)
        self._hosting = main is not None
        self.libraries: weakref.WeakSet[Library] = weakref.WeakSet()
        self.driven: weakref.WeakSet[Thread] = weakref.WeakSet()
        self._timeline: Timeline | None = None
        self._listeners: list[Callable[[Record], None]] = []
        self.watch: Callable[[Record], None] | None = None
        """Told of each event that is traced."""
        self.inner.load()
        self._answers.loaded()
        self._hooks = Hooks(self)
        if self.inner.contract is not None:
            self._enter(main)

    def _enter(self, main: int | None) -> None:
        """Link and initialise, up to where Python takes over."""
        engine, contract, loaded = self.engine, self.engine.contract, self.inner.loaded
        assert loaded is not None
        engine.plant()
        station = engine.station()
        engine.stations.append(station)
        trap = loaded.program.bias + main if main is not None else None
        self.inner.backtraces.end_where(callers.Callers(engine, trap).entered)
        if trap is not None:
            engine.host_at(trap, station)
        else:
            station.then = Jump(contract.rtld.namespaces[0].maps[0].entry, (0, 0, contract.fini_stub))

            def start(_contract: Contract, _call: HostedCall) -> Hosted:
                return engine.serve(station, at_once=True, first=(contract.link, contract.initialise))

            contract.traps[contract.start_stub] = start
        engine.start()

    def listen(self, sink: Callable[[Record], None], categories: Sequence[str]) -> None:
        """Hand every later event of some categories to `sink`, whether they are traced or not."""
        self._listeners.append(sink)
        self._bus.subscribe(sink, categories)

    def _seen(self, record: Record) -> None:
        self.place.keep(record)
        if self.watch is not None:
            self.watch(record)

    # -- running ---------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Run the program to its end and return its exit status (128 + N if
        signal N killed it: see `report`).
        """
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

        `until` is "event" (one of those traced), a category or kind of events that is traced, "trap" (the
        next system call or hosted function, whose name is returned), or a breakpoint.
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
            self._answers.must_trace(wanted, until)
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
                if until != "trap" and self.place.beyond:
                    self.place.whole()
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
        """End a hosting process as a return from `main` does;
        a program that is not over is dropped where it is.

        Raises GuestFault if a signal kills the guest at that. Leaving the `with` block does so too, unless
        another error leaves it already.
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

    @property
    def timeline(self) -> Timeline:
        """This program's run once more, in silence, to go to its events and back: see `Timeline`.

        Raises StateError for an empty program.
        """
        if self._hosting:
            raise StateError("the empty program has no run of its own to go back in: give Process a program")
        if self._timeline is None:
            from emu.api.timeline import Timeline

            self._timeline = Timeline(self.inner.config, self._traced)
        return self._timeline

    def gdb(self, address: str | int) -> Result | None:
        """Serve debuggers at `address` ([HOST:]PORT or unix:PATH) on the timeline: see `Timeline.gdb`."""
        return self.timeline.gdb(address)

    @property
    def ended(self) -> bool:
        """Whether the process is over."""
        return self.engine.result is not None

    @property
    def status(self) -> int | None:
        """The exit status, None before the end."""
        return self.engine.result.status if self.engine.result is not None else None

    @property
    def report(self) -> str:
        """What is to be said of how the process ended: where a signal killed it; empty otherwise."""
        return self.engine.result.report if self.engine.result is not None else ""

    # -- what is loaded, threads and TLS ---------------------------------------------------------------------

    def dlopen(self, path: str | bytes | os.PathLike[str], flags: int = RTLD_NOW) -> Library:
        """Open an object by the guest's dlopen. Raises OpenError with dlerror's text."""
        return self._linking.dlopen(path, flags)

    def dlclose(self, handle: int) -> None:
        """Close a handle by the guest's dlclose. Raises OpenError."""
        self._linking.dlclose(handle)

    def perform(self, _key: Callable[[], Hashable], act: Callable[[], T]) -> T:
        """Return what `act` gives, which has the guest do something: an opening, a call. From the same state,
        with the same key, it does the same; None is the key of what has none.
        """
        return act()

    @property
    def rtld(self) -> Rtld:
        """The dynamic linker's state. Raises StateError for a static program."""
        return self._linking.rtld

    @property
    def link_maps(self) -> LinkMaps:
        """What is loaded, in all namespaces."""
        return self._linking.link_maps

    @property
    def namespaces(self) -> list[LinkMaps]:
        """What is loaded, by namespace."""
        return self._linking.namespaces

    def scopes(self, library: Library | str) -> Scopes:
        """Return the scopes in which the references of an object are looked up, in order."""
        return self._linking.scopes(library)

    def symbols(self, library: Library | str) -> list[Symbol]:
        """Return what an object defines for others.

        >>> import emu
        >>> with emu.Process() as p:
        ...     wanted = ("errno", "memcpy", "stdout")
        ...     sorted({(s.name, s.kind) for s in p.symbols("libc.so.6") if s.name in wanted})
        [('errno', 'thread-local data'), ('memcpy', 'function'), ('stdout', 'data')]
        """
        return self._linking.symbols(library)

    def lookup(self, name: str, version: str | None = None, scope: Library | str | None = None) -> Symbol:
        """Return what a name (mangled or not) means in the global scope, or in that of `scope` (an object)
        alone. Raises SymbolNotFoundError.
        """
        return self._linking.lookup(name, version, scope)

    def function(self, name: str | Symbol, library: Library | None = None) -> Function:
        """Return the function of a name in the global scope, or of a symbol.

        Raises SymbolNotFoundError, NotAFunctionError.
        """
        return self._linking.function(name, library)

    def function_at(self, address: int, prototype: Prototype | None = None) -> Function:
        """Return the function at an address."""
        return self._linking.function_at(address, prototype)

    def data_address(self, symbol: Symbol) -> int:
        """Return where the data of a symbol are; thread-local data are those of
        the thread in which calls would run.
        """
        return self._linking.data_address(symbol)

    def thread(self, name: str | None = None) -> Thread:
        """Make a thread that Python drives."""
        return self._linking.thread(name)

    @property
    def threads(self) -> Threads:
        """The threads of the guest, the main thread first."""
        return self._linking.threads

    def tls(self, thread: Thread | ThreadInfo | int | None = None) -> Tls:
        """Return the thread-local storage of a thread (a thread id will do; None: the main thread)."""
        return self._linking.tls(thread)

    # -- what happened, and why ------------------------------------------------------------------------------

    def events(self, kind: str | None = None) -> Events:
        """Return what has happened so far, all or those of a category (`dtors`) or kind (`dtor_run`).

        Raises Error for what is not traced, and where more happened than is kept (262,144).
        """
        return self._answers.events(kind)

    def why_loaded(self, library: Library | str) -> Reasons:
        """Return why an object is loaded, as `emu why` tells it: the reasons with who,
        where and since when, and what would let it go.

        Who and when come from the trace (`dl` and `dtors`, `bindings` for references): what is not known for
        want of it is said.
        """
        return self._answers.why_loaded(library)

    @property
    def destroyed(self) -> Destroyed:
        """The thread_local objects whose destructors have run, or begun to run, in their order.

        Raises Error if `dtors` is not traced.
        """
        return self._answers.destroyed

    def findings(self) -> Findings:
        """Return what `emu check` finds, so far or, once the process is over, altogether.

        Raises Error without Process(check=True).
        """
        return self._answers.findings()

    def explain(self, symbol: str, *, from_object: str | None = None, version: str | None = None) -> Answer:
        """Return why a symbol binds where it does (see `emu explain`)."""
        return self._answers.explain(symbol, from_object=from_object, version=version)

    # -- snapshots -------------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """Note the whole state of the process: memory, registers of all threads, kernel and linker.

        See `Snapshot`.

        Raises StateError where none can be taken: in a handler or a Python function that the guest is
        calling, and while a thread is inside the linker (dlopen) or in a system call that is half done; the
        error names it.
        """
        return Snapshot(self)

    def restore(self, snapshot: Snapshot) -> None:
        """Put the process back into the state of a snapshot of its own, even after its end or a crash.

        Raises ArgumentError, StateError.
        """
        if snapshot.process is not self:
            raise ArgumentError(f"{snapshot!r} is not of this process")
        snapshot.restore()

    def renew(self, snapshot: Snapshot, schedule: Policy) -> None:
        """Go back to a snapshot for another use: without handlers, breakpoints and listeners, and under
        another schedule.

        Raises as `restore` does.
        """
        self.restore(snapshot)
        self._hooks.forget()
        while self._listeners:
            self._bus.unsubscribe(self._listeners.pop())
        self.watch = None
        self.inner.kernel.scheduler.decide_by(schedule)

    @property
    def aside(self) -> list[object]:
        """What a snapshot leaves alone, being Python's."""
        return [self, self.calls, self._hooks, self._linking, self._answers]

    # -- hooks -----------------------------------------------------------------------------------------------

    def interpose(
        self, where: str | Function | int, handler: Callable[..., Any], prototype: Prototype | None = None
    ) -> Interposition:
        """Let `handler` answer every call of a guest function, from whoever it comes;
        other code runs as fast as before.

        `prototype` has the types; without one the handler gets as many unsigned 64-bit words as it takes, and
        returns one. The result's `original` is the function itself, for the handler to call. A handler that
        is a generator yields calls of the guest (see `HostedCall`) and returns the result.

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
        """Call `handler` whenever the instruction at `where` is about to run;
        without one it is a place for `step` to go to.

        `where` is a function (by its name, also where only the static symbol table has it), "FILE:LINE", or
        an address. What is nowhere yet is pending: it is looked for in each object that is loaded later.

        It may read and change registers and memory. One that is a generator may also have the guest called,
        see `HostedCall`.

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

    @property
    def hooked(self) -> bool:
        """Whether functions are interposed, there are breakpoints, or somebody listens to events."""
        return self._hooks.active or bool(self._listeners)

    def resume(self) -> None:
        """Go on with a call that was broken off, by Ctrl-C or by the limit of time, to its end;
        its result is lost.
        """
        self.engine.resume()

    def __repr__(self) -> str:
        state = (
            f"ended with status {self.status}" if self.ended else "running" if self.place.running else "ready"
        )
        return f"<emu.Process {self.inner.config.program}, {state}>"
