"""What happened in a process, and why: the part of `Process` that answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from emu.api.dtors import Destroyed, Destructions
from emu.api.errors import Error
from emu.api.events import Events, kinds_of
from emu.api.library import Library
from emu.api.linking import Linking
from emu.api.reasons import Reasons, reasons
from emu.core.events import CATEGORY_OF

if TYPE_CHECKING:
    from emu.analysis.answer import Answer
    from emu.analysis.history import History
    from emu.api.checking import Checked, Findings
    from emu.api.place import Place


class Answers(Linking):
    """Events and explanations of a process."""

    place: Place
    _traced: Sequence[str]
    _history: History
    _destroyed: Destructions | None
    _checked: Checked | None

    def events(self, kind: str | None = None) -> Events:
        """Return what has happened so far, all or those of a category (`dtors`) or kind (`dtor_run`). Raises Error for what is not traced."""
        if kind is None:
            return Events(list(self.place.records))
        self._must_trace(kinds_of(kind), kind)
        return Events(self.place.records).of(kind)

    def _must_trace(self, types: frozenset[type[Any]], kind: str) -> None:
        missing = {CATEGORY_OF[type_] for type_ in types}.difference(self._traced)
        if missing:
            raise Error(
                f"events {kind!r} are not traced: say Process(trace=[{', '.join(map(repr, sorted(missing)))}])"
            )

    def why_loaded(self, library: Library | str) -> Reasons:
        """Return why an object is loaded, as `emu why` tells it: the reasons with who, where and since when, and what would let it go.

        Who and when come from the trace (`dl` and `dtors`, `bindings` for references): what is not known for want of it is said.
        """
        if isinstance(library, Library):
            return reasons(self.engine, self._history, self._traced, library.path, library.opened)
        return reasons(self.engine, self._history, self._traced, library)

    @property
    def destroyed(self) -> Destroyed:
        """The thread_local objects whose destructors have run, or begun to run, in their order. Raises Error if `dtors` is not traced."""
        if self._destroyed is None:
            self._must_trace(kinds_of("dtors"), "dtors")
        assert self._destroyed is not None
        return Destroyed(self._destroyed.objects)

    def findings(self) -> Findings:
        """Return what `emu check` finds, so far or, once the process is over, altogether. Raises Error without Process(check=True)."""
        if self._checked is None:
            raise Error("the process is not checked: say Process(check=True)")
        return self._checked.findings(self.status, self.report)

    def explain(self, symbol: str, *, from_object: str | None = None, version: str | None = None) -> Answer:
        """Return why a symbol binds where it does (see `emu explain`)."""
        from emu.analysis.explain import explain
        from emu.core.events import AuditorChoseAddress, Binding

        kinds = (AuditorChoseAddress, Binding)
        bindings = [r.event for r in self.place.records if isinstance(r.event, kinds)]
        return explain(
            self.inner, self.rtld, symbol, from_object=from_object, version=version, bindings=bindings
        )
