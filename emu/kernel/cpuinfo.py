"""/proc/cpuinfo of the emulated CPU, out of what its CPUID says.

Source: proc(5); Linux arch/x86/kernel/cpu/proc.c:show_cpuinfo, arch/x86/include/asm/cpufeatures.h; Intel SDM volume 2, CPUID.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from emu.machine.answers import CPUID_1

if TYPE_CHECKING:
    from emu.kernel.kernel import Kernel

_1_EDX: Final = "fpu vme de pse tsc msr pae mce cx8 apic - sep mtrr pge mca cmov pat pse36 pn clflush - dts acpi mmx fxsr sse sse2 ss ht tm ia64 pbe"
_1_ECX: Final = (
    "pni pclmulqdq dtes64 monitor ds_cpl vmx smx est tm2 ssse3 cid sdbg fma cx16 xtpr pdcm - pcid dca sse4_1 sse4_2 x2apic movbe popcnt "
    "tsc_deadline_timer aes xsave - avx f16c rdrand hypervisor"
)
_UNICORNS: Final = "syscall nx rdtscp lm", "lahf_lm abm", "fsgsbase bmi1 smep bmi2 erms", "xsaveopt"
"""What Unicorn's own leaves say: 0x80000001 (EDX, ECX), 7 (EBX), 13.1 (EAX)."""
_LINUXS: Final = "constant_tsc rep_good nopl nonstop_tsc cpuid tsc_known_freq"


def _named(names: str, bits: int) -> list[str]:
    return [name for bit, name in enumerate(names.split()) if bits >> bit & 1 and name != "-"]


def cpuinfo_text(k: Kernel) -> bytes:
    """Return the description of the one CPU."""
    signature, _, ecx, edx = CPUID_1
    extended, more, structured, state = _UNICORNS
    flags = [*_named(_1_EDX, edx), *extended.split(), *_LINUXS.split(), *_named(_1_ECX, ecx)]
    flags += [*more.split(), *structured.split(), *state.split()]
    rows = (
        ("processor\t", "0"), ("vendor_id\t", "GenuineIntel"), ("cpu family\t", str(signature >> 8 & 15)),
        ("model\t\t", str(signature >> 12 & 0xF0 | signature >> 4 & 15)), ("model name\t", "Intel Core Processor (Haswell)"),
        ("stepping\t", str(signature & 15)), ("microcode\t", "0x1"), ("cpu MHz\t\t", "3000.000"), ("cache size\t", "4096 KB"),
        ("physical id\t", "0"), ("siblings\t", "1"), ("core id\t\t", "0"), ("cpu cores\t", "1"), ("apicid\t\t", "0"),
        ("initial apicid\t", "0"), ("fpu\t\t", "yes"), ("fpu_exception\t", "yes"), ("cpuid level\t", "13"), ("wp\t\t", "yes"),
        ("flags\t\t", " ".join(flags)), ("bugs\t\t", ""), ("bogomips\t", "6000.00"), ("clflush size\t", "64"), ("cache_alignment\t", "64"),
        ("address sizes\t", "40 bits physical, 48 bits virtual"), ("power management", ""),
    )  # fmt: skip
    return ("".join(f"{name}:{' ' if text else ''}{text}\n" for name, text in rows) + "\n").encode()
