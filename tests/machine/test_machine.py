"""Arena, address space, CPU and the scan for instructions that would run wrongly."""

from __future__ import annotations

import errno
import gc
from collections.abc import Iterator
from types import SimpleNamespace

import capstone
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.core.errors import EmuError, MemoryFault
from emu.glibc.stubs import build_stubs
from emu.machine import regs
from emu.machine.address_space import MMAP_BASE, AddressSpace
from emu.machine.arena import PROT_READ, PROT_WRITE, SIZES, Arena, physical
from emu.machine.cpu import UnicornCpu
from emu.machine.engine import CpuException, InstructionError, PageFault, Stopped
from emu.machine.scan import REFUSED, find_special

PAGE = 4096


@pytest.fixture(scope="module")
def cpu() -> UnicornCpu:
    return UnicornCpu(Arena())


@pytest.fixture
def space(cpu: UnicornCpu) -> Iterator[AddressSpace]:
    space = AddressSpace(cpu.arena, on_change=cpu.range_changes)
    yield space
    for area in list(space):
        space.munmap(area.start, area.end - area.start)


def test_mappings_go_top_down_and_alike_neighbours_merge(space: AddressSpace) -> None:
    first = space.mmap(0, 2 * PAGE, 3)
    second = space.mmap(0, PAGE, 3)
    assert (first, second) == (MMAP_BASE - 2 * PAGE, MMAP_BASE - 3 * PAGE)
    assert [(a.start, a.end) for a in space] == [(second, MMAP_BASE)]
    space.mprotect(first, PAGE, PROT_READ)
    assert [a.prot for a in space] == [3, 1, 3]
    space.mprotect(first, PAGE, 3)
    assert len(list(space)) == 1


def test_unmapped_memory_is_zero_when_it_comes_back(space: AddressSpace) -> None:
    address = space.mmap(0, PAGE, 3)
    space.arena.write(address, b"old")
    space.munmap(address, PAGE)
    with pytest.raises(MemoryFault):
        space.arena.read(address, 1)
    assert space.mmap(address, PAGE, 3, fixed=True) == address
    assert space.arena.read(address, 3) == b"\0\0\0"


def test_copies_for_the_guest_obey_its_permissions(space: AddressSpace) -> None:
    address = space.mmap(0, 2 * PAGE, PROT_READ | PROT_WRITE)
    space.mprotect(address + PAGE, PAGE, PROT_READ)
    with pytest.raises(MemoryFault) as fault:
        space.arena.copy_out(address + PAGE - 2, b"four")
    assert (fault.value.address, fault.value.access) == (address + PAGE, "write")
    space.arena.write(address + PAGE - 2, b"four")
    assert space.arena.copy_in(address + PAGE - 2, 4) == b"four"


def test_mremap_moves_what_it_cannot_grow_in_place(space: AddressSpace) -> None:
    space.mmap(0, PAGE, 1)
    below = space.mmap(0, PAGE, 3)
    space.arena.write(below, b"kept")
    with pytest.raises(OSError, match="no room") as refused:
        space.mremap(below, PAGE, 4 * PAGE, 0)
    assert refused.value.errno == errno.ENOMEM
    moved = space.mremap(below, PAGE, 4 * PAGE, 1)
    assert moved != below
    assert space.arena.read(moved, 4) == b"kept"
    assert space.find(below) is None


@given(st.lists(st.tuples(st.integers(0, 15), st.integers(1, 6), st.integers(0, 2)), max_size=30))
@settings(deadline=None, derandomize=True, max_examples=60)
def test_areas_and_page_permissions_agree(operations: list[tuple[int, int, int]]) -> None:
    space = AddressSpace(_arena)
    base = 0x10000000
    model = [0] * 32
    for start, length, what in operations:
        pages = range(start, start + length)
        if what == 0:
            space.mmap(base + start * PAGE, length * PAGE, 3, fixed=True)
            for page in pages:
                model[page] = 3
        elif what == 1:
            space.munmap(base + start * PAGE, length * PAGE)
            for page in pages:
                model[page] = 0
        elif all(model[page] for page in pages):
            space.mprotect(base + start * PAGE, length * PAGE, 1)
            for page in pages:
                model[page] = 1
    for page, prot in enumerate(model):
        area = space.find(base + page * PAGE)
        assert (area.prot if area is not None else 0) == prot
        assert _arena.perm((physical(base) >> 12) + page) & 7 == prot
    assert space.total == sum(PAGE for prot in model if prot)
    space.munmap(base, 32 * PAGE)


