"""What ld.so knows of the CPU, for libc and libm: up to 2.31 its own start fills this in; since 2.33 an
IFUNC resolver does, which runs as guest code.

What is usable beyond what CPUID says (`feature`) stays empty: no AVX is chosen, nor what one processor
prefers to another.

Source: glibc sysdeps/x86/cpu-features.c:init_cpu_features, cpu-features.h, to 2.31.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emu.glibc.mirror_global import GlobalMirror
    from emu.machine.features import Features

_STRUCT = "_dl_x86_cpu_features"
_KINDS = {"GenuineIntel": 1, "AuthenticAMD": 2}
_OTHER = 3
_FAMILY_EXTENDED, _MODEL_EXTENDED = 15, (6, 15)


def fill_cpu_features(mirror: GlobalMirror, features: Features) -> None:
    """Write what CPUID says where this release has a place for its plain words."""
    layout = mirror.layout
    if not layout.has("rtld_global_ro", f"{_STRUCT}.cpuid"):
        return
    nothing = (0, 0, 0, 0)
    # The last two are leaves 0x80000007 and 0x80000008; what a release has of these, it has in this order.
    leaves = (features.leaf1, features.leaf7, features.extended, features.state, nothing, nothing)
    room = layout.member_size("rtld_global_ro", f"{_STRUCT}.cpuid")
    data = b"".join(struct.pack("<4I", *leaf) for leaf in leaves)[:room]
    mirror.arena.write(mirror.ro_address(f"{_STRUCT}.cpuid"), data)
    family, model, stepping = signature(features.leaf1[0])
    kind = _KINDS.get(features.vendor, _OTHER)
    for member, value in (
        ("kind", kind),
        ("max_cpuid", features.highest),
        ("family", family),
        ("model", model),
        ("stepping", stepping),
    ):
        mirror.set_ro_if_there(f"{_STRUCT}.basic.{member}", value, 4)


def signature(eax: int) -> tuple[int, int, int]:
    """Return family, model and stepping, given EAX of CPUID leaf 1.

    Source: Intel SDM volume 2, CPUID.
    """
    family, model = eax >> 8 & 0xF, eax >> 4 & 0xF
    if family in _MODEL_EXTENDED:
        model += eax >> 12 & 0xF0
    if family == _FAMILY_EXTENDED:
        family += eax >> 20 & 0xFF
    return family, model, eax & 0xF
