"""What tools/test runs: a sample of every file, and more of what is random."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

from tests import tiers
from tests.test_fixtures import registers_thread_dtors
from tools import fixtures


class _Item:
    """As much of a test as the sample looks at."""

    def __init__(self, path: str, number: int) -> None:
        self.path, self.number = Path(path), number

    def get_closest_marker(self, name: str) -> str | None:
        return name if self.number == 1 else None


def test_the_sample_has_some_of_every_file_in_order() -> None:
    items = [
        _Item(path, number) for path, count in (("a", 1), ("b", 3), ("c", 500)) for number in range(count)
    ]
    chosen = tiers.sample(items)  # type: ignore[arg-type]
    assert Counter(str(item.path) for item in chosen) == {
        "a": 1,
        "b": 1,
        "c": -(-499 // tiers.STRIDE),
    }  # not those that need more
    assert sorted(items, key=lambda item: (item.path, item.number)) == items
    assert [item.number for item in chosen if str(item.path) == "c"][:3] == [20, 58, 96]  # type: ignore[attr-defined]


def test_a_run_that_needs_more_is_in_no_sample_by_whatever_name() -> None:
    needy = next(fixture for fixture in fixtures.load_all() if fixture.needs)
    plain, *by_name = (_Item("a", number) for number in (0, 2, 3))
    by_name[0].callspec = SimpleNamespace(params={"run": needy.runs[0]})  # type: ignore[attr-defined]
    by_name[1].callspec = SimpleNamespace(params={"run_id": f"{needy.name}:now"})  # type: ignore[attr-defined]
    chosen: list[object] = [*tiers.sample([plain, *by_name])]  # type: ignore[list-item]
    assert chosen == [plain]


def test_the_sample_is_what_is_collected_and_what_it_needs_is_known() -> None:
    words = ["tests/test_fixtures.py", "tests/cli/test_shell.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--tier", "sample", "--collect-only", "-q", *words],
        cwd=fixtures.ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    each = {fixture.name: len(fixture.runs) for fixture in fixtures.load_all() if not fixture.needs}
    everything = 3 * sum(each.values()) + sum(each[name] for name in each if registers_thread_dtors(name))
    chosen = [line for line in done.stdout.splitlines() if line.startswith("tests/test_fixtures.py::")]
    assert everything / tiers.STRIDE - 5 <= len(chosen) <= everything / tiers.STRIDE + 5
    families = {line.partition("[")[2].partition("-")[0] for line in chosen if "[" in line}
    assert {"dl", "tls", "thread", "check", "why", "audit"} <= families


def test_the_fixtures_that_a_file_names_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        'folder = fixtures.build("tls-dsos")  # no-such-fixture, tls-dsos-too\n'
    )
    (tmp_path / "conftest.py").write_text('PROGRAM = "unload-rules/main"\n')
    asked = tiers.fixtures_of([_Item(str(tmp_path / "test_it.py"), 0)])  # type: ignore[list-item]
    assert asked == {"tls-dsos", "unload-rules"}


def test_what_only_tests_that_are_left_out_name_is_not_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "test_it.py"
    file.write_text("""
TABLE = {"tls-dsos:ca": 1, "unload-rules:x": 2, "random:kept": 3}
FOLDER = CACHE / "why-threads"
@pytest.mark.parametrize("run_id", [*TABLE, "dl-many:all"])
def test_table(run_id):
    use("ifunc")
def test_other():
    use("tunables")
""")

    def test_table() -> None: ...
    def test_other() -> None: ...

    made = [_Item(str(file), number) for number in range(4)]
    for item, run in zip(made, ("tls-dsos:ca", "unload-rules:x", "dl-many:all", ""), strict=True):
        item.function = test_table if run else test_other  # type: ignore[attr-defined]
        item.callspec = SimpleNamespace(params={"run_id": run} if run else {})  # type: ignore[attr-defined]
    asked = tiers.fixtures_of(made[:1], left=made[1:])  # type: ignore[arg-type]
    assert asked == {"tls-dsos", "random", "why-threads", "ifunc"}
    assert tiers.fixtures_of(made[3:], left=made[:3]) == {"random", "why-threads", "tunables"}  # type: ignore[arg-type]
