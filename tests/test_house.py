"""The rules of the house that ruff, mypy and import-linter do not know: CONTRIBUTING.md, rules 6, 8 and 9."""

from __future__ import annotations

import ast
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MOST_LINES, MOST_OF_A_FUNCTION = 400, 60
ONE_PIECE = "One piece:"
"""How the docstring of a file that is longer begins the sentence that says why."""
LONG_FUNCTIONS: dict[str, str] = {}
"""Those that may be longer, and why."""
FACES = {
    "Process": "the face, and what is behind it",
    "ProcessEnded": "the error, and the event",
    "Timeline": "the face, and gdb's",
    "Tls": "one thread's for Python, and the linker's",
}
"""Names that Python's users see, and that are the right ones below, too."""
GIVEN = {"rtld", "contract"}
"""What is made with all that it needs: no other room assigns to it."""
SERVED = {
    "bus.now",
    "system.report",
    "system.forge",
    "scheduler.policy",
    "cpu.read_tsc",
    "cpu.is_trap",
    "signals.tracer",
}
"""What others give to a thing by a method of its own."""

QUESTIONS = {
    "Which formula does a relocation have?": "emu/rtld/relocate.py",
    "In which directories is a library looked for?": "emu/rtld/search_path.py",
    "Why does dlclose leave an object loaded?": "emu/rtld/close.py",
    "Which thread runs next?": "emu/kernel/run/scheduler.py",
    "What becomes of an error in a system call's handler?": "emu/kernel/dispatch.py",
    "How is a child of fork made?": "emu/process/tree.py",
    "Which signal does a bad access raise, and who says so?": "emu/process/ending.py",
    "What does a snapshot hold?": "emu/core/memento.py",
    "Who keeps the list of thread_local destructors?": "emu/glibc/cxa_thread_atexit_impl.py",
    "Where do options have their defaults from?": "emu/cli/defaults.py",
    "Which bytes does getrandom give?": "emu/kernel/run/entropy.py",
    "What is in the vDSO?": "emu/kernel/vdso.py",
    "Where does struct link_map have a member?": "emu/glibc/layout.py",
    "Who fetches the packages of a sysroot?": "emu/sysroot/debian.py",
    "What words does a line of LD_DEBUG have?": "emu/glibc/ld_debug.py",
    "Which preloads does a set-user-id program keep?": "emu/rtld/secure.py",
    "How is a name found in DT_GNU_HASH?": "emu/elf/hash.py",
    "At which address does mmap place a mapping?": "emu/machine/gaps.py",
    "What lies on the stack at the entry point?": "emu/kernel/stack.py",
    "What does /proc/self/maps say?": "emu/kernel/proc/proctext.py",
    "What does a signal handler find on its stack?": "emu/kernel/run/sigframe.py",
    "Which instructions does Unicorn run wrong?": "emu/machine/special.py",
    "In which order do constructors run?": "emu/rtld/sort_maps.py",
    "When does a version of a symbol match?": "emu/rtld/match.py",
    "How does a Python value become an argument?": "emu/api/convert.py",
    "Who says EACCES for a path?": "emu/kernel/fs/vfs.py",
    "What does a relocation's symbol bind to?": "emu/rtld/references.py",
}
"""What a stranger may ask, and where the map is to lead."""


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def _nodes(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(_tree(path)))


def _files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _classes() -> Iterator[tuple[str, Path, ast.ClassDef]]:
    for path in _files("emu"):
        for node in _nodes(path):
            if isinstance(node, ast.ClassDef):
                yield node.name, path, node


@pytest.mark.parametrize("folder", ["emu", "tests", "tools"])
def test_files_are_short_or_say_why_not(folder: str) -> None:
    """A long file that is one piece says so in its docstring; one that is short again says it no more."""
    wrong = []
    for path in _files(folder):
        text = path.read_text()
        lines, said = text.count("\n"), (text.split('"""', 2) + [""])[1]
        if (lines > MOST_LINES) != (ONE_PIECE in said) and path != Path(__file__):
            wrong.append(
                f"{_name(path)}: {lines} lines, {ONE_PIECE!r} is {'' if ONE_PIECE in said else 'not '}there"
            )
    assert wrong == []


def test_functions_are_short() -> None:
    long = set()
    for path in _files("emu", "tools"):
        for node in _nodes(path):
            if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
                body = node.body[1:] if ast.get_docstring(node) is not None else node.body
                if body and node.end_lineno - body[0].lineno + 1 > MOST_OF_A_FUNCTION:
                    long.add(f"{_name(path)}:{node.name}")
    assert long == set(LONG_FUNCTIONS)


