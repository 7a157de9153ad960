"""2.28 to 2.30 cannot be had here: what their structures lack is taken out of
the table of the libc at hand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import emu
from emu.glibc import layout
from tools import fixtures

if TYPE_CHECKING:
    from emu.glibc.layout import Layout

LACKING = {
    "link_map": ("l_nodelete_active", "l_nodelete_pending", "l_ld_readonly", "l_main_map", "l_text_end"),
    "rtld_global": ("_dl_load_tls_lock", "_dl_tls_static_optional"),
    "rtld_global_ro": ("_dl_tls_static_surplus", "_dl_dso_sort_algo", "_dl_minsigstacksize"),
    "link_namespaces": ("libc_map",),
}
"""Source: glibc's history of include/link.h and sysdeps/generic/ldsodefs.h:
all of these came with 2.31 or later.
"""


@pytest.mark.parametrize("name", ["unload-diamond", "unload-nodelete"])
def test_programs_run_without_the_members_that_came_later(
    name: str,
    built_fixtures: dict[str, fixtures.Fixture],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    make = layout.Layout.__init__

    def without(self: Layout, version: str, table: dict[str, Any]) -> None:
        for structure, members in LACKING.items():
            for member in members:
                table["structures"][structure]["members"].pop(member, None)
        make(self, version, table)

    run = built_fixtures[name].runs[0]
    expected = fixtures.run_native(run)
    monkeypatch.setattr(layout.Layout, "__init__", without)
    env = fixtures.BASE_ENV | run.env
    with emu.Process(run.argv[0], list(run.argv[1:]), env, cwd=str(fixtures.CACHE / name)) as process:
        assert process.run() == expected.exit
    assert capfd.readouterr().out.encode() == expected.stdout
