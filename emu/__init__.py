"""A dynamic linker that people can read, run and question. See README.md for the use, emu/README.md for the design."""

__version__ = "0.1.0"
