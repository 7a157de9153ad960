"""Random instructions: the engines against the host's CPU."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest

from emu.machine import regs
from emu.machine.arena import MAPPED, PAGE_SIZE, PROT_EXEC, PROT_READ, PROT_WRITE, Arena
from emu.machine.engine import Cpu, PageFault, Stopped
from emu.machine.engines import make_cpu
from tests import tiers
from tests.engine.kvm import ENGINES, needs_kvm
from tests.engine.random_code import CODE, DATA, Native, State, random_code, random_state

_SEQUENCES = 10_000 if tiers.LONG else 2_000
_LENGTH = 8
_ORDER = (
    regs.RAX, regs.RCX, regs.RDX, regs.RBX, regs.RSP, regs.RBP, regs.RSI, regs.RDI,
    regs.R8, regs.R9, regs.R10, regs.R11, regs.R12, regs.R13, regs.R14, regs.R15,
)  # fmt: skip
_PLACES = tuple(regs.GPRS.index(register) for register in _ORDER)
_STATUS = 0x8D5
_ADJUST = 0x10
_RSP = DATA + 2048


@pytest.fixture
def native() -> Iterator[Native]:
    native = Native()
    yield native
    native.close()


def _cpu(engine: str) -> Cpu:
    arena = Arena()
    cpu = make_cpu(arena, engine)
    arena.set_perms(CODE, PAGE_SIZE, PROT_READ | PROT_EXEC | MAPPED)
    arena.set_perms(DATA, PAGE_SIZE, PROT_READ | PROT_WRITE | MAPPED)
    cpu.take_traps(cpu.stop)
    cpu.know_traps(lambda address: True)
    return cpu


def _load(cpu: Cpu, state: State) -> None:
    values = [0] * 18
    for place, value in zip(_PLACES, state.registers, strict=True):
        values[place] = value
    values[regs.GPRS.index(regs.RSP)] = _RSP
    values[16], values[17] = CODE, state.flags
    cpu.set_gprs(values)
    image = bytearray(cpu.fxsave())
    image[24:28] = state.mxcsr.to_bytes(4, "little")
    for number, vector in enumerate(state.vectors):
        image[160 + 16 * number : 176 + 16 * number] = vector
    cpu.fxrstor(bytes(image))
    cpu.arena.write(DATA, state.data)


def _run(cpu: Cpu, code: bytes, state: State) -> State:
    _load(cpu, state)
    cpu.arena.write(CODE, code + cpu.features.trap_code)
    cpu.flush_code(CODE, PAGE_SIZE)
    assert isinstance(cpu.run(CODE), Stopped), code.hex()
    values, image = cpu.gprs(), cpu.fxsave()
    registers = [values[place] for place in _PLACES]
    registers[4] = state.registers[4]
    vectors = tuple(image[160 + 16 * n : 176 + 16 * n] for n in range(16))
    mxcsr = int.from_bytes(image[24:28], "little")
    return State(tuple(registers), values[17], mxcsr, vectors, cpu.arena.read(DATA, len(state.data)))


@needs_kvm
def test_kvm_is_the_hosts_cpu(native: Native) -> None:
    cpu, random = _cpu("kvm"), Random(1)
    for _ in range(_SEQUENCES):
        state, code = random_state(random), random_code(random, _LENGTH)
        wanted, found = native.run(code, state), _run(cpu, code, state)
        assert found._replace(flags=found.flags & _STATUS) == wanted._replace(flags=wanted.flags & _STATUS), (
            code.hex()
        )
    cpu.close()


def _of_integers(code: bytes) -> bool:
    return code[0] not in (0xF2, 0xF3, 0x66) and code[1:3] not in (b"\x0f\x2e", b"\x0f\x51", *_FLOATING)


_FLOATING = tuple(bytes((0x0F, opcode)) for opcode in (0x58, 0x59, 0x5C, 0x5D, 0x5E, 0x5F))


def _compares_register(code: bytes) -> bool:
    """Whether it is a CMPXCHG with a register of 32 bits as its destination,
    which Unicorn extends with zeros even where it stays.
    """
    return code[1:3] == b"\x0f\xb1" and not code[0] & 8 and code[3] >= 0xC0


def test_unicorn_computes_integers_as_the_hosts_cpu(native: Native) -> None:
    """General registers, memory and flags; floating point has differences of its own
    (denormals, the choice of a NaN).
    """
    cpu, random = _cpu("unicorn"), Random(2)
    mask = _STATUS & ~_ADJUST
    for _ in range(_SEQUENCES // 2):
        state, code = random_state(random), random_code(random, 1)
        if not _of_integers(code) or _compares_register(code):
            continue
        wanted, found = native.run(code, state), _run(cpu, code, state)
        assert (found.registers, found.data) == (wanted.registers, wanted.data), code.hex()
        assert found.flags & mask == wanted.flags & mask, code.hex()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_fault_leaves_everything_as_it_was(engine: str) -> None:
    cpu, random = _cpu(engine), Random(3)
    for _ in range(200):
        state, code = random_state(random), random_code(random, 1)
        _load(cpu, state)
        before = cpu.gprs()
        cpu.set(regs.RDI, DATA + 0x10000)
        cpu.arena.write(CODE, b"\x48\x8b\x07" + code)  # mov (%rdi), %rax
        cpu.flush_code(CODE, PAGE_SIZE)
        outcome = cpu.run(CODE)
        assert isinstance(outcome, PageFault)
        assert (outcome.page, outcome.access, outcome.mapped) == (DATA + 0x10000, "read", False)
        after = cpu.gprs()
        place = regs.GPRS.index(regs.RDI)
        assert [v for n, v in enumerate(after[:16]) if n != place] == [
            v for n, v in enumerate(before[:16]) if n != place
        ]
        assert cpu.get(regs.RIP) == CODE
