"""Handlers that are generators: they yield what the guest is to be asked, and go on with the answer."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from emu.api.errors import ArgumentError

if TYPE_CHECKING:
    from emu.api.function import Function


class Call:
    """A call of `function` with `args`, yielded by a handler;
    the handler goes on with its result, or with the error that it raised.

    >>> import emu
    >>> with emu.Process() as p:
    ...     libc = p.dlopen("libc.so.6")
    ...     def twice(x):
    ...         first = yield emu.Call(inner.original, x)
    ...         return first * 2
    ...     with p.interpose("abs", twice) as inner:
    ...         libc.abs(-4)
    8
    """

    def __init__(self, function: Function, *args: Any) -> None:
        self.function, self.args = function, args

    def __repr__(self) -> str:
        return f"<emu.Call {self.function.name}{self.args}>"


def drive(handler: Generator[Any, Any, Any], asked: object) -> Any:
    """Make the call `asked`, that the handler has yielded, and all that follow; return the handler's result.

    Raises what the handler raises.
    """
    while True:
        try:
            try:
                if not isinstance(asked, Call):
                    raise ArgumentError(f"a handler yielded {asked!r}: yield emu.Call(function, ...)")
                answer = asked.function(*asked.args)
            except Exception as error:
                asked = handler.throw(error)
            else:
                asked = handler.send(answer)
        except StopIteration as stop:
            return stop.value


def run(outcome: object) -> Any:
    """Return a handler's result: `outcome` itself or, of a generator, what it comes to."""
    if not isinstance(outcome, Generator):
        return outcome
    try:
        asked = next(outcome)
    except StopIteration as stop:
        return stop.value
    return drive(outcome, asked)
