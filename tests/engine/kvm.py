"""Where tests of KVM run."""

from __future__ import annotations

import pytest

from emu.machine.kvm.vm import why_not

#: What keeps KVM from being used here, "" if nothing does.
MISSING = why_not()

needs_kvm = pytest.mark.skipif(bool(MISSING), reason=f"KVM: {MISSING}")

#: Both engines, for tests that hold for each.
ENGINES = ["unicorn", pytest.param("kvm", marks=needs_kvm)]
