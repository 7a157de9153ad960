"""What the engine keeps of addresses and code when mappings change."""

from __future__ import annotations

import pytest

from emu.machine import regs
from emu.machine.address_space import AddressSpace
from emu.machine.arena import PAGE_SIZE, PROT_EXEC, PROT_READ, PROT_WRITE, Arena
from emu.machine.cpu import UnicornCpu
from emu.machine.engine import CpuException

_READ = b"\x48\x8b\x07\x0f\x0b"  # mov (%rdi), %rax; ud2


@pytest.fixture
def cpu() -> UnicornCpu:
    return UnicornCpu(Arena())


def test_addresses_are_forgotten_only_where_one_was_accessed(cpu: UnicornCpu) -> None:
    """A page that nobody has accessed is in no TLB; each flush costs a miss a page that is used on."""
    space = AddressSpace(cpu.arena, on_change=cpu.before_change)
    code = space.mmap(0, PAGE_SIZE, PROT_READ | PROT_EXEC)
    data = space.mmap(0, 2 * PAGE_SIZE, PROT_READ | PROT_WRITE)
    cpu.arena.write(code, _READ)

    def misses(address: int) -> int:
        before = cpu.tlb_misses
        cpu.set(regs.RDI, address)
        assert cpu.run(code) == CpuException(6)
        return cpu.tlb_misses - before

    misses(data)
    assert misses(data) == 0
    space.mprotect(data + PAGE_SIZE, PAGE_SIZE, PROT_READ)
    assert misses(data) == 0
    space.discard(data, 2 * PAGE_SIZE)
    assert misses(data) > 0
    space.munmap(data + PAGE_SIZE, PAGE_SIZE)
    assert misses(data) == 0


def test_code_is_forgotten_with_its_pages(cpu: UnicornCpu) -> None:
    space = AddressSpace(cpu.arena, on_change=cpu.before_change)
    code = space.mmap(0, PAGE_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC)
    for answer in (1, 2):  # mov $answer, %eax; ud2
        cpu.arena.write(code, b"\xb8" + answer.to_bytes(4, "little") + b"\x0f\x0b")
        assert cpu.run(code) == CpuException(6)
        assert cpu.get(regs.RAX) == answer
        space.discard(code, PAGE_SIZE)
