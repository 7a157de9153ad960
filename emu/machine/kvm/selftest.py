"""Whether KVM does here what the engine relies on, tried out on small pieces of
code, and which kind of KVM it is.

Source: Intel SDM volume 2 (SYSCALL, IRET), volume 3, 6.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable

from emu.core.errors import EmuError
from emu.core.record import NamedTuple
from emu.machine import regs
from emu.machine.arena import MAPPED, PAGE_SIZE, PROT_EXEC, PROT_READ, PROT_WRITE, Arena
from emu.machine.engine import CpuException, PageFault, Stopped
from emu.machine.kvm.beat import KICK
from emu.machine.kvm.cpu import KvmCpu

_CODE, _DATA = 0x40_0000, 0x41_0000
_ROUNDS = 200
_NON_CANONICAL = 0x8000_0000_0000
_SPIN, _STORE = b"\xeb\xfe", b"\x48\x89\x07"
"""jmp to itself; mov %rax, (%rdi)"""


class Check(NamedTuple):
    """One thing tried: what it is, and what went wrong ("" if nothing did)."""

    name: str
    fault: str


class SelfTest(NamedTuple):
    """What was found.

    `kind` is how the host virtualises, `trap` and `syscall` are microseconds for one of each.
    """

    kind: str
    checks: tuple[Check, ...]
    trap: float
    syscall: float
    virtual_cpuid: bool
    virtual_clock: bool

    @property
    def passed(self) -> bool:
        """Whether everything was as it should be."""
        return not any(check.fault for check in self.checks)


class _Bench:
    """A CPU over a page of code and a page of data."""

    def __init__(self) -> None:
        self.arena = Arena()
        self.cpu = KvmCpu(self.arena)
        self.cpu.know_traps(lambda address: address == _CODE)
        self.count = 0
        self.cpu.take_traps(self._trap)
        self.arena.set_perms(_CODE, PAGE_SIZE, PROT_READ | PROT_EXEC | MAPPED)
        self.arena.set_perms(_DATA, PAGE_SIZE, PROT_READ | PROT_WRITE | MAPPED)

    def _trap(self) -> None:
        self.count -= 1
        if self.count <= 0:
            self.cpu.stop()

    def run(self, code: bytes, rounds: int = 1) -> object:
        """Run code from the start of its page, until it has trapped so often."""
        self.arena.write(_CODE, code.ljust(16, b"\xf4"))
        self.count = rounds
        self.cpu.set(regs.RDI, _DATA)
        return self.cpu.run(_CODE)

    def timed(self, code: bytes) -> float:
        """Return microseconds for a trap that the code makes again and again."""
        self.run(code, 10)
        begun = time.perf_counter()
        self.run(code, _ROUNDS)
        return (time.perf_counter() - begun) / _ROUNDS * 1e6

    # -- what is tried ---------------------------------------------------------------------------------------

    def trap(self) -> bool:
        """A trap of emu's keeps every register."""
        values = [0x1234_5678 + n for n in range(16)] + [_CODE, 0x202]
        values[4] = 0x7FFF_FFFF_0000
        self.cpu.set_gprs(values)
        self.arena.write(_CODE, b"\x0f\x0b")
        self.count = 1
        return isinstance(self.cpu.run(_CODE), Stopped) and self.cpu.gprs()[:16] == values[:16]

    def syscall(self) -> bool:
        """A `syscall` of the guest's is a trap."""
        return isinstance(self.run(b"\x0f\x05"), Stopped) and self.cpu.get(regs.RIP) == _CODE + 2

    def stale_page(self) -> bool:
        """A page that has just lost the right to be written to faults at the next
        store, and not after it has it back.
        """
        code = _STORE + b"\x0f\x05"
        first = self.run(code)
        self.cpu.range_changes(_DATA, _DATA + PAGE_SIZE, False)
        self.arena.set_perms(_DATA, PAGE_SIZE, PROT_READ | MAPPED)
        second = self.run(code)
        self.cpu.range_changes(_DATA, _DATA + PAGE_SIZE, False)
        self.arena.set_perms(_DATA, PAGE_SIZE, PROT_READ | PROT_WRITE | MAPPED)
        third = self.run(code)
        return (
            isinstance(first, Stopped)
            and second == PageFault(_DATA, "write", True, False, _DATA)
            and isinstance(third, Stopped)
        )

    def exceptions(self) -> bool:
        """Exceptions arrive as what they are: #UD, #DE, #BP, #GP."""
        cases = (
            (b"\x0f\xff\xc0", 6),
            (b"\x31\xc0\xf7\xf0", 0),
            (b"\xcc", 3),
            (b"\xcd\x42", 13),
            (b"\xf4", 13),
        )
        found = [self.run(b"\x90" + code) for code, _ in cases]
        return [out.vector if isinstance(out, CpuException) else -1 for out in found] == [
            vector for _, vector in cases
        ]

    def wild_return(self) -> bool:
        """To go on at an address that is none is the guest's fault, not ring 0's."""
        outcome = self.cpu.run(_NON_CANONICAL)
        return isinstance(outcome, (CpuException, PageFault)) and isinstance(self.run(b"\x0f\x05"), Stopped)

    def supervisor(self) -> bool:
        """The guest cannot touch ring 0's pages."""
        from emu.machine.kvm.ring0 import STUB

        outcomes = []
        for page in range(0, 16 * PAGE_SIZE, PAGE_SIZE):
            self.arena.write(_CODE, b"\x48\x8b\x07")  # mov (%rdi), %rax
            self.cpu.set(regs.RDI, STUB + page)
            outcomes.append(self.cpu.run(_CODE))
        return all(isinstance(outcome, (PageFault, CpuException)) for outcome in outcomes)

    def interrupted(self) -> bool:
        """A signal of the host's ends code that never traps, with its registers, and it can go on."""
        me = threading.get_ident()
        timer = threading.Timer(0.02, self.cpu.stop)
        late = threading.Timer(0.04, lambda: signal.pthread_kill(me, KICK))
        timer.start()
        late.start()
        self.cpu.set(regs.RBX, 77)
        outcome = self.run(b"\x90" + _SPIN)
        timer.join()
        late.join()
        return (
            isinstance(outcome, Stopped)
            and self.cpu.get(regs.RIP) in (_CODE, _CODE + 1)
            and self.cpu.get(regs.RBX) == 77
        )

    def virtual_clock(self) -> bool:
        """Whether RDTSC tells the time that we say."""
        self.cpu.count_cycles_by(lambda: 0x1122_3344_5566)
        self.run(b"\x0f\x31\x0f\x05")
        return self.cpu.get(regs.RAX) == 0x3344_5566 and self.cpu.get(regs.RDX) == 0x1122


def self_test() -> SelfTest:
    """Try all of it. Raises EmuError where there is no KVM."""
    bench = _Bench()
    tried: tuple[Callable[[], bool], ...] = (
        bench.trap, bench.syscall, bench.stale_page, bench.exceptions, bench.wild_return, bench.supervisor, bench.interrupted,
    )  # fmt: skip
    checks = tuple(_tried(check) for check in tried)
    trap, syscall = bench.timed(b"\x0f\x0b\xeb\xfc"), bench.timed(b"\x0f\x05\xeb\xfc")
    shadowed = bench.cpu.lstar_entered
    kind = "no virtualisation in hardware (PVM)" if shadowed else "virtualisation in hardware"
    result = SelfTest(kind, checks, trap, syscall, bench.cpu.shown.obeyed, bench.virtual_clock())
    bench.cpu.close()
    return result


def _tried(check: Callable[[], bool]) -> Check:
    name = " ".join((check.__doc__ or "").split()).rstrip(".")
    try:
        return Check(name, "" if check() else "it is not so here")
    except EmuError as error:
        return Check(name, str(error))
