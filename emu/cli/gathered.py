"""Options that belong together, as one value: a type says more than ten parameters of a command."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable

    Command = TypeVar("Command", bound=Callable[..., Any])


def gathered(kind: Any, name: str) -> Callable[[Command], Command]:
    """Return a decorator, the one nearest to the function, that makes a `kind` (a NamedTuple) of the options
    that are named as its fields, and gives it to the function as `name`.
    """

    def decorate(function: Command) -> Command:
        @wraps(function)
        def with_one(*args: Any, **given: Any) -> Any:
            parts = {field: given.pop(field) for field in kind._fields}
            return function(*args, **given, **{name: kind(**parts)})

        return cast("Command", with_one)

    return decorate
