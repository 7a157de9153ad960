"""The Linux personality: tasks, clock, files, memory calls, signals, exec, and the table of system calls.

It knows no loader. May import `core`, `elf` and `machine`; the loader (`rtld`) is a sibling that it does not
know.
"""
