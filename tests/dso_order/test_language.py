"""The description language: what it says, what it refuses, and that a graph's text is the graph again."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.dso_graph.generate import random_scripts, random_structure
from tools.dso_graph.language import DescriptionError, Edge, Graph, Hook, Operation, parse


def _edges(text: str) -> list[str]:
    return [edge.source + edge.arrow + edge.target for edge in parse(text).edges]


@pytest.mark.parametrize(
    ("text", "edges"),
    [
        ("a->b", ["a->b"]),
        ("a -> b , c", ["a->b", "a->c"]),
        ("a,b->c", ["a->c", "b->c"]),
        ("a->b,c->d", ["a->b", "a->c", "b->d", "c->d"]),
        ("a->b=>c~>d?>e", ["a->b", "b=>c", "c~>d", "d?>e"]),
        ("main->a->a; a->libc", ["main->a", "a->a", "a->libc"]),
        ("a->b; a=>b", ["a->b", "a=>b"]),
        ("a->b;", ["a->b"]),
        ("", []),
    ],
)
def test_edges(text: str, edges: list[str]) -> None:
    assert _edges(text) == edges


def test_edges_of_one_kind_in_their_order() -> None:
    graph = parse("a->c; a=>b; b->a; a->b")
    assert graph.targets("a", "->") == ["c", "b"]
    assert graph.targets("a", "=>") == ["b"]
    assert graph.targets("c", "->") == []


def test_flags_add_up() -> None:
    assert parse("a,b(tls); a(nodelete,tls); main(soname=x1)").flags == {
        "a": ("tls", "nodelete"),
        "b": ("tls",),
        "main": ("soname=x1",),
    }


def test_script_and_hooks() -> None:
    graph = parse("a{+b}; ~a{-b}; @a{@c; &c}; %a{?d}; {+a[now,global]; %a; -a;}")
    assert graph.script == (Operation("+", "a", ("now", "global")), Operation("%", "a"), Operation("-", "a"))
    assert graph.hooks == (
        Hook("", "a", (Operation("+", "b"),)),
        Hook("~", "a", (Operation("-", "b"),)),
        Hook("@", "a", (Operation("@", "c"), Operation("&", "c"))),
        Hook("%", "a", (Operation("?", "d"),)),
    )


def test_objects_in_the_order_of_their_names() -> None:
    assert parse("main->b->a,libc; d(tls); c{+e}; {+f; +main; +a}").objects() == [
        "b",
        "a",
        "d",
        "c",
        "e",
        "f",
    ]


def test_structure_has_no_scripts() -> None:
    assert parse("a->b; b(tls); a{+c}; {+a}").structure() == Graph((Edge("a", "->", "b"),), {"b": ("tls",)})


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a", "at the end: expected an arrow, flags or a script"),
        ("a->", "at the end: expected a name"),
        ("a->B", "column 4: cannot read 'B'"),
        ("a-b", "column 2: expected an arrow, flags or a script, not '-'"),
        ("a->b c", "column 6: expected ;, not 'c'"),
        ("a->b;;", "column 6: expected a name"),
        ("a->b; a->b", "expected a->b once only"),
        ("libc->a", "an object other than libc"),
        ("a=>libc", "libc at the end of -> only"),
        ("{+libc}", "an object other than libc"),
        ("abcdefghijklm->a", "column 1: expected a name of at most 12"),
        ("a(fast)", "unknown flag 'fast'; known: common, global"),
        ("a(tls=b)", "unknown flag 'tls='"),
        ("a(soname)", "unknown flag 'soname'"),
        ("main(missing)", "a program that exists"),
        ("a(tls", "at the end: expected , or )"),
        ("{+a[fast]}", "unknown mode 'fast'; known: lazy, now"),
        ("{-a[now]}", "column 4: expected ;"),
        ("{a}", "column 2: expected + or - or"),
        ("{+a", "at the end: expected ;"),
        ("{+a}; {+b}", "one script only"),
        ("a{+b}; a{+c}", "one constructor script of a only"),
        ("~a{+b}; ~a{+c}", "one destructor script of a only"),
        ("~a->b", "expected a script"),
        ("a,b{+c}", "expected an arrow, flags or a script"),
    ],
)
def test_what_is_wrong_is_named(text: str, complaint: str) -> None:
    with pytest.raises(DescriptionError) as caught:
        parse(text)
    assert complaint in str(caught.value)


@given(st.randoms(use_true_random=False))
def test_text_of_a_graph_is_the_graph(rng: Random) -> None:
    graph = random_scripts(rng, random_structure(rng))
    again = parse(str(graph))
    assert str(again) == str(graph)
    assert (again.hooks, again.script) == (graph.hooks, graph.script)
    assert again.flags == {name: flags for name, flags in graph.flags.items() if flags}
    for source in (*graph.objects(), "main"):
        for arrow in ("->", "=>", "~>", "?>"):
            assert again.targets(source, arrow) == graph.targets(source, arrow)
