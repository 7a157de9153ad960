"""The numbers are those of the system's elf.h."""

from __future__ import annotations

import re
from pathlib import Path

from emu.elf import constants

_ELF_H = Path("/usr/include/elf.h")
_OURS = {"EHDR_SIZE", "PHDR_SIZE", "SHDR_SIZE", "SYM_SIZE", "RELA_SIZE", "RELR_SIZE", "DYN_SIZE", "PAGE_SIZE"}


def _defined() -> dict[str, int]:
    found: dict[str, int] = {}
    for name, value in re.findall(r"#define\s+(\w+)\s+(\(?[\w ]+(?:<< *\d+\))?)", _ELF_H.read_text()):
        number = re.fullmatch(r"\(?(0x[0-9a-fA-F]+|\d+)U?(?: << (\d+)\)?)?", value.strip())
        if number:
            found[name] = int(number[1], 0) << int(number[2] or 0)
    return found


def test_every_constant_that_elf_h_has_agrees_with_it() -> None:
    theirs = _defined()
    ours = {
        name: value for name, value in vars(constants).items() if name.isupper() and isinstance(value, int)
    }
    shared = ours.keys() & theirs.keys()
    assert {name: ours[name] for name in shared} == {name: theirs[name] for name in shared}
    assert ours.keys() - theirs.keys() <= _OURS | {
        "GNU_PROPERTY_1_NEEDED",  # an alias in elf.h
        "R_X86_64_RELATIVE64",
        "VERSYM_HIDDEN",
        "VERSYM_VERSION",
    }
    assert len(shared) > 200


def test_relocation_names_cover_every_type_of_the_psabi() -> None:
    theirs = {value: name for name, value in _defined().items() if name.startswith("R_X86_64_")}
    del theirs[max(theirs)]  # R_X86_64_NUM
    assert {value: constants.R_X86_64_NAMES.get(value) for value in theirs} == theirs
