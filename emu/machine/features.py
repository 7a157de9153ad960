"""What a CPU can do, as programs are told of it:
by the auxiliary vector, /proc/cpuinfo, and the choice of libraries.

Source: x86-64 psABI, "Microarchitecture levels"; getauxval(3); Intel SDM volume 2, CPUID.
"""

from __future__ import annotations

from emu.core.record import NamedTuple

_FRAME, _LARGEST_FRAME = 608, 940


class Features(NamedTuple):
    """One engine's CPU.

    - `engine`: its name for the user
    - `level`: the highest microarchitecture level, 1 to 4
    - `trap_code`: two bytes of code that trap, for functions that emu serves; all registers are kept
    - `leaf1`: CPUID leaf 1 (eax, ebx, ecx, edx), `leaf7`: leaf 7, `state`: leaf 13.1, `extended`: leaf
      0x80000001
    - `highest`: the last leaf of CPUID
    - `vendor`, `brand`: its names
    - `hwcap2`: AT_HWCAP2
    - `signal_state`: bytes that the x87 and vector state takes in a signal's frame
    """

    engine: str
    level: int
    trap_code: bytes
    leaf1: tuple[int, int, int, int]
    leaf7: tuple[int, int, int, int]
    state: tuple[int, int, int, int]
    extended: tuple[int, int, int, int]
    highest: int
    vendor: str
    brand: str
    hwcap2: int
    signal_state: int

    @property
    def hwcap(self) -> int:
        """AT_HWCAP: CPUID.1:EDX."""
        return self.leaf1[3]

    @property
    def signal_stack(self) -> int:
        """AT_MINSIGSTKSZ: the largest signal frame.

        Linux adds to XSAVE's state what the larger frames of 32-bit programs take.
        """
        return self.signal_state + (_FRAME if self.signal_state <= 512 else _LARGEST_FRAME)

    @property
    def hwcaps(self) -> tuple[str, ...]:
        """The names of the glibc-hwcaps subdirectories that this CPU can use, the preferred first."""
        return tuple(f"x86-64-v{level}" for level in range(self.level, 1, -1))
