"""What a file says: the reader of x86-64 ELF objects.

Headers, segments, the dynamic section, symbols and their hash tables, versions, relocations, notes, and on
demand DWARF lines, inlined functions and unwind rules. It reads bytes; it knows no CPU, no guest memory and
no linking rules. `builder` goes the other way and writes a small object.

May import: `emu.core`. Only what reads DWARF imports pyelftools (`dwarf`, `units`, `inlined`, `debug_file`,
`cfi`, `expression`, `pyelf`), only `demangle` imports cxxfilt, both inside functions. Nothing is re-exported
here, so that a start-up pays for the modules that it uses.
"""
