"""Which layout table is taken: emu's own, one made on the spot, one kept before;
and what is said where there is none.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from emu.core.errors import UnsupportedError
from emu.core.events import EventBus
from emu.elf.debug_file import build_id_of
from emu.glibc import layout
from emu.process import Process, RunConfig
from tests.support import emu

if TYPE_CHECKING:
    from collections.abc import Callable

    from tools.fixtures import Fixture

LD_SO, LIBC = Path("/lib64/ld-linux-x86-64.so.2"), Path("/lib/x86_64-linux-gnu/libc.so.6")
TABLES = Path(layout.__file__).parent / "layouts"


def patched(source: Path, target: Path) -> None:
    """Copy a file with another build ID: one that no debug file on this machine has."""
    digits = bytes.fromhex(build_id_of(str(source.resolve())))
    content = source.read_bytes()
    assert digits in content
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content.replace(digits, digits[::-1]))
    target.chmod(0o755)


def debug_file(of: Path) -> Path:
    digits = build_id_of(str(of.resolve()))
    return Path(f"/usr/lib/debug/.build-id/{digits[:2]}/{digits[2:]}.debug")


@pytest.fixture
def strange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, built_fixtures: dict[str, Fixture]) -> Path:
    """A small system whose libc nobody knows: no table, no debug files; the user's cache is empty."""
    root = tmp_path / "root"
    for path in (LD_SO, LIBC):
        patched(path, root / path.relative_to("/"))
    shutil.copy(built_fixtures["hello-printf"].folder / "main", root / "main")
    empty = tmp_path / "no-tables"
    empty.mkdir()
    shutil.copy(TABLES / "2.31-4000-544.json", empty)
    monkeypatch.setattr(layout, "_FOLDER", str(empty))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("DEBUGINFOD_URLS", raising=False)
    return root


def load(root: Path) -> Process:
    process = Process(RunConfig(program="/main", sysroot=str(root)), EventBus())
    process.load()
    return process


def refusal(root: Path) -> UnsupportedError | None:
    process = load(root)
    assert process.contract is not None
    return process.contract.refusal


@pytest.mark.parametrize(
    ("about", "package"),
    [
        ("ID=debian\n", "libc6-dbg (apt-get install libc6-dbg)"),
        ('ID=linuxmint\nID_LIKE="ubuntu debian"\n', "libc6-dbg"),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\n', "glibc-debuginfo (dnf debuginfo-install glibc)"),
        ("ID=opensuse-leap\nID_LIKE='suse opensuse'\n", "zypper install glibc-debuginfo"),
        ("ID=arch\n", "glibc-debug (of the debug repositories)"),
        ("ID=unheard-of\n", "install glibc's debug files, or"),
    ],
)
def test_without_table_and_debug_files_the_package_is_named(strange: Path, about: str, package: str) -> None:
    (strange / "etc").mkdir()
    (strange / "etc/os-release").write_text(about)
    error = refusal(strange)
    assert error is not None
    assert package in str(error)
    assert "\n" not in str(error)


def test_nothing_runs_but_the_files_can_be_looked_at(strange: Path) -> None:
    process = load(strange)
    assert process.rtld is not None
    assert [m.display_name for m in process.rtld.namespaces[0].maps][-1] == str(LD_SO)
    with pytest.raises(UnsupportedError, match="layout table"):
        process.run()


def by_id(root: Path, _tmp_path: Path) -> Callable[[Path], Path]:
    def place(path: Path) -> Path:
        digits = build_id_of(str(path))
        return root / f"usr/lib/debug/.build-id/{digits[:2]}/{digits[2:]}.debug"

    return place


def by_path(root: Path, _tmp_path: Path) -> Callable[[Path], Path]:
    return lambda path: root / "usr/lib/debug" / path.relative_to(root)


def in_debuginfods_cache(_root: Path, tmp_path: Path) -> Callable[[Path], Path]:
    return lambda path: tmp_path / "cache/debuginfod_client" / build_id_of(str(path)) / "debuginfo"


@pytest.mark.parametrize("where", [by_id, by_path, in_debuginfods_cache])
def test_a_table_is_made_on_the_spot_and_kept(
    strange: Path, tmp_path: Path, where: Callable[[Path, Path], Callable[[Path], Path]]
) -> None:
    place = where(strange, tmp_path)
    for path in (LD_SO, LIBC):
        patched(debug_file(path), place(strange / path.relative_to("/")))
    assert refusal(strange) is None
    kept = tmp_path / "cache/emu/layouts" / f"{build_id_of(str(strange / 'lib64/ld-linux-x86-64.so.2'))}.json"
    sizes = "-".join(
        str(json.loads(kept.read_text())["structures"][name]["size"])
        for name in ("rtld_global", "rtld_global_ro")
    )
    known = list(TABLES.glob(f"*-{sizes}.json"))
    assert [path.read_text() for path in known] in ([], [kept.read_text()])
    shutil.rmtree(strange / "usr", ignore_errors=True)
    shutil.rmtree(tmp_path / "cache/debuginfod_client", ignore_errors=True)
    assert refusal(strange) is None  # from the cache


def test_a_debug_file_of_another_build_is_none(strange: Path) -> None:
    place = by_id(strange, strange)
    for path in (LD_SO, LIBC):
        target = place(strange / path.relative_to("/"))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(debug_file(path), target)
    assert refusal(strange) is not None


@pytest.mark.parametrize(
    ("structure", "member"),
    [("pthread", "tid"), ("link_map", "l_tls_modid"), ("link_map", "l_tls_dtor_count")],
)
def test_a_table_that_does_not_fit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, structure: str, member: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kept = tmp_path / "emu/layouts" / f"{build_id_of(str(LD_SO.resolve()))}.json"
    made = emu("layout", cwd=tmp_path)
    assert (made.exit, made.stdout.decode()) == (0, f"{kept}\n")
    assert emu("run", "/bin/true", cwd=tmp_path)[:2] == (0, b"")
    table = json.loads(kept.read_text())
    table["structures"][structure]["members"][member][0] += 8
    kept.write_text(json.dumps(table))
    done = emu("run", "/bin/echo", "never", cwd=tmp_path)
    assert (done.exit, done.stdout) == (125, b"")
    assert f"{structure}.{member} is" in done.stderr.decode()


def test_a_kept_table_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kept = tmp_path / "emu/layouts" / f"{build_id_of(str(LD_SO.resolve()))}.json"
    kept.parent.mkdir(parents=True)
    kept.write_text("{")
    done = emu("run", "/bin/true", cwd=tmp_path)
    assert done.exit == 125
    assert str(kept) in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1


def test_layout_command(tmp_path: Path) -> None:
    assert emu("layout", "--list", cwd=tmp_path).stdout.decode().split() == layout.releases()
    made = emu("layout", "-o", "table.json", cwd=tmp_path)
    assert (made.exit, made.stdout) == (0, b"table.json\n")
    assert json.loads((tmp_path / "table.json").read_text())["structures"]["link_map"]["size"] > 1000
    for words, said in (
        (["/no/such/ld.so"], "/no/such/ld.so: No such file or directory"),
        (["/bin/true"], "/bin/true"),
        (["-o", "/no/such/folder/t"], "/no/such/folder/t: No such file or directory"),
    ):
        refused = emu("layout", *words, cwd=tmp_path)
        assert refused.exit in (125, 126)
        assert said in refused.stderr.decode()
        assert refused.stderr.count(b"\n") == 1