_arena = Arena()


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("488b0425 00001000", PageFault(0x100000, "read", False, False)),
        ("48890425 00001000", PageFault(0x100000, "write", False, False)),
        ("31c9f7f1", CpuException(0)),
        ("cc", CpuException(3)),
        ("0f0b", CpuException(6)),
        ("f4", CpuException(13)),
    ],
)
def test_faults_are_exact(cpu: UnicornCpu, space: AddressSpace, code: str, outcome: object) -> None:
    address = space.mmap(0, PAGE, 7)
    space.arena.write(address, bytes.fromhex(code))
    assert cpu.run(address) == outcome


def test_a_trap_sees_and_sets_registers(cpu: UnicornCpu, space: AddressSpace) -> None:
    address = space.mmap(0, PAGE, 7)
    space.arena.write(address, bytes.fromhex("b82a000000 0f05 f4 0f05"))
    seen = []

    def trap() -> None:
        seen.append((cpu.get(regs.RAX), cpu.get(regs.RIP) - address))
        if len(seen) == 1:
            cpu.set(regs.RIP, address + 8)
        else:
            cpu.stop()

    cpu.take_traps(trap)
    assert cpu.run(address) == Stopped()
    assert seen == [(42, 7), (42, 10)]


def test_the_floating_point_state_survives_fxsave_and_fxrstor(cpu: UnicornCpu, space: AddressSpace) -> None:
    address = space.mmap(0, PAGE, 7)
    space.arena.write(address, bytes.fromhex("d9e8 d9eb 0f57c0 f4"))
    cpu.run(address)
    image = cpu.fxsave()
    cpu.reset_fpu()
    cpu.fxrstor(image)
    assert cpu.fxsave() == image
    assert image[32:42] == bytes.fromhex("35c26821a2da0fc90040")  # pi is on top of the stack


def test_an_avx_instruction_stops_the_run(cpu: UnicornCpu, space: AddressSpace) -> None:
    address = space.mmap(0, PAGE, 7)
    space.arena.write(address, bytes.fromhex("9090 eb00 c5f058c2 c3"))
    with pytest.raises(InstructionError) as stopped:
        cpu.run(address)
    assert stopped.value.address == address + 4


def test_a_block_with_special_instructions_runs_once(cpu: UnicornCpu, space: AddressSpace) -> None:
    address = space.mmap(0, PAGE, 7)
    space.arena.write(
        address, bytes.fromhex("48ffc0 d9e8 d9fe 48ffc0 dbe3 48ffc1 0f05")
    )  # inc rax; fsin of 1; inc rax, rcx
    cpu.take_traps(cpu.stop)
    for _ in range(2):
        cpu.set(regs.RAX, 0)
        cpu.set(regs.RCX, 0)
        assert cpu.run(address) == Stopped()
        assert (cpu.get(regs.RAX), cpu.get(regs.RCX)) == (2, 1)


def test_a_hook_forgets_code_that_was_replaced(cpu: UnicornCpu, space: AddressSpace) -> None:
    address = space.mmap(0, PAGE, 7)
    cpu.take_traps(cpu.stop)
    for code, outcome in (
        ("ec", CpuException(13)),
        ("90", Stopped()),
        ("cd20", CpuException(13, 0x102)),
        ("ec", CpuException(13)),
    ):
        space.arena.write(address, bytes.fromhex(code) + b"\x0f\x05")
        cpu.flush_code(address, PAGE)
        assert cpu.run(address) == outcome


def test_exceptions_do_not_add_up_to_a_double_fault(cpu: UnicornCpu, space: AddressSpace) -> None:
    address = space.mmap(0, PAGE, 7)
    space.arena.write(address, bytes.fromhex("31c9f7f1"))
    for _ in range(3):
        assert cpu.run(address) == CpuException(0)


