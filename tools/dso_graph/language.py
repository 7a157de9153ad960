"""The language that describes a graph of shared objects and what a program does with it.

A description is a list of items with ``;`` between them; white space means nothing:

    main->a,b; a->c; b=>c; c(tls,nodelete); a{+d}; {+e[global]; %e; -e}

``a->b``   a has a DT_NEEDED entry for b.
``a=>b``   a's function calls b's through the PLT, with no DT_NEEDED: bound at the first call, or at once with
           BIND_NOW.
``a~>b``   a refers to b's variable through the GOT: bound while a is relocated; without b, a cannot be
           loaded.
``a?>b``   the same by a weak reference: without b it is null.
``a,b->c`` and ``a->b->c`` are what they look like, also with the other arrows.
``a(flag,flag=value)``  properties of an object: see FLAGS.
``{op;op}``   the script of the program.
``a{op}``, ``~a{op}``, ``@a{op}``, ``%a{op}``   what a's constructor, its destructor, the destructors of its
           thread_local object and its function do besides printing.

Operations: ``+a[mode,mode]`` dlopen (see MODES; lazy and local without any), ``-a`` dlclose of the last
handle, ``%a`` call a's function, ``@a`` touch a's thread_local object, whose destructor is registered each
time, ``&a`` register an exit handler of a, ``?a`` dlsym(RTLD_DEFAULT) of a's function. ``main`` is the
program: ``+main`` is dlopen(NULL). ``libc`` may be needed and nothing else: it is libc.so.6.
Source: the idea is that of glibc's elf/dso-sort-tests-1.def.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

#: The properties that an object can have; those with a value end in "=".
FLAGS = {
    "common": "defines the function `common`, as others do, and calls it: shows who is found",
    "global": "DF_1_GLOBAL",
    "initfirst": "DF_1_INITFIRST",
    "interpose": "DF_1_INTERPOSE",
    "missing": "the file does not exist",
    "nodelete": "DF_1_NODELETE",
    "noopen": "DF_1_NOOPEN",
    "now": "DF_BIND_NOW",
    "soname=": "DT_SONAME",
    "symbolic": "DF_SYMBOLIC",
    "tls": "has a thread_local counter: a TLS module",
    "unique": "defines a STB_GNU_UNIQUE variable, as others do, and reads it",
}

#: The modes of ``+``; driver.c gives them their values.
MODES = ("lazy", "now", "global", "local", "nodelete", "noload", "deepbind")

PROGRAM = "main"
LIBC = "libc"
ARROWS = ("->", "=>", "~>", "?>")

#: What a hook hangs on, by the mark before its object's name.
HOOKS = {"": "constructor", "~": "destructor", "@": "thread_local destructor", "%": "function"}
OPERATIONS = "+-%@&?"

_NAME = re.compile(r"[a-z][a-z0-9]{0,11}")
_TOKEN = re.compile(r"\s*(->|=>|~>|\?>|[a-z][a-z0-9]*|[-+%@&?~;,=(){}\[\]])")


class DescriptionError(ValueError):
    """A description is malformed; the message says what and where."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One step of a script: its mark (see OPERATIONS), the object, and the modes of a ``+``."""

    mark: str
    target: str
    modes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.mark + self.target + (f"[{','.join(self.modes)}]" if self.modes else "")


Script = tuple[Operation, ...]


@dataclass(frozen=True, slots=True)
class Edge:
    """``source`` refers to ``target`` in the way that the arrow says (see ARROWS)."""

    source: str
    arrow: str
    target: str


@dataclass(frozen=True, slots=True)
class Hook:
    """What ``owner`` does at the event that the mark names (see HOOKS)."""

    mark: str
    owner: str
    script: Script


@dataclass(frozen=True)
class Graph:
    """A whole description.

    ``edges`` is in order: that of an object's edges is the order of its DT_NEEDED or of its calls.
    """

    edges: tuple[Edge, ...] = ()
    flags: dict[str, tuple[str, ...]] = field(default_factory=dict)
    hooks: tuple[Hook, ...] = ()
    script: Script = ()

    def objects(self) -> list[str]:
        """Return the names of all shared objects but libc, in the order in which they are first named."""
        names: dict[str, None] = {}
        for edge in self.edges:
            names |= {edge.source: None, edge.target: None}
        names |= dict.fromkeys(self.flags)
        for hook in self.hooks:
            names[hook.owner] = None
        for script in (*(hook.script for hook in self.hooks), self.script):
            names |= dict.fromkeys(operation.target for operation in script)
        return [name for name in names if name not in (PROGRAM, LIBC)]

    def targets(self, source: str, arrow: str) -> list[str]:
        """Return where the edges of one kind lead from ``source``."""
        return [edge.target for edge in self.edges if (edge.source, edge.arrow) == (source, arrow)]

    def structure(self) -> Graph:
        """Return the graph without its scripts: what has to be built."""
        return replace(self, hooks=(), script=())

    def __str__(self) -> str:
        items = [_chain(edges) for edges in _grouped(self.edges)]
        items += [f"{name}({','.join(flags)})" for name, flags in self.flags.items() if flags]
        items += [f"{hook.mark}{hook.owner}{{{_script(hook.script)}}}" for hook in self.hooks]
        if self.script:
            items.append(f"{{{_script(self.script)}}}")
        return "; ".join(items)


def script_text(script: Script) -> str:
    """Return a script as driver.c reads it and as a description has it between braces."""
    return _script(script)


def _script(script: Script) -> str:
    return ";".join(map(str, script))


