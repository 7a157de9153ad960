"""What ld.so's own file tells of the words that it has for LD_DEBUG."""

from __future__ import annotations

import struct
from pathlib import Path

from emu.glibc.ld_debug import HELP, LIBS, TLS, help_text, parse_mask
from emu.glibc.ld_debug_words import NO_WORDS, Option, words_of

_LD_SO = "/lib64/ld-linux-x86-64.so.2"


def _table(*options: tuple[bytes, bytes, int]) -> bytes:
    return b"".join(struct.pack("<B10s41sH", len(name), name, about, mask) for name, about, mask in options)


def test_the_options_are_those_of_the_table() -> None:
    table = _table((b"libs", b"search paths", 3), (b"tls", b"TLS", 0x800), (b"help", b"this", 0x400))
    words = words_of([b"something before", table + bytes(54)])
    assert words.options == (
        Option("libs", "search paths", 3), Option("tls", "TLS", 0x800), Option("help", "this", 0x400),
    )  # fmt: skip
    assert parse_mask("tls,libs:help  none", words) == (TLS | 3 | HELP, ["none"])
    assert parse_mask("tls", NO_WORDS) == (0, ["tls"])
    assert "  tls         TLS\n" in help_text(words)


def test_a_table_that_breaks_off_is_as_long_as_it_is() -> None:
    table = _table((b"libs", b"search paths", 3), (b"files", b"files", 0x42))
    for length in range(len(table)):
        assert len(words_of([table[:length]]).options) == length // 54


def test_lines_are_there_where_their_strings_are() -> None:
    assert words_of([b"nothing"]) == NO_WORDS
    first = words_of([b"TCB allocated: 0x%lx\n"])
    assert (set(first.tls), first.passed_over) == ({"tcb", "tcb freed"}, {})
    later = words_of([b"tls: allocate TCB 0x%lx\n", b"    (no such file)\n\0    (incompatible ELF class)\n"])
    assert "update" in later.tls
    assert later.passed_over == {"": "no such file", "class": "incompatible ELF class"}
    assert words_of([b"as NODELETE due to reference to main program"]).program_refers == "to"


def test_the_hosts_own_has_a_table() -> None:
    words = words_of([Path(_LD_SO).read_bytes()])
    names = [option.name for option in words.options]
    assert names[:7] == ["libs", "reloc", "files", "symbols", "bindings", "versions", "scopes"]
    assert parse_mask("libs", words)[0] & LIBS
