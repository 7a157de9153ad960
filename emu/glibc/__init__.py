"""The private contract with libc: layouts per version, the mirrors of the
loader's state, the functions hosted for it.

May import `core`, `elf`, `machine`, `rtld` and `kernel`.
"""
