"""Register numbers of x86-64 as Unicorn names them (unicorn/x86_const.py), for the few that we use."""

from __future__ import annotations

RAX, RBP, RBX, RCX, RDI, RDX, RIP, RSI, RSP = 35, 36, 37, 38, 39, 40, 41, 43, 44
R8, R9, R10, R11, R12, R13, R14, R15 = 106, 107, 108, 109, 110, 111, 112, 113
RFLAGS, FS_BASE, GS_BASE = 253, 250, 251
FPSW, FPCW, FPTAG, MXCSR = 31, 246, 247, 249
FP0, XMM0 = 82, 122
DS, ES, FS, GS = 17, 28, 32, 33

GPRS = (RAX, RBX, RCX, RDX, RSI, RDI, RBP, RSP, R8, R9, R10, R11, R12, R13, R14, R15, RIP, RFLAGS)
"""Order in which `Cpu.gprs` gives the registers."""

NAMES = {
    RAX: "rax", RBX: "rbx", RCX: "rcx", RDX: "rdx", RSI: "rsi", RDI: "rdi", RBP: "rbp", RSP: "rsp", R8: "r8", R9: "r9",
    R10: "r10", R11: "r11", R12: "r12", R13: "r13", R14: "r14", R15: "r15", RIP: "rip", RFLAGS: "rflags",
    FS_BASE: "fs_base", GS_BASE: "gs_base",
}  # fmt: skip
