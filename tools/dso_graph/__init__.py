"""Graphs of shared objects, described in a line, built by GCC's tools, run natively and in the emulator."""
