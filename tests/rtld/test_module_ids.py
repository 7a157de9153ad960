"""Which TLS module ids objects get where ids below the last one are free."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from emu.rtld.rules import Rules
from emu.rtld.tls import Tls


@pytest.mark.parametrize(("reused", "ids"), [(False, [1, 1]), (True, [1, 3])])
def test_two_of_one_dlopen_find_the_same_id_free_up_to_2_34(reused: bool, ids: list[int]) -> None:
    """They are entered under it only later; since 2.35 the first takes it (bug 27135)."""
    rtld: Any = SimpleNamespace(
        env={}, rules=Rules(closed_ids_reused=reused), bus=SimpleNamespace(ldso=False)
    )
    tls = Tls(rtld)
    maps: list[Any] = [SimpleNamespace(tls_modid=0) for _ in range(4)]
    tls.laid_out = True
    for map_ in maps[:2]:
        tls.assign_module_id(map_)
        tls.add_module(map_)
    tls.remove_module(maps[0])
    tls.gaps = True
    for map_ in maps[2:]:
        tls.assign_module_id(map_)
    assert [map_.tls_modid for map_ in maps[2:]] == ids
