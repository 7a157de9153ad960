"""The dynamic linker: a file for each of glibc's elf/dl-*.c.

Knows no CPU and no syscalls; where guest code must run, it yields effects.

May import `core` and `elf` only; memory and mappings come in through the protocols of `emu.core.types`.
"""
