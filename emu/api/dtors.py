"""The thread_local objects that were destroyed, by the names that people have for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.analysis.reasons import type_of
from emu.api.views import Table
from emu.core.record import NamedTuple
from emu.core.tls_events import DtorRun

if TYPE_CHECKING:
    from emu.core.events import Record
    from emu.process import Process
    from emu.rtld.link_map import LinkMap


class DestroyedObject(NamedTuple):
    """An object whose destructor has run: its `type` and the `variable` that it was (demangled; empty if
    unknown), the DSO that owns it.

    `function` is the destructor, `source` its line, `address` the object's, `thread` a thread id. `sequence`
    and `time` are the event's.
    """

    type: str
    variable: str
    owner: str
    thread: int
    thread_name: str
    function: str
    source: str
    address: int
    sequence: int
    time: int

    def __str__(self) -> str:
        variable = f" ({self.variable})" if self.variable else ""
        place = f" [{self.source}]" if self.source else ""
        return f"{self.type or self.function}{variable} of {self.owner} in thread {self.thread} ({self.thread_name}){place}"


class Destroyed(Table[DestroyedObject]):
    """Destroyed objects, in the order in which their destructors began."""

    head = ("type", "variable", "object", "thread", "source")

    def row(self, item: DestroyedObject) -> tuple[str, ...]:
        """Return the cells of an object."""
        return (
            item.type or item.function,
            item.variable,
            item.owner,
            f"{item.thread} {item.thread_name}",
            item.source,
        )


class Destructions:
    """Watches a process that has not begun to load. `objects` are those destroyed so far."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.objects: list[DestroyedObject] = []
        process.bus.subscribe(self._take, ("dtors",))

    def _take(self, record: Record) -> None:
        event = record.event
        if isinstance(event, DtorRun):
            task = self._process.kernel.tasks.get(record.task)
            self.objects.append(
                DestroyedObject(
                    type_of(event.function),
                    self._variable(event.object),
                    event.owner,
                    record.task,
                    task.name if task is not None else "",
                    event.function,
                    event.source,
                    event.object,
                    record.sequence,
                    record.time,
                )  # fmt: skip
            )

    def _variable(self, address: int) -> str:
        """Return the thread_local variable that lies at an address in the running thread;
        empty for what is none, or has no symbol.
        """
        rtld = self._process.rtld
        assert rtld is not None
        thread = self._process.thread_pointer()
        for namespace in rtld.namespaces:
            for map_ in namespace.maps:
                if (block := self._block(thread, map_)) and block <= address < block + map_.tls_blocksize:
                    found = self._process.symbols.tls_variable(map_, address - block)
                    return found[0] if found is not None else ""
        return ""

    def _block(self, thread: int, map_: LinkMap) -> int:
        assert self._process.rtld is not None
        return self._process.rtld.tls.soft_block(thread, map_) if map_.tls_blocksize else 0
