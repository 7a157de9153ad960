"""Guest code that a lazy PLT slot leads to where auditors want to hear of calls.

It saves the argument registers as `La_x86_64_regs`, asks where to go, and jumps there; where the return is to
be heard of, it calls the function instead, on a copy of the arguments that lie on the stack, and shows the
result as `La_x86_64_retval`. What auditors write there counts. As on a CPU without AVX, vectors are left
alone: only their low halves are arguments.

Source: psABI 3.2.3 and 5.2.3; glibc sysdeps/x86/bits/link.h for the two structures.
"""

from __future__ import annotations

import struct

_ENTER = (
    b"\x55\x48\x89\xe5\x48\x83\xec\x20"  # push %rbp; mov %rsp, %rbp; sub $32, %rsp
    b"\x48\x89\x45\xf8\x48\x83\xe4\xc0"  # mov %rax, -8(%rbp): the count of vector registers; and $-64, %rsp
    b"\x48\x81\xec\x00\x03\x00\x00\x48\x89\x65\xe8"  # sub $768, %rsp; mov %rsp, -24(%rbp): the registers
    b"\x48\x89\x14\x24\x4c\x89\x44\x24\x08\x4c\x89\x4c\x24\x10"  # mov %rdx, %r8, %r9 to 0, 8, 16(%rsp)
    # mov %rcx, %rsi, %rdi to 24, 32, 40(%rsp)
    b"\x48\x89\x4c\x24\x18\x48\x89\x74\x24\x20\x48\x89\x7c\x24\x28"
    b"\x48\x8b\x45\x00\x48\x89\x44\x24\x30"  # mov (%rbp), %rax; mov %rax, 48(%rsp): the caller's rbp
    # lea 24(%rbp), %rax; mov %rax, 56(%rsp): rsp at the return address
    b"\x48\x8d\x45\x18\x48\x89\x44\x24\x38"
    b"\x0f\x29\x44\x24\x40\x0f\x29\x4c\x24\x50"  # movaps %xmm0, %xmm1 to 64, 80(%rsp)
    b"\x0f\x29\x54\x24\x60\x0f\x29\x5c\x24\x70"  # movaps %xmm2, %xmm3 to 96, 112(%rsp)
    # movaps %xmm4, %xmm5 to 128, 144(%rsp)
    b"\x0f\x29\xa4\x24\x80\x00\x00\x00\x0f\x29\xac\x24\x90\x00\x00\x00"
    # movaps %xmm6, %xmm7 to 160, 176(%rsp)
    b"\x0f\x29\xb4\x24\xa0\x00\x00\x00\x0f\x29\xbc\x24\xb0\x00\x00\x00"
    # mov 8, 16, 24(%rbp) to %rdi, %rsi, %rdx: link map, index, caller
    b"\x48\x8b\x7d\x08\x48\x8b\x75\x10\x48\x8b\x55\x18"
    b"\x48\x89\xe1\x4c\x8d\x45\xf0"  # mov %rsp, %rcx; lea -16(%rbp), %r8: the frame size
    b"\x48\xb8%b\xff\xd0"  # movabs $profile, %rax; call *%rax
    b"\x49\x89\xc3\x48\x8b\x45\xf8"  # mov %rax, %r11; mov -8(%rbp), %rax
    b"\x48\x8b\x14\x24\x4c\x8b\x44\x24\x08\x4c\x8b\x4c\x24\x10"  # mov 0, 8, 16(%rsp) to %rdx, %r8, %r9
    b"\x0f\x28\x44\x24\x40\x0f\x28\x4c\x24\x50"  # movaps 64, 80(%rsp) to %xmm0, %xmm1
    b"\x0f\x28\x54\x24\x60\x0f\x28\x5c\x24\x70"  # movaps 96, 112(%rsp) to %xmm2, %xmm3
    # movaps 128, 144(%rsp) to %xmm4, %xmm5
    b"\x0f\x28\xa4\x24\x80\x00\x00\x00\x0f\x28\xac\x24\x90\x00\x00\x00"
    # movaps 160, 176(%rsp) to %xmm6, %xmm7
    b"\x0f\x28\xb4\x24\xa0\x00\x00\x00\x0f\x28\xbc\x24\xb0\x00\x00\x00"
    b"\x48\x8b\x4d\xf0\x48\x85\xc9\x79\x1b"  # mov -16(%rbp), %rcx; test %rcx, %rcx; jns call
    # mov 24, 32, 40(%rsp) to %rcx, %rsi, %rdi
    b"\x48\x8b\x4c\x24\x18\x48\x8b\x74\x24\x20\x48\x8b\x7c\x24\x28"
    b"\x48\x89\xec"  # mov %rbp, %rsp
)
_POP, _DROP = (
    b"\x5d",
    b"\x48\x8d\x64\x24\x10",
)  # pop %rbp; lea 16(%rsp), %rsp: the two words that the PLT pushed
_JUMP = b"\x41\xff\xe3"  # jmp *%r11
_CALL = (
    b"\x48\x8d\x75\x20\x48\x83\xc1\x08\x48\x83\xe1\xf0"  # lea 32(%rbp), %rsi; add $8, %rcx; and $-16, %rcx
    b"\x48\x29\xcc\x48\x89\xe7\xf3\xa4"  # sub %rcx, %rsp; mov %rsp, %rdi; rep movsb
    b"\x48\x8b\x4f\x18\x48\x8b\x77\x20\x48\x8b\x7f\x28"  # mov 24, 32, 40(%rdi) to %rcx, %rsi, %rdi
    b"\x41\xff\xd3"  # call *%r11
    b"\x48\x8b\x65\xe8\x48\x81\xec\xf0\x00\x00\x00"  # mov -24(%rbp), %rsp; sub $240, %rsp: the results
    b"\x48\x89\x04\x24\x48\x89\x54\x24\x08"  # mov %rax, %rdx to 0, 8(%rsp)
    b"\x0f\x29\x44\x24\x10\x0f\x29\x4c\x24\x20"  # movaps %xmm0, %xmm1 to 16, 32(%rsp)
    b"\xdb\x7c\x24\x30\xdb\x7c\x24\x40"  # fstpt 48(%rsp); fstpt 64(%rsp)
    b"\x48\x8b\x7d\x08\x48\x8b\x75\x10\x48\x8b\x55\xe8"  # mov 8, 16, -24(%rbp) to %rdi, %rsi, %rdx
    b"\x48\x89\xe1\x48\xb8%b\xff\xd0"  # mov %rsp, %rcx; movabs $pltexit, %rax; call *%rax
    b"\x48\x8b\x04\x24\x48\x8b\x54\x24\x08"  # mov 0, 8(%rsp) to %rax, %rdx
    b"\x0f\x28\x44\x24\x10\x0f\x28\x4c\x24\x20"  # movaps 16, 32(%rsp) to %xmm0, %xmm1
    b"\xdb\x6c\x24\x40\xdb\x6c\x24\x30"  # fldt 64(%rsp); fldt 48(%rsp)
    b"\x48\x89\xec"  # mov %rbp, %rsp
)
_RET = b"\xc3"
_RBP, _RSP, _RA = 6, 7, 16


def profile_code(profile: int, pltexit: int) -> tuple[bytes, bytes, bytes]:
    """Return the code, which calls the two hosted functions, its CFA instructions,
    and those that hold when it is entered.

    Two words lie below the return address then, as a PLT leaves them.
    """
    enter, call = _ENTER % struct.pack("<Q", profile), _CALL % struct.pack("<Q", pltexit)
    code = enter + _POP + _DROP + _JUMP + call + _POP + _DROP + _RET
    popped = bytes((0x41, 0x0C, _RSP, 24, 0xC0 | _RBP, 0x40 | len(_DROP), 0x0E, 8))
    rules = (
        bytes((0x41, 0x0E, 32, 0x80 | _RBP, 4, 0x43, 0x0D, _RBP, 0x03))  # pushed, then the CFA is rbp + 32
        + struct.pack("<H", len(enter) - 4)
        + b"\x0a" + popped  # remember, for the call
        + bytes((0x40 | len(_JUMP), 0x0B, 0x03)) + struct.pack("<H", len(call))
        + popped
    )  # fmt: skip
    return code, rules, bytes((0x0C, _RSP, 24, 0x80 | _RA, 1))
