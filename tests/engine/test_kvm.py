"""The KVM engine by itself: small pieces of code over an arena.

One piece: what one engine has to itself.
"""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from emu.core.errors import EmuError
from emu.machine import regs
from emu.machine.arena import MAPPED, PAGE_SIZE, PROT_EXEC, PROT_READ, PROT_WRITE, Arena, physical
from emu.machine.engine import CpuException, PageFault, Stopped
from emu.machine.kvm import ring0
from emu.machine.kvm.beat import KICK
from emu.machine.kvm.cpu import KvmCpu
from emu.machine.kvm.selftest import self_test
from tests.engine.kvm import needs_kvm

pytestmark = needs_kvm

CODE, DATA = 0x40_0000, 0x50_0000
TRAP = b"\x0f\x05"


@pytest.fixture
def cpu() -> Iterator[KvmCpu]:
    cpu = KvmCpu(Arena())
    cpu.take_traps(cpu.stop)
    cpu.arena.set_perms(CODE, 2 * PAGE_SIZE, PROT_READ | PROT_EXEC | MAPPED)
    cpu.arena.set_perms(DATA, 2 * PAGE_SIZE, PROT_READ | PROT_WRITE | MAPPED)
    cpu.set(regs.RSP, DATA + PAGE_SIZE)
    cpu.set(regs.RDI, DATA)
    yield cpu
    cpu.close()


def run(cpu: KvmCpu, code: bytes, at: int = CODE) -> object:
    cpu.arena.write(at, code)
    return cpu.run(at)


def allow(cpu: KvmCpu, page: int, perms: int) -> None:
    cpu.range_changes(page, page + PAGE_SIZE, bool(perms & PROT_EXEC))
    cpu.arena.set_perms(page, PAGE_SIZE, perms)


def test_the_self_test_passes() -> None:
    result = self_test()
    assert [check for check in result.checks if check.fault] == []
    assert result.passed
    assert result.trap > 0


def test_a_fault_is_exact(cpu: KvmCpu) -> None:
    assert run(cpu, bytes.fromhex("90 48 8b 87 ff 1f 00 00")) == PageFault(  # nop; mov 0x1fff(%rdi), %rax
        DATA + 2 * PAGE_SIZE, "read", False, False, DATA + 2 * PAGE_SIZE
    )
    assert cpu.get(regs.RIP) == CODE + 1


def test_rights_that_come_and_go_are_seen_at_once(cpu: KvmCpu) -> None:
    store, load = b"\x48\x89\x07" + TRAP, b"\x48\x8b\x07" + TRAP
    for _ in range(50):
        allow(cpu, DATA, PROT_READ | PROT_WRITE | MAPPED)
        assert isinstance(run(cpu, store), Stopped)
        allow(cpu, DATA, PROT_READ | MAPPED)
        assert isinstance(run(cpu, load), Stopped)
        assert run(cpu, store) == PageFault(DATA, "write", True, False, DATA)
        allow(cpu, DATA, MAPPED)
        assert run(cpu, load) == PageFault(DATA, "read", True, False, DATA)
        allow(cpu, DATA, 0)
        assert run(cpu, load) == PageFault(DATA, "read", False, False, DATA)


def test_code_may_be_written_or_run(cpu: KvmCpu) -> None:
    for _ in range(20):
        allow(cpu, DATA, PROT_READ | PROT_EXEC | MAPPED)
        assert isinstance(run(cpu, TRAP, DATA), Stopped)
        allow(cpu, DATA, PROT_READ | PROT_WRITE | MAPPED)
        assert run(cpu, TRAP, DATA) == PageFault(DATA, "execute", True, False, DATA)


def test_more_changes_than_are_told_one_by_one(cpu: KvmCpu) -> None:
    pages = [DATA + PAGE_SIZE * number for number in range(64)]
    for page in pages:
        allow(cpu, page, PROT_READ | PROT_WRITE | MAPPED)
        cpu.set(regs.RDI, page)
        assert isinstance(run(cpu, b"\x48\x89\x07" + TRAP), Stopped)
    for page in pages:
        allow(cpu, page, PROT_READ | MAPPED)
    for page in pages:
        cpu.set(regs.RDI, page)
        assert isinstance(run(cpu, b"\x48\x89\x07" + TRAP), PageFault)


