"""Build the objects of a graph: one assembler and one linker run for each, about 5 ms together.

The C part that all objects share is compiled once by GCC; an object's own part is generated assembly: its
name and its references. Each is linked against empty stubs of what it needs, so that cycles are no matter and
nothing depends on an order. A graph's folder is named after what is in it; its main is shared unless the
program itself has edges or flags.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from tools.dso_graph.language import LIBC, PROGRAM, Graph

SOURCES = Path(__file__).resolve().parent
CACHE = SOURCES.parent.parent / ".cache" / "dso-graph"

_COMPILED = {
    "driver.o": "driver.c",
    "object.o": "object.c",
    "object-tls.o": "-DTLS object.c",
    "program.o": "-DPROGRAM object.c",
    "program-tls.o": "-DPROGRAM -DTLS object.c",
}

#: What the linker is told for each flag that it knows.
_LINKER_FLAGS = {
    "global": "-z global",
    "initfirst": "-z initfirst",
    "interpose": "-z interpose",
    "nodelete": "-z nodelete",
    "noopen": "-z nodlopen",
    "now": "-z now",
    "symbolic": "-Bsymbolic",
}


class BuildError(Exception):
    """A graph cannot be built; the message has what the tools said."""


def _shell(script: str, folder: Path) -> None:
    done = subprocess.run(
        ["sh", "-e"],
        input=script,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BuildError(f"exit {done.returncode} from:\n{script}\n{done.stdout}")


@cache
def base() -> Path:
    """Return the folder with the compiled shared part, made anew when a source or the compiler changed."""
    digest = hashlib.sha256(subprocess.run(["gcc", "--version"], check=True, capture_output=True).stdout)
    for path in [*sorted(SOURCES.glob("*.[ch]")), Path(__file__)]:
        digest.update(path.read_bytes())
    folder = CACHE / f"base-{digest.hexdigest()[:16]}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            for old in CACHE.glob("*-*"):
                shutil.rmtree(old)
            work = Path(tempfile.mkdtemp(dir=CACHE))
            commands = [
                f"gcc -std=gnu11 -O1 -fPIC -Wall -Wextra -Werror -I {SOURCES} -c -o {target} "
                + arguments.replace(source, str(SOURCES / source))
                for target, arguments in _COMPILED.items()
                for source in [arguments.split()[-1]]
            ]
            (work / "main.s").write_text(assembly(Graph(), PROGRAM))
            _shell(
                "\n".join(
                    [*commands, "mkdir stubs", "as -o empty.o /dev/null", _link_program(Graph(), work)]
                ),
                work,
            )
            work.rename(folder)
    return folder


def _stub(name: str, folder: Path) -> Path:
    """Return an empty shared object with this SONAME: linking against it makes a
    DT_NEEDED entry and no more.
    """
    stub = folder / "stubs" / name
    if not stub.exists():
        work = stub.with_name(f"{name}.{os.getpid()}")
        _shell(f"ld -shared -soname {name} -o {work} empty.o", folder)
        work.rename(stub)
    return stub


def _needed(graph: Graph, name: str, folder: Path) -> str:
    """Return the linker's arguments for the DT_NEEDED entries of one object, in order."""
    names = [
        "libc.so.6" if target == LIBC else f"{_flag_value(graph, target, 'soname') or target}.so"
        for target in graph.targets(name, "->")
    ]
    return " ".join(str(_stub(needed, folder)) for needed in names)


def _flag_value(graph: Graph, name: str, flag: str) -> str | None:
    values = [have.partition("=")[2] for have in graph.flags.get(name, ()) if have.startswith(flag + "=")]
    return values[-1] if values else None


def _linker_flags(graph: Graph, name: str) -> list[str]:
    flags = [_LINKER_FLAGS[flag] for flag in graph.flags.get(name, ()) if flag in _LINKER_FLAGS]
    soname = _flag_value(graph, name, "soname")
    return [*flags, f"-soname {soname}.so"] if soname else flags


def _link_object(graph: Graph, name: str, shared: Path) -> str:
    part = "object-tls.o" if "tls" in graph.flags.get(name, ()) else "object.o"
    flags = " ".join(_linker_flags(graph, name))
    return (
        f"as -o {name}.o {name}.s\n"
        f"ld -shared --eh-frame-hdr --hash-style=gnu --no-as-needed {flags} -o {name}.so {name}.o "
        f"{shared / part} {_needed(graph, name, shared)}"
    )


