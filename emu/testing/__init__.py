"""Assertions about guest processes, and a pytest plugin that gives tests such
processes and runs them under many schedules.

May import everything but `cli`. Only `plugin` imports pytest, which loads it by an entry point; importing
this package loads nothing of `emu.api`, so that a session of pytest that has no use for it does not pay.
"""

from emu.testing.assertions import assert_dtor_order, assert_loaded, assert_no_findings, assert_unloaded
from emu.testing.factories import LibraryFactory, ProgramFactory

__all__ = [
    "LibraryFactory", "ProgramFactory", "assert_dtor_order", "assert_loaded", "assert_no_findings", "assert_unloaded",
]  # fmt: skip