def test_an_unmasked_x87_exception_leaves_the_operands(cpu: UnicornCpu, space: AddressSpace) -> None:
    address = space.mmap(0, PAGE, 7)
    # fninit; fldcw 0x37b (zero divide unmasked); fld1; fldz; fyl2x: the logarithm of zero
    space.arena.write(address, bytes.fromhex("dbe3 d92d08000000 d9e8 d9ee d9f1 0f05 7b03"))
    cpu.take_traps(cpu.stop)
    cpu.run(address)
    image = cpu.fxsave()
    control, status = image[0:2], int.from_bytes(image[2:4], "little")
    assert control == b"\x7b\x03"
    assert status & 0xB8BF == 0x8000 | 6 << 11 | 0x84
    assert image[32:42] == bytes(10)
    assert image[48:58] == bytes.fromhex("0000000000000080ff3f")


_CODE = [
    "4889c5", "488d62c4", "c4e2f0f2c2", "48b8c4c5620000000000", "c5f877", "62f17c4828c0", "0fc7f0", "660f3a0fc108",
    "f7c5c4000000", "c3", "0f1f8400c5000000", "c4e37d19c101",
]  # fmt: skip


@given(st.lists(st.sampled_from(_CODE), min_size=1, max_size=8))
@settings(deadline=None, derandomize=True)
def test_the_scan_agrees_with_a_disassembler(parts: list[str]) -> None:
    code = bytes.fromhex("".join(parts))
    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    expected = None
    for instruction in decoder.disasm(code, 0):
        name = instruction.mnemonic
        if name.startswith("v") or name == "rdrand":
            expected = instruction.address
            break
    found = [special.offset for special in find_special(code) if special.action == REFUSED]
    assert (found[0] if found else None) == expected


def test_stub_code_is_what_its_comments_say() -> None:
    image, stubs = build_stubs(0x10000, ["start", "f", "profile", "pltexit"], 0x1234, b"\x0f\x05")
    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)

    def text(address: int, size: int) -> list[str]:
        code = image[address - 0x10000 : address - 0x10000 + size]
        return [f"{i.mnemonic} {i.op_str}".strip() for i in decoder.disasm(code, address)]

    assert text(stubs.traps[0], 3) == ["syscall", "ret"]
    fast = text(stubs.tls_get_addr, stubs.tls_get_addr_slow - stubs.tls_get_addr)
    assert fast[0] == "mov rdx, qword ptr fs:[8]"
    assert fast[1] == "movabs rax, 0x1234"
    assert fast[-2:] == ["ret", "nop"]
    assert text(stubs.tls_get_addr_slow, 3) == ["syscall", "ret"]
    assert text(stubs.tlsdesc_slow, 3) == ["syscall", "ret"]
    assert text(stubs.tlsdesc_dynamic, 2) == ["push rdi", "push rsi"]


@pytest.mark.parametrize("machine", ["x86_64", "another"])
def test_blocks_are_counted_alike_in_machine_code_and_in_python(
    space: AddressSpace, monkeypatch: pytest.MonkeyPatch, machine: str
) -> None:
    monkeypatch.setattr("os.uname", lambda: SimpleNamespace(machine=machine))
    cpu = UnicornCpu(space.arena)
    address = space.mmap(0, PAGE, 7)
    space.arena.write(
        address, bytes.fromhex("b90a000000 ffc9 75fc 90 f4")
    )  # ten rounds: the first block holds one
    stops = []

    def stop() -> None:
        stops.append(cpu.get(regs.RCX))
        cpu.stop()

    cpu.take_blocks(stop)
    cpu.counter.install()
    cpu.counter.left = 4
    assert cpu.run(address) == Stopped()
    cpu.counter.left = 100
    assert cpu.run(cpu.get(regs.RIP)) == CpuException(13)
    assert stops == [7]
    assert cpu.counter.left == 100 - 8
    cpu.counter.remove()
    assert cpu.run(address) == CpuException(13)
    assert cpu.counter.left == 100 - 8
    cpu.counter.install()
    cpu.counter.left = 4
    cpu.counter.rest()
    assert not cpu.counter.installed
    assert cpu.run(address) == CpuException(13)
    cpu.counter.install()
    cpu.counter.left = 2
    assert cpu.run(address) == Stopped()
    assert stops == [7, 9]


