"""A dynamic linker that people can read, run and question; emu/README.md tells its design."""

__version__ = "0.1.0"
