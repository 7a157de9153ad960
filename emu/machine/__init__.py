"""What executes: the CPU, the guest's memory and its page permissions, traps.

May import `core` and `elf` only.
"""