def test_a_counter_that_rests_costs_no_translation(space: AddressSpace) -> None:
    cpu = UnicornCpu(space.arena)
    address = space.mmap(0, PAGE, 7)
    space.arena.write(address, bytes.fromhex("90 f4"))
    cpu.counter.install()
    cpu.counter.left = 100
    assert cpu.run(address) == CpuException(13)
    translated = cpu.blocks
    for _ in range(3):
        cpu.counter.rest()
        assert cpu.run(address) == CpuException(13)
        cpu.counter.install()
        assert cpu.run(address) == CpuException(13)
    assert cpu.blocks == translated


def test_contexts_go_on_in_and_out_of_a_trap_alike(space: AddressSpace) -> None:
    cpu = UnicornCpu(space.arena)
    address = space.mmap(0, PAGE, 7)
    space.arena.write(
        address, bytes.fromhex("b801000000 0f05 4801c0 0f0b")
    )  # rax = 1; syscall; rax += rax; ud2
    saved = []

    def trap() -> None:
        saved.append(cpu.save())
        saved.append(cpu.fork(0x1234000, 0x5678000))

    cpu.take_traps(trap)
    cpu.run(address)
    assert (cpu.get(regs.RAX), cpu.get(regs.RIP)) == (2, address + 10)
    outside = cpu.save()
    cpu.restore(saved[0])
    assert (cpu.get(regs.RAX), cpu.get(regs.RIP)) == (1, address + 7)
    cpu.restore(saved[1])
    child = [cpu.get(register) for register in (regs.RAX, regs.RIP, regs.RCX, regs.RSP, regs.FS_BASE)]
    assert child == [0, address + 7, address + 7, 0x1234000, 0x5678000]
    cpu.take_traps(lambda: cpu.restore(outside))
    cpu.run(address)
    assert (cpu.get(regs.RAX), cpu.get(regs.RIP)) == (2, address + 10)


def test_guard_pages_fault_until_they_are_removed(space: AddressSpace) -> None:
    address = space.mmap(0, 3 * PAGE, 3)
    space.arena.write(address, b"x" * 3 * PAGE)
    space.guard(address + PAGE, PAGE, True)
    assert len(list(space)) == 1
    space.mprotect(address, 3 * PAGE, PROT_READ)
    space.mprotect(address, 3 * PAGE, PROT_READ | PROT_WRITE)
    space.discard(address, 3 * PAGE)
    assert not space.arena.check(address + PAGE, 1, PROT_READ)
    assert space.arena.check(address + 2 * PAGE, 1, PROT_WRITE)
    moved = space.mremap(address, 3 * PAGE, 3 * PAGE, 3, address - 16 * PAGE)
    assert not space.arena.check(moved + PAGE, 1, PROT_READ)
    space.guard(moved, 3 * PAGE, False)
    assert space.arena.check(moved + PAGE, 1, PROT_WRITE)
    assert space.arena.read(moved + PAGE, 2) == b"\0\0"
    space.guard(moved, PAGE, True)
    space.munmap(moved, PAGE)
    space.mmap(moved, PAGE, 3, fixed=True)
    assert space.arena.check(moved, 1, PROT_WRITE)


def test_guard_pages_only_in_private_anonymous_memory(space: AddressSpace) -> None:
    address = space.mmap(0, PAGE, 3, shared=True)
    with pytest.raises(OSError, match="guard"):
        space.guard(address, PAGE, True)


def test_a_cpu_that_is_closed_is_refused_not_entered() -> None:
    cpu = UnicornCpu(Arena())
    cpu.close()
    for use in (cpu.note, cpu.save, lambda: cpu.get(regs.RIP), lambda: cpu.run(0x1000)):
        with pytest.raises(EmuError, match="the CPU of a program that is over is used"):
            use()
    cpu.close()


@pytest.mark.parametrize("frozen", [False, True])
def test_arenas_that_nobody_has_any_more_make_room(frozen: bool) -> None:
    """Each takes 178 GiB of addresses, of 128 TiB, till the garbage collection has found it; it does not
    look at what was frozen.
    """
    gc.disable()
    try:
        for _ in range(1000):
            arena = Arena(sizes=SIZES[-1:])
            arena.on_code = lambda address, size, arena=arena: None  # type: ignore[misc]  # a cycle
            if frozen:
                del arena
                gc.freeze()
    finally:
        gc.unfreeze()
        gc.enable()
        gc.collect()
