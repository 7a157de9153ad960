"""The command `emu`: one file per sub-command, imported when that one is asked for.

May import every other room.
"""

import gc

# what is imported stays: `emu.cli.group` lets the collector begin once a command has what it needs
gc.disable()