def _link_program(graph: Graph, shared: Path) -> str:
    part = "program-tls.o" if "tls" in graph.flags.get(PROGRAM, ()) else "program.o"
    flags = " ".join(f"-Wl,{flag.replace(' ', ',')}" for flag in _linker_flags(graph, PROGRAM))
    return (
        f"gcc -pie -o main main.s {shared / 'driver.o'} {shared / part} -Wl,-z,lazy -Wl,--export-dynamic "
        "-Wl,--no-as-needed "
        f"-Wl,--unresolved-symbols=ignore-all {flags} {_needed(graph, PROGRAM, shared)} -Wl,--as-needed"
    )


#: Numbers of enum event in object.h.
_ENTER, _LEAVE, _FOUND = 2, 3, 4


def _event(number: int) -> list[str]:
    return ["lea object_self(%rip), %rdi", f"mov ${number}, %esi", "call graph_event@PLT"]


def _found_variable(symbol: str) -> list[str]:
    """Report the name that a variable of the form of ``data_NAME`` points to; null stays null."""
    return [
        f"mov {symbol}@GOTPCREL(%rip), %rdx",
        "test %rdx, %rdx",
        "jz 0f",
        "mov (%rdx), %rdx",
        "0:",
        *_event(_FOUND),
    ]


def assembly(graph: Graph, name: str) -> str:
    """Return one object's own part: its name, function, variable, and its
    references in the order of the edges.
    """
    flags = graph.flags.get(name, ())
    body = [*_event(_ENTER), "test %eax, %eax", "jnz 1f"]
    if "common" in flags:
        body += ["call common@PLT", "mov %rax, %rdx", *_event(_FOUND)]
    if "unique" in flags:
        body += _found_variable("unique")
    weak = []
    for edge in graph.edges:
        if edge.source != name:
            continue
        if edge.arrow == "=>":
            body.append(f"call fn_{edge.target}@PLT")
        elif edge.arrow != "->":
            body += _found_variable(f"data_{edge.target}")
        if edge.arrow == "?>":
            weak.append(f".weak data_{edge.target}")
    lines = [
        ".text",
        f".globl fn_{name}, object_call",
        ".hidden object_call, object_name, object_self",
        f".type fn_{name}, @function",
        f"fn_{name}: object_call:",
        "sub $8, %rsp",
        *body,
        *_event(_LEAVE),
        "1: add $8, %rsp",
        "ret",
        *weak,
        ".section .rodata",
        ".globl object_name",
        f'object_name: .string "{name}"',
        ".data",
        ".balign 8",
        *_variable(f"data_{name}", "object"),
    ]
    if "unique" in flags:
        lines += _variable("unique", "gnu_unique_object")
    if "common" in flags:
        lines += [
            ".text",
            ".globl common",
            ".type common, @function",
            "common: lea object_name(%rip), %rax",
            "ret",
        ]
    return "\n".join([*lines, '.section .note.GNU-stack, "", @progbits', ""])


def _variable(symbol: str, kind: str) -> list[str]:
    return [
        f".globl {symbol}",
        f".type {symbol}, @{kind}",
        f".size {symbol}, 8",
        f"{symbol}: .quad object_name",
    ]


def build(graph: Graph, parent: Path = CACHE) -> Path:
    """Return the folder in ``parent`` with ``main`` and the objects, built if it is not there;
    raises BuildError.

    ``parent`` is on the file system of CACHE: files are linked.
    """
    shared = base()
    own_program = bool(graph.flags.get(PROGRAM) or any(edge.source == PROGRAM for edge in graph.edges))
    objects = [name for name in graph.objects() if "missing" not in graph.flags.get(name, ())]
    key = f"{shared.name}\n{graph.structure()}\n{sorted(objects)}"
    folder = parent / f"graph-{hashlib.sha256(key.encode()).hexdigest()[:20]}"
    if folder.exists():
        return folder
    work = Path(tempfile.mkdtemp(dir=parent))
    try:
        for name in [*objects, PROGRAM]:
            (work / f"{name}.s").write_text(assembly(graph, name))
        script = [_link_object(graph, name, shared) for name in objects]
        if own_program:
            script.append(_link_program(graph, shared))
        else:
            os.link(shared / "main", work / "main")
        _shell("\n".join(script), work)
        for scrap in [*work.glob("*.o"), *work.glob("*.s")]:
            scrap.unlink()
        work.rename(folder)
    except OSError:
        # Another process was first.
        if not folder.exists():
            raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder
