"""Searching for the schedule that breaks a program: `emu explore`."""
