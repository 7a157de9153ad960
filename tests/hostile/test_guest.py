"""What a program may ask, however wrong, ends as natively;
where it is killed the line says what it gave to whom.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.hostile.conftest import Ended

    Run = Callable[..., Ended]


def _alike(there: Ended, here: Ended) -> None:
    assert (here.status, here.out.decode()) == (there.status, there.out.decode()), here.err


def test_system_calls_with_large_numbers_answer_as_linux(native: Run, emu: Run) -> None:
    _alike(native("calls"), emu("run", "./calls"))


def test_epoll_instances_nested_in_many_ways(native: Run, emu: Run) -> None:
    _alike(native("ceilings", "nested"), emu("run", "./ceilings", "nested"))


def test_a_handle_of_a_closed_library(native: Run, emu: Run) -> None:
    """What free left of the link map decides: natively a dlsym finds nothing (2.36), or crashes (2.41)."""
    there, here = native("handles", "closed"), emu("run", "./handles", "closed")
    if there.status == 139:
        assert here.status in (0, 139)
        assert "undefined symbol: f" in here.out.decode() or "SIGSEGV" in here.err
    else:
        _alike(there, here)


@pytest.mark.parametrize(
    ("question", "line"),
    [
        ("dlsym-nothing", "is no link map (_dl_lookup_symbol_x)"),
        ("dlsym-unmapped", "0x1234 is no link map (_dl_lookup_symbol_x)"),
        ("dlclose-unmapped", "which is not mapped in _dl_close"),
        ("dlopen-unmapped", "read of 0x8 (a null pointer) in _dl_open"),
        ("dlclose-no-stack", "SIGSEGV"),
    ],
)
def test_a_handle_that_is_none_is_named_in_the_signal(
    question: str, line: str, native: Run, emu: Run
) -> None:
    assert native("handles", question).status == 139
    here = emu("run", "./handles", question)
    assert here.status == 139
    assert line in here.err.splitlines()[0]


def test_a_list_of_stacks_that_goes_in_a_circle(emu: Run) -> None:  # natively that never ends
    here = emu("run", "--timeout", "30", "./circle")
    assert here.status == 139
    assert "goes in a circle" in here.err


def test_private_functions_with_wild_pointers(native: Run, emu: Run) -> None:
    _alike(native("hosted"), emu("run", "./hosted"))
