"""`emu.explore`, and tests that are searched: `@pytest.mark.emu(explore=N)`."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import emu

pytest_plugins = ["pytester"]
_PROGRAMS = Path(__file__).parent / "programs"


@pytest.fixture(scope="module")
def turns(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("functions")
    for name, options in (("turns", ()), ("exit_code", ()), ("exit_code", ("-DFIXED",))):
        program = folder / f"{name}{''.join(options)}"
        command = ["gcc", "-g", "-O1", "-pthread", *options, "-o", str(program), str(_PROGRAMS / f"{name}.c")]
        subprocess.run(command, check=True)
    return folder


def _ends_well(process: emu.Process) -> None:
    assert process.run() == 0


def test_a_function_is_called_until_it_raises(turns: Path) -> None:
    with pytest.raises(AssertionError) as raised:
        emu.explore(_ends_well, turns / "exit_code")
    (note,) = raised.value.__notes__
    assert "is preempted in release (" in note
    assert "before lock" in note
    assert emu.explore(_ends_well, turns / "exit_code-DFIXED").exhausted


def test_a_bound_and_what_cannot_be(turns: Path) -> None:
    with open("/dev/null", "w") as nowhere:
        explored = emu.explore(_ends_well, turns / "turns", runs=3, stdout=nowhere.fileno())
    assert tuple(explored) == (3, False)
    with pytest.raises(emu.ArgumentError, match="choose from dpor"):
        emu.explore(_ends_well, turns / "turns", strategy="depth-first")
    with pytest.raises(emu.ArgumentError, match="no end of its own"):
        emu.explore(_ends_well, turns / "turns", strategy="random")


def test_a_marked_test_is_searched(pytester: pytest.Pytester, turns: Path) -> None:
    pytester.makepyfile(
        f"""
        import pytest

        @pytest.mark.emu(explore=200)
        def test_fails(emu_program):
            assert emu_program({str(turns / "exit_code")!r}).run() == 0

        @pytest.mark.emu(explore=200)
        def test_passes(emu_program):
            assert emu_program({str(turns / "exit_code-DFIXED")!r}).run() == 0

        @pytest.mark.emu(explore=5)
        def test_two(emu_program):
            for _ in range(2):
                emu_program({str(turns / "exit_code-DFIXED")!r}).run()
        """
    )
    result = pytester.runpytest_subprocess("-q", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(["*emu: fails in run * of the search: thread * is preempted in release (*"])
    result.stdout.fnmatch_lines(["*explore is for tests with one guest process*"])
