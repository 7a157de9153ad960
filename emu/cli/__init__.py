"""The command `emu`: one file per sub-command, imported when that one is asked for.

May import every other room.
"""
