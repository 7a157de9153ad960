"""What uname(2) tells of the system."""

from __future__ import annotations

UNAME = ("Linux", "emu", "6.1.0", "#1 SMP PREEMPT_DYNAMIC emu", "x86_64", "(none)")
"""System, host name, release, version, machine, domain."""
