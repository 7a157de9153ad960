"""/proc/cpuinfo of the guest's CPU, out of what its CPUID says.

Source: proc(5); Linux arch/x86/kernel/cpu/proc.c:show_cpuinfo, arch/x86/include/asm/cpufeatures.h; Intel SDM
volume 2, CPUID.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from emu.machine.features import Features

_1_EDX: Final = "fpu vme de pse tsc msr pae mce cx8 apic - sep mtrr pge mca cmov pat pse36 pn clflush - dts acpi mmx fxsr sse sse2 ss ht tm ia64 pbe"
_1_ECX: Final = (
    "pni pclmulqdq dtes64 monitor ds_cpl vmx smx est tm2 ssse3 cid sdbg fma cx16 xtpr pdcm - pcid dca sse4_1 sse4_2 x2apic movbe popcnt "
    "tsc_deadline_timer aes xsave - avx f16c rdrand hypervisor"
)
_X_EDX: Final = "- - - - - - - - - - - syscall - - - - - - - mp nx - mmxext - - fxsr_opt pdpe1gb rdtscp - lm 3dnowext 3dnow"
_X_ECX: Final = (
    "lahf_lm cmp_legacy svm extapic cr8_legacy abm sse4a misalignsse 3dnowprefetch osvw ibs xop skinit wdt - lwp fma4 tce - nodeid_msr - tbm topoext "
    "perfctr_core perfctr_nb - bpext ptsc perfctr_llc mwaitx"
)
_7_EBX: Final = (
    "fsgsbase tsc_adjust sgx bmi1 hle avx2 fdp_excptn_only smep bmi2 erms invpcid rtm cqm zero_fcs_fds mpx rdt_a avx512f avx512dq rdseed adx smap "
    "avx512ifma - clflushopt clwb intel_pt avx512pf avx512er avx512cd sha_ni avx512bw avx512vl"
)
_7_ECX: Final = (
    "- avx512vbmi umip pku ospke waitpkg avx512_vbmi2 - gfni vaes vpclmulqdq avx512_vnni avx512_bitalg tme avx512_vpopcntdq - la57 - - - - - rdpid "
    "- - cldemote - movdiri movdir64b enqcmd"
)
_STATE: Final = "xsaveopt xsavec xgetbv1 xsaves"
_LINUXS: Final = "constant_tsc rep_good nopl nonstop_tsc cpuid tsc_known_freq"


def _named(names: str, bits: int) -> list[str]:
    return [name for bit, name in enumerate(names.split()) if bits >> bit & 1 and name != "-"]


def cpuinfo_text(cpu: Features, number: int, count: int) -> str:
    """Return the description of processor `number` of `count`: cores of one package."""
    signature, _, ecx, edx = cpu.leaf1
    flags = [*_named(_1_EDX, edx), *_named(_X_EDX, cpu.extended[3]), *_LINUXS.split(), *_named(_1_ECX, ecx)]
    flags += [
        *_named(_X_ECX, cpu.extended[2]),
        *_named(_7_EBX, cpu.leaf7[1]),
        *_named(_STATE, cpu.state[0]),
        *_named(_7_ECX, cpu.leaf7[2]),
    ]
    family, model = signature >> 8 & 15, signature >> 12 & 0xF0 | signature >> 4 & 15
    if family == 15:
        family += signature >> 20 & 0xFF
    rows = (
        ("processor\t", str(number)), ("vendor_id\t", cpu.vendor), ("cpu family\t", str(family)),
        ("model\t\t", str(model)), ("model name\t", cpu.brand),
        ("stepping\t", str(signature & 15)), ("microcode\t", "0x1"), ("cpu MHz\t\t", "3000.000"), ("cache size\t", "4096 KB"),
        ("physical id\t", "0"), ("siblings\t", str(count)), ("core id\t\t", str(number)), ("cpu cores\t", str(count)), ("apicid\t\t", str(number)),
        ("initial apicid\t", str(number)), ("fpu\t\t", "yes"), ("fpu_exception\t", "yes"), ("cpuid level\t", str(cpu.highest)), ("wp\t\t", "yes"),
        ("flags\t\t", " ".join(flags)), ("bugs\t\t", ""), ("bogomips\t", "6000.00"), ("clflush size\t", "64"), ("cache_alignment\t", "64"),
        ("address sizes\t", "40 bits physical, 48 bits virtual"), ("power management", ""),
    )  # fmt: skip
    return "".join(f"{name}:{' ' if text else ''}{text}\n" for name, text in rows) + "\n"