def test_no_class_name_twice() -> None:
    """But for a protocol and what implements it, and for names of the Python face; `_name` is its file's."""
    named = defaultdict(list)
    for name, path, node in _classes():
        protocol = any(ast.unparse(base).startswith("Protocol") for base in node.bases)
        named[name].append((protocol, _name(path)))
    twice = {
        name: [path for _, path in places]
        for name, places in named.items()
        if len(places) > 1 and not name.startswith("_") and not any(protocol for protocol, _ in places)
    }
    assert {name: places for name, places in twice.items() if name not in FACES} == {}
    assert set(FACES) <= set(twice), "a name that is unique again"


def _assigned(nodes: Iterable[ast.AST]) -> Iterator[ast.Attribute]:
    for node in nodes:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, (ast.AugAssign, ast.AnnAssign)):
            targets = [node.target]
        for target in targets:
            for part in target.elts if isinstance(target, ast.Tuple) else [target]:
                if isinstance(part, ast.Attribute):
                    yield part


def test_no_number_is_dispatched_upon_without_a_name() -> None:
    """A case of a match is a name of the field's, of an enum or a constant: gABI, psABI, DWARF, Linux."""
    bare = [
        f"{_name(path)}:{value.lineno}"
        for path in _files("emu")
        for node in _nodes(path)
        if isinstance(node, ast.match_case)
        for value in ast.walk(node.pattern)
        if isinstance(value, ast.Constant) and type(value.value) is int
    ]
    assert bare == []


def _attributes(body: ast.AST) -> Iterator[str]:
    """The public attributes of a class that have no docstring of their own behind them."""
    for node in ast.walk(body):
        lines = getattr(node, "body", None)
        for line, after in zip(lines, [*lines[1:], None], strict=True) if isinstance(lines, list) else ():
            if not isinstance(after, ast.Expr) and isinstance(line, (ast.Assign, ast.AnnAssign)):
                yield from (part.attr for part in _assigned([line]) if ast.unparse(part.value) == "self")


@pytest.mark.parametrize("name", ["Contract", "Kernel", "LinkMap", "Process", "Rtld", "System", "Task"])
def test_public_attributes_are_told_of(name: str) -> None:
    """In the docstring of the class, as `name`, or behind the attribute."""
    for found, path, node in _classes():
        if found == name:
            properties = {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
            public = {part for part in _attributes(node) if not part.startswith("_")} - properties
            told = set(re.findall(r"`(\w+)`", ast.get_docstring(node) or ""))
            assert public <= told, _name(path)


def _told() -> set[tuple[str, str]]:
    """Each room with the `on_...` that its own objects have."""
    return {
        (path.relative_to(ROOT).parts[1], part.attr)
        for path in _files("emu")
        for part in _assigned(_nodes(path))
        if ast.unparse(part.value) == "self" and part.attr.startswith("on_")
    }


def test_nothing_is_assigned_from_another_room_after_birth() -> None:
    """To the linker, libc's contract and what is told of things (`on_...`) only their own rooms assign,
    to `_private` the class's file, to what serves a thing (SERVED) itself.
    """
    wrong, told = [], _told()
    for path in _files("emu"):
        nodes, room = _nodes(path), path.relative_to(ROOT).parts[1]
        own = {part.attr for part in _assigned(nodes) if ast.unparse(part.value) in ("self", "cls")}
        for part in _assigned(nodes):
            owner = ast.unparse(part.value)
            last = owner.rsplit(".", 1)[-1]
            foreign = last in GIVEN and room != {"rtld": "rtld", "contract": "glibc"}[last]
            private = part.attr.startswith("_") and not part.attr.startswith("__") and part.attr not in own
            served = f"{last.lstrip('_')}.{part.attr}" in SERVED
            if foreign or private or served or part.attr.startswith("on_") and (room, part.attr) not in told:
                wrong.append(f"{_name(path)}:{part.lineno} {ast.unparse(part)}")
    assert wrong == []


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "emu/README.md"])
def test_the_files_that_a_page_names_are_there(page: str) -> None:
    """By their path from the root, or by its end where a section is about one room."""
    there = {_name(path) for path in _files("emu", "tests", "tools")}
    named = re.findall(r"`([\w./]+\.py)\b", (ROOT / page).read_text("utf-8"))
    assert named
    missing = [name for name in named if not any(f"/{path}".endswith(f"/{name}") for path in there)]
    assert [name for name in missing if not re.search("[A-Z]{3}", name)] == []


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "emu/README.md"])
def test_the_tools_that_a_page_calls_can_be_called(page: str) -> None:
    for name in set(re.findall(r"`(tools/[\w.]+) ", (ROOT / page).read_text("utf-8"))):
        assert os.access(ROOT / name, os.X_OK), name


@pytest.mark.parametrize(("question", "answer"), QUESTIONS.items())
def test_the_map_leads_there(question: str, answer: str) -> None:
    """emu/README.md names the file, in a section in which its room is named as well."""
    assert (ROOT / answer).is_file()
    path = Path(answer)
    room, parts = path.parts[1], (ROOT / "emu/README.md").read_text("utf-8").split("\n## ")
    assert any(path.name in part and room in part for part in parts), question
