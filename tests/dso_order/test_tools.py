"""The tools around the graphs: building, the tables' form, making a graph smaller, the fuzzer's verdict."""

from __future__ import annotations

import tomllib
from pathlib import Path
from random import Random

import pytest

from tools import dso_fuzz
from tools.dso_graph import generate
from tools.dso_graph.build import BuildError, build
from tools.dso_graph.language import Graph, parse
from tools.dso_graph.run import GraphServer, Outcome, run_emu, run_native
from tools.dso_graph.shrink import shrink
from tools.dso_graph.table import TableError, load, record


def test_graphs_that_differ_in_scripts_share_a_folder() -> None:
    assert build(parse("a->b; {+a}")) == build(parse("a->b; {+b}; a{+b}"))
    assert build(parse("a->b; {+a}")) != build(parse("a->b; {+c}"))


def test_objects_have_what_the_description_says() -> None:
    import subprocess

    graph = parse("main->b,a; a->c,b,libc; a(nodelete,now,tls,soname=x,unique); c->a; b(missing)")
    folder = build(graph)
    assert sorted(path.name for path in folder.iterdir()) == ["a.so", "c.so", "main"]
    said = subprocess.run(
        ["readelf", "-dlsW", folder / "a.so"], capture_output=True, text=True, check=True
    ).stdout
    needed = [line.split("[")[1].rstrip("]") for line in said.splitlines() if "(NEEDED)" in line]
    assert needed == ["c.so", "b.so", "libc.so.6"]
    for wanted in ("soname: [x.so]", "NODELETE", "BIND_NOW", "TLS ", "UNIQUE "):
        assert wanted in said
    needed = [
        line.split("[")[1].rstrip("]")
        for line in subprocess.run(
            ["readelf", "-dW", folder / "c.so"], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        if "(NEEDED)" in line
    ]
    assert needed == ["x.so"], "a need is recorded by the SONAME, as a linker does"


def test_build_error_shows_what_the_tools_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import tools.dso_graph.build as builder

    cache = builder.CACHE
    builder.base()
    monkeypatch.setattr(builder, "assembly", lambda graph, name: "no such instruction\n")
    graph = parse("a->b; {+onlyhere}")
    with pytest.raises(BuildError, match="no such instruction"):
        build(graph)
    assert not [path for path in cache.glob("tmp*") if (path / "onlyhere.s").exists()]


def test_a_recorded_entry_is_read_back(tmp_path: Path) -> None:
    text = "a->b->c->a; {+b;-b}"
    table = tmp_path / "t.toml"
    table.write_text(record("one", "a cycle", text) + record("two", "no cycle", "a->b; {+a}"))
    one, two = load(table)
    assert (one.name, one.about, one.text) == ("one", "a cycle", text)
    assert one.outputs[1] != one.outputs[2]
    assert two.outputs[1] == two.outputs[2]
    assert "output1" in tomllib.loads(table.read_text())["graph"][0]


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ("name = 'x'\nabout = 'x'\noutput = 'x'", "x: missing or unknown keys"),
        ("name = 'x'\nabout = 'x'\ngraph = 'a->b'", "x: either output or output1 and output2"),
        ("name = 'x'\nabout = 'x'\ngraph = 'a->b'\noutput1 = 'x'", "x: either output or output1 and output2"),
        ("name = 'x'\nabout = 'x'\ngraph = 'a->b'\noutput = 'x'\nsort = 1", "x: missing or unknown keys"),
    ],
)
def test_malformed_entry_is_named(entry: str, complaint: str, tmp_path: Path) -> None:
    table = tmp_path / "t.toml"
    table.write_text("[[graph]]\n" + entry)
    with pytest.raises(TableError, match="t.toml") as caught:
        load(table)
    assert complaint in str(caught.value)


def test_random_graphs_are_defined_and_repeatable() -> None:
    def some(seed: int) -> list[str]:
        rng = Random(seed)
        return [str(generate.random_scripts(rng, generate.random_structure(rng))) for _ in range(20)]

    assert some(1) == some(1)
    assert some(1) != some(2)
    for text in some(3):
        openable = [
            op.target
            for hook in parse(text).hooks
            if hook.mark == "~"
            for op in hook.script
            if op.mark == "+"
        ]
        assert set(openable) <= set(generate.LONERS)


def test_an_operation_that_ends_the_program_is_taken_out() -> None:
    graph = parse("a=>b; {+a;%a;-a;+a}")
    folder = build(graph)
    assert run_native(folder, graph, 2).exit == 127
    kept: set[str] = set()
    removed: set[str] = set()
    for seed in range(40):
        case = generate.defined_case(Random(seed), folder, graph, 2)
        assert case is not None
        (kept if case.native.exit else removed).add(str(case.graph))
    assert kept == {"a=>b; {+a;%a;-a;+a}"}
    assert removed == {"a=>b; {+a;-a;+a}"}


def test_shrinking_keeps_only_what_shows_it() -> None:
    graph = parse(
        "a->b,c,d; b=>c; main->a; a(tls,common); c(nodelete,unique); a{+b;+c}; ~b{-c}; {+b[now,global];+c;-b;%c;-c;@a}"
    )

    def shows(candidate: Graph) -> bool:
        text = str(candidate)
        return (
            "a->c" in text.replace("a->b,", "a->")
            and "nodelete" in text
            and "-b" in text
            and "global" in text
        )

    assert shows(graph)
    assert str(shrink(graph, shows)) == "a->c; c(nodelete); {+b[global];-b}"


def test_server_runs_as_the_command_does() -> None:
    with GraphServer() as server:
        for text in ("main->a->b=>a; {%b}", "main->a=>b; {%a}", "main->a->b; b(missing)"):
            graph = parse(text)
            folder = build(graph)
            assert (
                server.run_graph(folder, graph, 1)
                == run_emu(folder, graph, 1)
                == run_native(folder, graph, 1)
            )


class _Wrong(GraphServer):
    """An emulator that is wrong about every graph with a dlclose of c."""

    def run_graph(self, folder: Path, graph: Graph, sort: int, *options: str) -> Outcome:
        """Run natively, and lie."""
        native = run_native(folder, graph, sort)
        return native._replace(output="nonsense") if "-c" in str(graph) else native


def test_fuzzer_prints_the_smallest_graph_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = next(
        findings.disagreements[0]
        for seed in range(50)
        if (findings := dso_fuzz.compare(_Wrong(), Random(seed))).disagreements
    )
    assert found.startswith("# emu with dynamic_sort=")
    assert "# nonsense\n[[graph]]\n" in found
    (entry,) = tomllib.loads(found)["graph"]
    assert entry["graph"] == "{-c}"
    assert entry["output"].startswith("start: main> | main\n-c: none | main\n")

    monkeypatch.setattr(dso_fuzz, "_one", _one)
    assert dso_fuzz.main(["--count", "8", "--jobs", "1"]) == 1
    said = capsys.readouterr()
    assert said.out == "an entry\n"
    assert said.err == "8 runs, 1 differ\n"


def _one(work: tuple[int, int]) -> dso_fuzz.Findings:
    return dso_fuzz.Findings(4, ["an entry"] if work[1] else [])


def test_fuzzer_succeeds_without_disagreements(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dso_fuzz, "_one", _agrees)
    assert dso_fuzz.main(["--count", "8", "--jobs", "1"]) == 0
    assert capsys.readouterr().err == "8 runs, 0 differ\n"


def _agrees(work: tuple[int, int]) -> dso_fuzz.Findings:
    return dso_fuzz.Findings(4, [])
