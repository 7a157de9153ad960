"""Renderers over events: text for people, JSON Lines for programs, and the schema of the latter.

May import everything below `emu.cli`; imports `emu.core` only. Nothing here decides anything.
"""