def test_permissions_replaced_behind_its_back(cpu: KvmCpu) -> None:
    assert isinstance(run(cpu, b"\x48\x89\x07" + TRAP), Stopped)
    cpu.arena.set_perms(DATA, PAGE_SIZE, PROT_READ | MAPPED)
    cpu.permissions_replaced()
    assert isinstance(cpu.run(CODE), PageFault)


def test_the_tables_may_run_out(cpu: KvmCpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emu.machine.kvm.pages.PRIVATE_SIZE", 24 * PAGE_SIZE)
    for number in range(64):
        page = 0x6000_0000 + (number << 21)
        cpu.arena.set_perms(page, PAGE_SIZE, PROT_READ | PROT_WRITE | MAPPED)
        cpu.set(regs.RDI, page)
        assert isinstance(run(cpu, b"\x48\x89\x07" + TRAP), Stopped)


@pytest.mark.parametrize("address", [0x8000_0000_0000, 0xDEAD_BEEF_0000_0000, 0xFFFF_FFFF_FFFF_F000])
def test_going_on_at_no_address(cpu: KvmCpu, address: int) -> None:
    assert isinstance(cpu.run(address), (CpuException, PageFault))
    assert cpu.get(regs.RIP) == address
    assert isinstance(run(cpu, TRAP), Stopped)


def test_ring_0_is_out_of_reach(cpu: KvmCpu) -> None:
    for page in range(16):
        place = ring0.STUB + PAGE_SIZE * page
        for code in (b"\x48\x8b\x07", b"\x48\x89\x07", b"\xff\xe7"):  # load, store, jmp *%rdi
            cpu.set(regs.RDI, place)
            assert isinstance(run(cpu, code), (PageFault, CpuException))
    for privileged in ("0f01f8", "0f22d8", "0f20c0", "0f30", "0f32", "f4", "0f00d8", "48cf"):
        cpu.set(regs.RSP, DATA)
        cpu.arena.write(DATA, bytes(64))
        assert isinstance(run(cpu, bytes.fromhex(privileged)), (CpuException, PageFault)), privileged


def test_a_jump_to_where_system_calls_lead_is_none(cpu: KvmCpu) -> None:
    cpu.set(regs.RDI, ring0.NO_CODE)
    cpu.set(regs.RCX, CODE)
    assert isinstance(run(cpu, b"\xff\xe7"), PageFault)


def test_only_traps_of_ours_are_traps(cpu: KvmCpu) -> None:
    assert run(cpu, b"\x0f\x0b") == CpuException(6)
    cpu.know_traps(lambda address: address == CODE)
    assert isinstance(run(cpu, b"\x0f\x0b"), Stopped)
    assert run(cpu, b"\x90\x0f\x0b") == CpuException(6)


def test_a_stop_from_another_thread(cpu: KvmCpu) -> None:
    over = threading.Event()

    def keep_stopping() -> None:
        while not over.wait(0.001):  # one that comes before the run has begun is none
            cpu.stop()

    stopper = threading.Thread(target=keep_stopping)
    stopper.start()
    try:
        for _ in range(20):
            assert isinstance(run(cpu, b"\xeb\xfe"), Stopped)
    finally:
        over.set()
        stopper.join()


def test_signals_at_any_place_lose_nothing(cpu: KvmCpu) -> None:
    """Signals hit the way in, the guest, and exceptions on their way;
    a sum that traps and faults all the time stays right.
    """
    me, over, sent = threading.get_ident(), threading.Event(), [0]

    def shoot() -> None:
        while not over.is_set():
            signal.pthread_kill(me, KICK)
            sent[0] += 1
            time.sleep(0.0003)

    count = 0

    def trap() -> None:
        nonlocal count
        count += 1
        if count % 16 == 0:
            allow(cpu, DATA, PROT_READ | MAPPED)
            allow(cpu, DATA, PROT_READ | PROT_WRITE | MAPPED)
        if count == 600:
            cpu.stop()

    cpu.take_traps(trap)
    cpu.set(regs.RBX, 0)
    cpu.arena.write(DATA, bytes(8))
    shooter = threading.Thread(target=shoot)
    shooter.start()
    try:
        # 1: inc %rbx; incq (%rdi); mov $2000, %edx; 2: dec %edx; jnz 2b; syscall; jmp 1b
        outcome = run(cpu, bytes.fromhex("48ffc3 48ff07 bad0070000 ffca 75fc 0f05 ebed"))
    finally:
        over.set()
        shooter.join()
    assert isinstance(outcome, Stopped)
    assert cpu.get(regs.RBX) == 600
    assert cpu.arena.read_u64(DATA) == 600
    assert sent[0] > 20


def test_hooks_are_met_and_not_seen(cpu: KvmCpu) -> None:
    met = []
    # nop; mov (%rdi), %al: reads the hooked byte as data; syscall
    cpu.arena.write(CODE, bytes.fromhex("90 8a07") + TRAP)
    cpu.hook_address(CODE, lambda: met.append(cpu.get(regs.RIP)))
    cpu.hook_address(CODE + 3, lambda: met.append(cpu.get(regs.RIP)))
    for _ in range(3):
        assert isinstance(cpu.run(CODE), Stopped)
    assert met == [CODE, CODE + 3] * 3
    assert cpu.arena.read(CODE, 3) == bytes.fromhex("90 8a07")
    assert not cpu.get(regs.RFLAGS) & 0x100


def test_a_hook_on_pushf_shows_no_trap_flag(cpu: KvmCpu) -> None:
    cpu.arena.write(CODE, bytes.fromhex("9c 58") + TRAP)  # pushf; pop %rax
    cpu.hook_address(CODE, lambda: None)
    cpu.run(CODE)
    assert not cpu.get(regs.RAX) & 0x100


def test_a_hook_on_an_instruction_that_faults(cpu: KvmCpu) -> None:
    met = []
    cpu.arena.write(CODE, bytes.fromhex("488b07") + TRAP)
    cpu.hook_address(CODE, lambda: met.append(1))
    allow(cpu, DATA, MAPPED)
    assert isinstance(cpu.run(CODE), PageFault)
    allow(cpu, DATA, PROT_READ | MAPPED)
    assert isinstance(cpu.run(CODE), Stopped)
    assert met == [1, 1]


def test_a_hook_on_the_guests_own_breakpoint(cpu: KvmCpu) -> None:
    met = []
    cpu.arena.write(CODE, b"\xcc")
    cpu.hook_address(CODE, lambda: met.append(1))
    assert cpu.run(CODE) == CpuException(3)
    assert cpu.get(regs.RIP) == CODE + 1
    assert met == [1]


def test_a_hook_follows_code_that_is_written_over(cpu: KvmCpu) -> None:
    met = []
    cpu.arena.write(CODE, b"\x31\xc0" + TRAP)  # xor %eax, %eax
    cpu.hook_address(CODE, lambda: met.append(1))
    cpu.run(CODE)
    cpu.arena.write(CODE, b"\xb0\x07" + TRAP)  # mov $7, %al
    cpu.flush_code(CODE, 2)
    cpu.run(CODE)
    assert (cpu.get(regs.RAX) & 0xFF, met) == (7, [1, 1])


def test_a_hook_in_a_page_that_the_guest_writes(cpu: KvmCpu) -> None:
    met = []
    allow(cpu, DATA, PROT_READ | PROT_WRITE | PROT_EXEC | MAPPED)
    # at DATA: movb $9, 12(%rdi): the operand of what comes; nop; nop; ...; mov $1, %al; syscall
    cpu.arena.write(DATA, bytes.fromhex("c6470c09 90 90 90 90 90 90 90 b001") + TRAP)
    cpu.hook_address(DATA + 11, lambda: met.append(cpu.get(regs.RIP)))
    for _ in range(2):
        cpu.set(regs.RDI, DATA)
        assert isinstance(cpu.run(DATA), Stopped)
        assert cpu.get(regs.RAX) & 0xFF == 9
    assert met == [DATA + 11] * 2
    assert cpu.arena.read(DATA + 11, 2) == b"\xb0\x09"


def test_hooks_outlive_a_change_of_all_rights(cpu: KvmCpu) -> None:
    met = []
    cpu.arena.write(CODE, b"\x90" + TRAP)
    cpu.hook_address(CODE, lambda: met.append(1))
    for _ in range(3):
        assert isinstance(cpu.run(CODE), Stopped)
        cpu.permissions_replaced()
    assert met == [1, 1, 1]


def test_memory_is_counted_when_it_is_touched(cpu: KvmCpu) -> None:
    cpu.arena.budget.limit = cpu.arena.budget.used + 40 * PAGE_SIZE
    cpu.arena.set_perms(0x6000_0000, 256 * PAGE_SIZE, PROT_READ | PROT_WRITE | MAPPED)
    for number in range(256):
        cpu.set(regs.RDI, 0x6000_0000 + number * PAGE_SIZE)
        outcome = run(cpu, b"\x48\x89\x07" + TRAP)
        if isinstance(outcome, PageFault):
            break
    assert isinstance(outcome, PageFault)
    assert outcome.exhausted
    assert 30 <= number <= 40
    assert cpu.arena.budget.room() == 0


def test_a_jump_out_of_a_hook(cpu: KvmCpu) -> None:
    cpu.arena.write(CODE, b"\x0f\x0b" + b"\x90" + TRAP)
    cpu.hook_address(CODE, lambda: cpu.jump(CODE + 2))
    assert isinstance(cpu.run(CODE), Stopped)


def test_watched_memory_and_code(cpu: KvmCpu) -> None:
    seen: list[tuple[int, bool]] = []
    ran: list[int] = []
    cpu.memory_watch().add(DATA + 8, DATA + 16, lambda address, write: seen.append((address, write)))
    cpu.watch_code(CODE + 3, CODE + 7, ran.append)
    # mov (%rdi), %rax; mov 8(%rdi), %rax; mov %rax, 8(%rdi); mov %rax, 16(%rdi)
    code = bytes.fromhex("488b07 488b4708 48894708 48894710") + TRAP
    for _ in range(2):
        assert isinstance(run(cpu, code), Stopped)
    assert seen == [(DATA + 8, False), (DATA + 8, True)] * 2
    assert ran == [CODE + 3] * 2


def test_guards(cpu: KvmCpu) -> None:
    guards = cpu.page_guards()
    code: list[int] = []
    data: list[tuple[int, int, bool]] = []
    guards.guard_code(CODE, CODE + PAGE_SIZE, code.append)
    guards.guard_data(DATA, lambda address, size, write: data.append((address, size, write)))
    text = bytes.fromhex("8b07 66894704") + TRAP  # mov (%rdi), %eax; mov %ax, 4(%rdi)
    run(cpu, text)
    run(cpu, text)
    assert code == [CODE]
    assert data == [(DATA, 4, False), (DATA + 4, 2, True)] * 2
    guards.watch_again()
    guards.release_data(DATA)
    run(cpu, text)
    assert (code, len(data)) == ([CODE, CODE], 4)
    guards.release_code(CODE)
    guards.watch_again()
    run(cpu, text)
    assert code == [CODE, CODE]


def test_contexts_hold_all_registers(cpu: KvmCpu) -> None:
    image = bytearray(cpu.fxsave())
    image[160:176] = bytes(range(16))
    cpu.fxrstor(bytes(image))
    cpu.set(regs.FS_BASE, 0x1234_5000)
    cpu.set(regs.R15, 99)
    here = cpu.save()
    cpu.reset_fpu()
    cpu.set(regs.FS_BASE, 0)
    cpu.set(regs.R15, 0)
    cpu.restore(here)
    assert cpu.fxsave()[160:176] == bytes(range(16))
    assert (cpu.get(regs.FS_BASE), cpu.get(regs.R15)) == (0x1234_5000, 99)
    # mov %fs:0x10, %rax, at its base plus 16
    cpu.set(regs.FS_BASE, DATA)
    cpu.arena.write_u64(DATA + 16, 77)
    run(cpu, bytes.fromhex("64488b042510000000") + TRAP)
    assert cpu.get(regs.RAX) == 77


def test_a_thread_that_never_traps_is_stopped_by_the_beat(cpu: KvmCpu) -> None:
    cpu.take_blocks(cpu.stop)
    cpu.counter.left = 1 << 40
    cpu.counter.install()
    assert isinstance(run(cpu, b"\xeb\xfe"), Stopped)
    assert cpu.counter.forced == 1
    cpu.counter.remove()


def test_registers_exchanged_where_a_signal_has_stopped_the_guest(cpu: KvmCpu) -> None:
    """A thread is stopped in the middle of computing, another one runs, and the first goes on:
    each has its own bases and vectors.
    """
    cpu.arena.write_u64(DATA + 16, 1)
    cpu.arena.write_u64(DATA + PAGE_SIZE + 16, 2)
    # 1: mov %fs:16, %rax; cmp %rbx, %rax; je 1b; syscall
    code = bytes.fromhex("64488b042510000000 4839d8 74f2") + TRAP
    cpu.take_blocks(cpu.stop)
    cpu.counter.left = 1 << 40
    cpu.counter.install()
    contexts = []
    for number in (1, 2):
        cpu.set(regs.FS_BASE, DATA + PAGE_SIZE * (number - 1))
        cpu.set(regs.RBX, number)
        assert isinstance(run(cpu, code), Stopped)
        contexts.append(cpu.save())
    for _ in range(2):
        for number, context in enumerate(contexts, 1):
            cpu.restore(context)
            assert isinstance(cpu.run(cpu.get(regs.RIP)), Stopped)
            assert (cpu.get(regs.RBX), cpu.get(regs.RAX)) == (number, number)
            assert cpu.counter.forced
            assert CODE <= cpu.get(regs.RIP) < CODE + len(code) - 2
            contexts[number - 1] = cpu.save()
    cpu.counter.remove()


def test_traps_are_the_clock(cpu: KvmCpu) -> None:
    cpu.counter.install()
    cpu.counter.left = 1000
    ended = []

    def over() -> None:
        ended.append(1)
        cpu.stop()

    cpu.take_traps(lambda: None)
    cpu.take_blocks(over)
    run(cpu, TRAP + b"\xeb\xfc")
    cpu.counter.remove()
    assert (ended, cpu.counter.left, cpu.counter.forced) == ([1], 0, 0)


def test_after_fork_the_child_is_refused(cpu: KvmCpu) -> None:
    assert isinstance(run(cpu, TRAP), Stopped)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            cpu.run(CODE)
            said = "it ran"
        except EmuError as error:
            said = str(error)
        os.write(writer, said.encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert "os.fork" in os.read(reader, 1000).decode()
    os.close(reader)
    os.close(writer)
    assert isinstance(cpu.run(CODE), Stopped)


def test_descriptors_are_given_back() -> None:
    def count() -> int:
        gc.unfreeze()  # what other tests have left goes first, however many passes it takes
        while gc.collect():
            pass
        files = [os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
        return sum("kvm" in os.readlink(file) for file in files if os.path.lexists(file))

    before = count()
    for _ in range(5):
        KvmCpu(Arena()).close()
    assert count() == before
    cpu = KvmCpu(Arena())
    assert count() > before
    del cpu
    assert count() == before


def test_the_arena_beyond_one_slot(cpu: KvmCpu) -> None:
    for page in (0x1000_0000, 0x5555_5555_4000, 0x7FFF_FFFF_E000, 0x7FFF_0000_0000):
        cpu.arena.set_perms(page, PAGE_SIZE, PROT_READ | PROT_WRITE | MAPPED)
        cpu.set(regs.RDI, page)
        cpu.set(regs.RAX, page)
        assert isinstance(run(cpu, b"\x48\x89\x07" + TRAP), Stopped)
        assert cpu.arena.words[physical(page) >> 3] == page
