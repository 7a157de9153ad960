"""What happened in a process, and why: the part of `Process` that answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from emu.analysis.history import History
from emu.api.checking import Checked
from emu.api.dtors import Destroyed, Destructions
from emu.api.errors import Error, told_of
from emu.api.events import Events, kinds_of
from emu.api.library import Library
from emu.api.reasons import Reasons, reasons
from emu.core.events import CATEGORY_OF

if TYPE_CHECKING:
    from emu.analysis.answer import Answer
    from emu.api.checking import Findings
    from emu.api.process import Process
    from emu.core.events import EventBus


class Answers:
    """Events and explanations of a process.

    `observers` have seen it from its start: what a snapshot takes along.
    """

    def __init__(
        self, process: Process, bus: EventBus, traced: Sequence[str], check: bool | Sequence[str]
    ) -> None:
        self._process, self._traced = process, traced
        inner = process.inner
        self._history = History(inner, frozenset(traced))
        self._destroyed = Destructions(inner) if "dtors" in traced else None
        self._checked = Checked(inner, check) if check else None
        self.observers = self._history, self._destroyed, self._checked

    def loaded(self) -> None:
        """The process is loaded, and about to be linked."""
        if self._checked is not None:
            self._checked.checker.first.loaded()

    def events(self, kind: str | None = None) -> Events:
        """See `Process.events`."""
        if kind is None:
            return Events(list(self._process.place.whole()))
        self.must_trace(kinds_of(kind), kind)
        return Events(self._process.place.whole()).of(kind)

    def must_trace(self, types: frozenset[type[Any]], kind: str) -> None:
        """Raise Error unless events of all these types are traced; `kind` is what the user called them."""
        missing = {CATEGORY_OF[type_] for type_ in types}.difference(self._traced)
        if missing:
            raise Error(
                f"events {kind!r} are not traced: say Process(trace=[{', '.join(map(repr, sorted(missing)))}])"
            )

    def why_loaded(self, library: Library | str) -> Reasons:
        """See `Process.why_loaded`."""
        name, opened = (library.path, library.opened) if isinstance(library, Library) else (library, None)
        with told_of(f"why {name} is loaded"):
            return reasons(self._process.engine, self._history, self._traced, name, opened)

    @property
    def destroyed(self) -> Destroyed:
        """See `Process.destroyed`."""
        if self._destroyed is None:
            self.must_trace(kinds_of("dtors"), "dtors")
        assert self._destroyed is not None
        return Destroyed(self._destroyed.objects)

    def findings(self) -> Findings:
        """See `Process.findings`."""
        if self._checked is None:
            raise Error("the process is not checked: say Process(check=True)")
        return self._checked.findings(self._process.status, self._process.report)

    def explain(self, symbol: str, *, from_object: str | None = None, version: str | None = None) -> Answer:
        """See `Process.explain`."""
        from emu.analysis.explain import explain
        from emu.core.events import AuditorChoseAddress, Binding

        kinds = (AuditorChoseAddress, Binding)
        bindings = [r.event for r in self._process.place.whole() if isinstance(r.event, kinds)]
        with told_of(symbol):
            return explain(
                self._process.inner,
                self._process.rtld,
                symbol,
                from_object=from_object,
                version=version,
                bindings=bindings,
            )
