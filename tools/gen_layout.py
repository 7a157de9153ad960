#!/usr/bin/env python3
"""Generate the layout table of one glibc version from the DWARF of its ld.so and libc.

    tools/gen_layout.py                                   # the system's libc, debug files under /usr/lib/debug (package libc6-dbg)
    tools/gen_layout.py --root DIR -o emu/glibc/layouts/  # the libc and the debug files of an unpacked system

Writes `VERSION.json`: for each structure its size and, for each member, [offset, size] or [offset, size, bit offset, bit size] in bytes and
bits. Members of nested structures have dotted names; of an array, the first element is given and the stride as `NAME[]`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from elftools.dwarf.die import DIE
from elftools.elf.elffile import ELFFile

LD_SO = "lib64/ld-linux-x86-64.so.2"
LIBC = "lib/x86_64-linux-gnu/libc.so.6"
WANTED = {
    LD_SO: (
        "link_map", "rtld_global", "rtld_global_ro", "r_scope_elem", "libname_list", "dtv_slotinfo_list", "dtv_slotinfo",
        "r_debug_extended", "link_map_reldeps", "r_found_version", "dl_exception", "r_search_path_struct", "link_namespaces",
        "tunable_t",
    ),
    LIBC: ("pthread", "tcbhead_t", "dtor_list", "dl_find_object"),
}  # fmt: skip


def debug_file(root: Path, binary: Path) -> Path:
    """Return the separate debug file of `binary`, found by build-id. Exits with the next step when it is missing."""
    with binary.open("rb") as stream:
        notes: Any = ELFFile(stream).get_section_by_name(".note.gnu.build-id")
        build_id = next(note["n_desc"] for note in notes.iter_notes())
    path: Path = root / "usr/lib/debug/.build-id" / build_id[:2] / f"{build_id[2:]}.debug"
    if not path.exists():
        sys.exit(f"{path} not found: install it with: apt-get install libc6-dbg")
    return path


def resolve(die: DIE) -> DIE:
    """Follow typedefs and qualifiers to the real type."""
    while die.tag in ("DW_TAG_typedef", "DW_TAG_const_type", "DW_TAG_volatile_type", "DW_TAG_atomic_type"):
        die = die.get_DIE_from_attribute("DW_AT_type")
    return die


def size_of(die: DIE) -> int:
    """Return a type's size in bytes."""
    die = resolve(die)
    if die.tag == "DW_TAG_pointer_type":
        return 8
    if die.tag == "DW_TAG_array_type":
        count = 1
        for child in die.iter_children():
            if child.tag == "DW_TAG_subrange_type":
                bound = child.attributes.get("DW_AT_upper_bound")
                known = child.attributes.get("DW_AT_count")
                count *= known.value if known else bound.value + 1 if bound else 0
        return count * size_of(die.get_DIE_from_attribute("DW_AT_type"))
    return int(die.attributes["DW_AT_byte_size"].value)


def flatten(die: DIE, base: int, prefix: str, out: dict[str, list[int]]) -> None:
    """Add every member of the structure `die`, at `base`, to `out`."""
    for member in die.iter_children():
        if member.tag != "DW_TAG_member":
            continue
        kind = resolve(member.get_DIE_from_attribute("DW_AT_type"))
        name = member.attributes["DW_AT_name"].value.decode() if "DW_AT_name" in member.attributes else ""
        location = member.attributes.get("DW_AT_data_member_location")
        bits = member.attributes.get("DW_AT_bit_size")
        if bits is not None:
            at = member.attributes["DW_AT_data_bit_offset"].value
            out[prefix + name] = [base + at // 8, 1, at % 8, bits.value]
            continue
        offset = base + (location.value if location else 0)
        if name:
            out[prefix + name] = [offset, size_of(kind)]
        if kind.tag in ("DW_TAG_structure_type", "DW_TAG_union_type"):
            flatten(kind, offset, f"{prefix}{name}." if name else prefix, out)
        elif kind.tag == "DW_TAG_array_type":
            element = resolve(kind.get_DIE_from_attribute("DW_AT_type"))
            out[f"{prefix}{name}[]"] = [offset, size_of(element)]
            if element.tag == "DW_TAG_structure_type":
                flatten(element, offset, f"{prefix}{name}[].", out)


def structures(path: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the largest definition of each named structure in the debug file."""
    found: dict[str, Any] = {}
    with path.open("rb") as stream:
        for unit in ELFFile(stream).get_dwarf_info().iter_CUs():
            for die in unit.get_top_DIE().iter_children():
                if (
                    die.tag not in ("DW_TAG_structure_type", "DW_TAG_typedef")
                    or "DW_AT_name" not in die.attributes
                ):
                    continue
                name = die.attributes["DW_AT_name"].value.decode()
                if name not in names or (die.tag == "DW_TAG_typedef" and "DW_AT_type" not in die.attributes):
                    continue
                kind = resolve(die)
                if kind.tag != "DW_TAG_structure_type" or "DW_AT_byte_size" not in kind.attributes:
                    continue
                size = kind.attributes["DW_AT_byte_size"].value
                if name in found and found[name]["size"] >= size:
                    continue
                members: dict[str, list[int]] = {}
                flatten(kind, 0, "", members)
                found[name] = {"size": size, "members": members}
    missing = set(names) - set(found)
    if missing:
        sys.exit(f"{path}: no definition of {', '.join(sorted(missing))}")
    return found


def version_of(binary: Path) -> str:
    """Return the newest GLIBC_2.x version that libc defines, as 2.x."""
    with binary.open("rb") as stream:
        section: Any = ELFFile(stream).get_section_by_name(".gnu.version_d")
        names = [aux.name for _, auxes in section.iter_versions() for aux in auxes]
    versions = [
        tuple(map(int, n[6:].split(".")))
        for n in names
        if n.startswith("GLIBC_2") and n[6:].replace(".", "").isdigit()
    ]
    return ".".join(map(str, max(versions)))


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--root", type=Path, default=Path("/"), help="where the system is unpacked (default: /)"
    )
    default = Path(__file__).resolve().parent.parent / "emu/glibc/layouts"
    parser.add_argument("-o", "--output", type=Path, default=default, help="folder for VERSION.json")
    args = parser.parse_args()
    table: dict[str, Any] = {"version": version_of(args.root / LIBC), "structures": {}}
    for binary, names in WANTED.items():
        table["structures"].update(structures(debug_file(args.root, args.root / binary), names))
    path = args.output / f"{table['version']}.json"
    lines = [f' "version": {json.dumps(table["version"])},', ' "structures": {']
    items = []
    for name, body in sorted(table["structures"].items()):
        members = ",\n".join(f"    {json.dumps(k)}: {json.dumps(v)}" for k, v in body["members"].items())
        items.append(f'  "{name}": {{"size": {body["size"]}, "members": {{\n{members}}}}}')
    path.write_text("{\n" + "\n".join(lines) + "\n" + ",\n".join(items) + "\n }\n}\n")
    print(path)


if __name__ == "__main__":
    main()