def _grouped(edges: tuple[Edge, ...]) -> list[list[Edge]]:
    """Put neighbouring edges of one kind and one source together."""
    groups: list[list[Edge]] = []
    for edge in edges:
        last = groups[-1][0] if groups else None
        if last and (last.source, last.arrow) == (edge.source, edge.arrow):
            groups[-1].append(edge)
        else:
            groups.append([edge])
    return groups


def _chain(edges: list[Edge]) -> str:
    return edges[0].source + edges[0].arrow + ",".join(edge.target for edge in edges)


class _Parser:
    """Reads a description once, left to right."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[tuple[str, int]] = []
        position = 0
        stripped = text.rstrip()
        while position < len(stripped):
            match = _TOKEN.match(text, position)
            if match is None:
                raise DescriptionError(f"column {position + 1}: cannot read {text[position:].strip()[:10]!r}")
            self.tokens.append((match[1], match.start(1)))
            position = match.end()
        self.next = 0
        self.edges: list[Edge] = []
        self.flags: dict[str, tuple[str, ...]] = {}
        self.hooks: list[Hook] = []
        self.script: Script | None = None

    def peek(self) -> str:
        """The next token; empty at the end."""
        return self.tokens[self.next][0] if self.next < len(self.tokens) else ""

    def wrong(self, wanted: str) -> DescriptionError:
        """An error at the next token."""
        if self.next == len(self.tokens):
            return DescriptionError(f"at the end: expected {wanted}")
        token, position = self.tokens[self.next]
        return DescriptionError(f"column {position + 1}: expected {wanted}, not {token!r}")

    def take(self, *wanted: str) -> str:
        """Read one of the given tokens."""
        if self.peek() not in wanted or not self.peek():
            raise self.wrong(" or ".join(wanted))
        self.next += 1
        return self.tokens[self.next - 1][0]

    def name(self) -> str:
        """Read an object's name."""
        if not _NAME.fullmatch(self.peek()):
            raise self.wrong("a name of at most 12 letters and digits")
        return self.take(self.peek())

    def names(self) -> list[str]:
        """Read names with commas between them."""
        names = [self.name()]
        while self.peek() == ",":
            self.take(",")
            names.append(self.name())
        return names

    def parse(self) -> Graph:
        """Read all items."""
        while self.peek():
            self.item()
            if self.peek():
                self.take(";")
        return Graph(tuple(self.edges), self.flags, tuple(self.hooks), self.script or ())

    def item(self) -> None:
        """Read edges, flags, a hook or the script."""
        if self.peek() == "{":
            if self.script is not None:
                raise self.wrong("one script only")
            self.script = self.braces()
            return
        mark = self.take(self.peek()) if self.peek() in ("~", "@", "%") else ""
        names = self.names()
        if self.peek() in ARROWS and not mark:
            while self.peek() in ARROWS:
                arrow = self.take(*ARROWS)
                targets = self.names()
                for edge in (Edge(source, arrow, target) for source in names for target in targets):
                    self.edge(edge)
                names = targets
        elif self.peek() == "(" and not mark:
            self.properties(names)
        elif self.peek() == "{" and len(names) == 1:
            if any((hook.mark, hook.owner) == (mark, names[0]) for hook in self.hooks):
                raise self.wrong(f"one {HOOKS[mark]} script of {names[0]} only")
            self.not_libc(names[0])
            self.hooks.append(Hook(mark, names[0], self.braces()))
        else:
            raise self.wrong("a script" if mark else "an arrow, flags or a script")

    def edge(self, edge: Edge) -> None:
        """Add an edge once."""
        self.not_libc(edge.source)
        if edge.target == LIBC and edge.arrow != "->":
            raise self.wrong("libc at the end of -> only")
        if edge in self.edges:
            raise self.wrong(f"{edge.source}{edge.arrow}{edge.target} once only")
        self.edges.append(edge)

    def not_libc(self, name: str) -> None:
        """Refuse libc where only a generated object can stand."""
        if name == LIBC:
            raise self.wrong("an object other than libc")

    def properties(self, names: list[str]) -> None:
        """Read the flags of one or several objects."""
        self.take("(")
        found = [self.flag()]
        while self.take(",", ")") == ",":
            found.append(self.flag())
        for name in names:
            self.not_libc(name)
            if name == PROGRAM and "missing" in found:
                raise self.wrong("a program that exists")
            self.flags[name] = tuple(dict.fromkeys((*self.flags.get(name, ()), *found)))

    def flag(self) -> str:
        """Read one flag."""
        flag = self.name()
        if self.peek() == "=":
            flag += self.take("=")
        if flag not in FLAGS:
            raise DescriptionError(f"unknown flag {flag!r}; known: {', '.join(FLAGS)}")
        return flag + self.name() if flag.endswith("=") else flag

    def braces(self) -> Script:
        """Read a script with its braces."""
        self.take("{")
        script = []
        while self.peek() != "}":
            script.append(self.operation())
            if self.peek() != "}":
                self.take(";")
        self.take("}")
        return tuple(script)

    def operation(self) -> Operation:
        """Read one operation."""
        mark = self.take(*OPERATIONS)
        target = self.name()
        self.not_libc(target)
        modes: list[str] = []
        if self.peek() == "[" and mark == "+":
            self.take("[")
            modes = self.names()
            self.take("]")
        for mode in modes:
            if mode not in MODES:
                raise DescriptionError(f"unknown mode {mode!r}; known: {', '.join(MODES)}")
        return Operation(mark, target, tuple(modes))


def parse(text: str) -> Graph:
    """Read a description; raises DescriptionError, which names the place."""
    return _Parser(text).parse()
