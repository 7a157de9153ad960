"""Guest code that calls any C function by a block:
the function, its arguments by register class, room for the results.

Both callers surround it with a frame of their own: `call_page.py` with one that exceptions can leave,
`host_program.py` with a plain one.

Source: psABI 3.2.3 (parameter passing).
"""

from __future__ import annotations

CALL_BY_BLOCK = (
    b"\x48\x8b\x4b\x08"  # mov 8(%rbx), %rcx: words for the stack
    b"\x48\x8d\x41\x01\x48\x83\xe0\xfe\x48\xc1\xe0\x03\x48\x29\xc4"  # room for them, aligned to 16 bytes
    b"\x48\x8b\x73\x10\x48\x89\xe7\xf3\x48\xa5"  # mov 16(%rbx), %rsi; mov %rsp, %rdi; rep movsq
    # movsd 24..48(%rbx), %xmm0..3
    b"\xf2\x0f\x10\x43\x18\xf2\x0f\x10\x4b\x20\xf2\x0f\x10\x53\x28\xf2\x0f\x10\x5b\x30"
    # movsd 56..80(%rbx), %xmm4..7
    b"\xf2\x0f\x10\x63\x38\xf2\x0f\x10\x6b\x40\xf2\x0f\x10\x73\x48\xf2\x0f\x10\x7b\x50"
    b"\x48\x8b\x7b\x58\x48\x8b\x73\x60\x48\x8b\x53\x68"  # mov 88..104(%rbx), %rdi, %rsi, %rdx
    b"\x48\x8b\x4b\x70\x4c\x8b\x43\x78\x4c\x8b\x8b\x80\x00\x00\x00"  # mov 112..128(%rbx), %rcx, %r8, %r9
    b"\xb8\x08\x00\x00\x00"  # mov $8, %eax: vector registers used, for a variadic function
    b"\xff\x13"  # call *(%rbx)
    # mov %rax, 136(%rbx); movsd %xmm0, 144(%rbx)
    b"\x48\x89\x83\x88\x00\x00\x00\xf2\x0f\x11\x83\x90\x00\x00\x00"
)
"""Takes the block's address in %rbx; %rsp is free to move down."""
