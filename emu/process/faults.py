"""From what the CPU met to the signal that Linux would send, and to a sentence for people.

Source: Linux arch/x86/mm/fault.c, arch/x86/kernel/traps.c; sigaction(2) for si_code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from emu.machine import regs
from emu.machine.arena import PAGE_SIZE, Arena
from emu.machine.cpu import CpuException, PageFault

if TYPE_CHECKING:
    from emu.kernel.task import Task
    from emu.machine.cpu import Cpu
    from emu.process.process import Process

SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV = 4, 5, 7, 8, 11
_NAMES = {SIGILL: "SIGILL", SIGTRAP: "SIGTRAP", SIGBUS: "SIGBUS", SIGFPE: "SIGFPE", SIGSEGV: "SIGSEGV"}
_SI_KERNEL = 0x80
_PF_PRESENT, _PF_WRITE, _PF_USER, _PF_FETCH = 1, 2, 4, 16
_EXCEPTIONS = {
    0: (SIGFPE, 1, "integer division by zero or overflow"),
    1: (SIGTRAP, 1, "single step"),
    3: (SIGTRAP, _SI_KERNEL, "breakpoint instruction"),
    4: (SIGSEGV, _SI_KERNEL, "overflow trap"),
    5: (SIGSEGV, _SI_KERNEL, "bound range exceeded"),
    6: (SIGILL, 2, "invalid instruction"),
    13: (SIGSEGV, _SI_KERNEL, "privileged instruction"),
    16: (SIGFPE, 7, "x87 floating-point exception"),
    17: (SIGBUS, 1, "misaligned access"),
    19: (SIGFPE, 7, "SSE floating-point exception"),
}
_CANONICAL = 1 << 47


class SignalFacts(NamedTuple):
    """A signal about to be raised: number, si_code, si_addr, trap number and error code of the sigcontext, for whom and why."""

    signo: int
    code: int
    address: int
    trapno: int
    error: int
    name: str
    access: str
    pc: int


def to_signal(outcome: PageFault | CpuException, cpu: Cpu, arena: Arena) -> SignalFacts:
    """Return the signal for a fault, with the exact address that was touched."""
    pc = cpu.get(regs.RIP)
    if isinstance(outcome, CpuException):
        signo, code, why = _EXCEPTIONS.get(
            outcome.vector, (SIGSEGV, _SI_KERNEL, f"exception {outcome.vector}")
        )
        address = pc if code != _SI_KERNEL else 0
        return SignalFacts(signo, code, address, outcome.vector, outcome.error, _NAMES[signo], why, pc)
    address = fault_address(outcome, cpu, arena, pc)
    if not -_CANONICAL <= _signed(address) < _CANONICAL:
        return SignalFacts(SIGSEGV, _SI_KERNEL, 0, 13, 0, "SIGSEGV", outcome.access, pc)
    error = _PF_USER | (
        _PF_WRITE if outcome.access == "write" else _PF_FETCH if outcome.access == "execute" else 0
    )
    if outcome.bus:
        return SignalFacts(SIGBUS, 2, address, 14, error, "SIGBUS", outcome.access, pc)
    code = 2 if outcome.mapped else 1
    return SignalFacts(
        SIGSEGV,
        code,
        address,
        14,
        error | (_PF_PRESENT if outcome.mapped else 0),
        "SIGSEGV",
        outcome.access,
        pc,
    )


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def fault_address(fault: PageFault, cpu: Cpu, arena: Arena, pc: int) -> int:
    """Return the first byte of the faulting page that the instruction touched: Unicorn tells only the page.

    The operand's address is computed from the instruction; the address of an access that straddles two pages is the second page's start.
    """
    if fault.access == "execute":
        return pc if pc & -PAGE_SIZE == fault.page else fault.page
    for address in _operands(cpu, arena, pc):
        if address & -PAGE_SIZE == fault.page:
            return address
        if fault.page - PAGE_SIZE <= address < fault.page:
            return fault.page
    return fault.page


def _operands(cpu: Cpu, arena: Arena, pc: int) -> list[int]:
    """Return the addresses of the memory operands of the instruction at `pc`, explicit and implied."""
    import capstone  # a well-kept decoder, wanted only when something has gone wrong
    from capstone import x86_const as x86

    size = min(15, PAGE_SIZE - (pc & 0xFFF)) if not arena.check(pc, 15, 0) else 15
    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    decoder.detail = True
    instruction = next(decoder.disasm(arena.read(pc, size), pc, 1), None)
    if instruction is None:
        return []
    by_name = {name: register for register, name in regs.NAMES.items()}
    mask = (1 << 64) - 1

    def value(register: int) -> int:
        name = instruction.reg_name(register)
        if name == "rip":
            return int(pc + instruction.size)
        if name in by_name:
            return cpu.get(by_name[name])
        wide = {"e": "r"}.get(name[0], "") + name[1:] if name else ""
        return cpu.get(by_name[wide]) & 0xFFFFFFFF if wide in by_name else 0

    found = []
    for operand in instruction.operands:
        if operand.type != x86.X86_OP_MEM:
            continue
        memory = operand.mem
        address = memory.disp
        address += value(memory.base) if memory.base else 0
        address += value(memory.index) * memory.scale if memory.index else 0
        segment = instruction.reg_name(memory.segment) if memory.segment else ""
        address += (
            cpu.get({"fs": regs.FS_BASE, "gs": regs.GS_BASE}[segment]) if segment in ("fs", "gs") else 0
        )
        found.append(address & mask)
    rsp = cpu.get(regs.RSP)
    name = instruction.mnemonic
    if name in ("push", "call", "enter", "pushfq"):
        found.append(rsp - 8 & mask)
    elif name in ("pop", "ret", "leave", "popfq"):
        found.append(rsp if name != "leave" else cpu.get(regs.RBP))
    if "movs" in name or "stos" in name or "lods" in name or "scas" in name or "cmps" in name:
        found += [cpu.get(regs.RDI), cpu.get(regs.RSI)]
    return found


def _overflows(process: Process, address: int) -> bool:
    """Whether `address` lies in the guard below the stack of the running thread, in whose block its TCB lies too.

    Source: glibc nptl/allocatestack.c: guard, stack, static TLS and TCB are one mapping.
    """
    guard = process.space.find(address)
    if guard is None or guard.prot:
        return False
    stack = process.space.find(guard.end)
    return stack is not None and stack.start <= process.thread_pointer() < stack.end


def describe_fault(
    signal: SignalFacts, outcome: PageFault | CpuException, process: Process, task: Task
) -> str:
    """Return what happened in the user's terms: access, address, where, and what the address is if it is anything."""
    where = process.symbols.where(signal.pc)
    if isinstance(outcome, CpuException):
        return f"{signal.access} at {where}"
    area = process.space.find(signal.address)
    target = f"{signal.address:#x}"
    if signal.code == _SI_KERNEL:
        what = "a non-canonical address"
    elif outcome.bus:
        what = f"{target}, past the end of the file {area.name if area else ''}".rstrip()
    elif signal.address < PAGE_SIZE:
        what = f"{target} (a null pointer)"
    elif task is not process.task and _overflows(process, signal.address):
        what = f"{target} (the guard of its stack: stack overflow in thread {task.tid})"
    elif area is not None and area.name == "[stack]" or process.symbols.near_stack(signal.address):
        what = f"{target} (the stack's end: stack overflow?)" if area is None else f"{target} (the stack)"
    elif area is not None:
        mode = "".join(c if area.prot & bit else "-" for c, bit in (("r", 1), ("w", 2), ("x", 4)))
        what = f"{target}, which is mapped {mode} ({process.symbols.area_name(signal.address)})"
    elif (gone := process.symbols.departed(signal.address)) is not None:
        what = f"{target}, which was {gone}"
    else:
        what = f"{target}, which is not mapped"
    verb = {"read": "read of", "write": "write to", "execute": "jump to"}[outcome.access]
    return f"{verb} {what}" if outcome.access == "execute" else f"{verb} {what} at {where}"
