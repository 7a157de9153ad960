"""A byte for each page: long ranges noted as a whole say the same as bytes written one by one."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from emu.machine.arena import EDGES, HIGH_END, SIZE, WINDOWS, physical, pieces
from emu.machine.page_bytes import CHUNK, LONG, PageBytes, table

_UNIT = CHUNK // 2
_UNITS = 160


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["fill", "settle", "save"]),
            st.integers(0, 79),
            st.integers(1, 80),
            st.integers(0, 3),
        ),
        max_size=20,
    )
)
@settings(deadline=None, derandomize=True, max_examples=60)
def test_ranges_and_bytes_agree(steps: list[tuple[str, int, int, int]]) -> None:
    assert LONG < 80 * _UNIT
    data = table(_UNITS * _UNIT)
    pages, model = PageBytes(data), [0] * _UNITS
    for what, first, count, value in steps:
        last = first + count
        if what == "fill":
            pages.fill(first * _UNIT, last * _UNIT, value)
            model[first:last] = [value] * count
        elif what == "settle":
            pages.settle(first * _UNIT, last * _UNIT)
            assert [data[unit * _UNIT] for unit in range(first, last)] == model[first:last]
        else:
            saved = pages.save(first * _UNIT, last * _UNIT)
            pages.fill(first * _UNIT, last * _UNIT, 9)
            pages.load(saved)
    for start, end in pages.written(0, _UNITS * _UNIT):
        for page in range(start, end, _UNIT):
            assert data[page] == model[page // _UNIT]
    pages.settle(0, _UNITS * _UNIT)
    assert not pages
    assert [data[unit * _UNIT] for unit in range(_UNITS)] == model
    assert all(data[unit * _UNIT] == data[unit * _UNIT + _UNIT - 1] for unit in range(_UNITS))


def test_windows_do_not_overlap_in_the_arena_or_in_the_guest() -> None:
    places = sorted((window.at, window.end - window.start) for window in WINDOWS)
    assert places[0][0] == 0 and sum(places[-1]) == SIZE
    assert all(at + size == following for (at, size), (following, _) in zip(places, places[1:], strict=False))
    starts = sorted(window[:2] for window in WINDOWS)
    assert all(end <= following for (_, end), (following, _) in zip(starts, starts[1:], strict=False))
    for window in WINDOWS:
        last = min(window.end, HIGH_END) - 1
        assert physical(window.start) == window.at
        assert physical(last) == window.at + last - window.start
    for edge in EDGES - {0, 1 << 47}:
        assert pieces(edge - 4096, edge + 4096) == [(edge - 4096, edge), (edge, edge + 4096)]
        assert pieces(edge, edge + 4096) == [(edge, edge + 4096)]
