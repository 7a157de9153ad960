"""numpy and its OpenBLAS, from a wheel: kernels for the host's CPU, chosen by
CPUID, give what they give natively.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.engine.kvm import needs_kvm

_CODE = """
import numpy as np
a = np.arange(90000, dtype=np.float64).reshape(300, 300) / 1e4
print((a @ a.T).sum(), np.linalg.det(np.eye(50) * 2 + 0.01), np.fft.fft(a[0]).real.sum())
print(np.linalg.solve(np.eye(200) * 3 + np.ones((200, 200)) * 0.01, np.arange(200.0))[:5])
b = np.arange(100000, dtype=np.float32)
print(np.sqrt(b).sum(), np.exp(-b / 1e5).sum(), np.sort(np.sin(b))[::20000], (b.astype(np.int32) * 7 % 13).sum())
"""


@needs_kvm
@pytest.mark.needs("numpy")
def test_numpy_is_as_native() -> None:
    command = [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{_CODE}"]
    env = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    native = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    emu = [sys.executable, "-m", "emu", "run", "--engine", "kvm"]
    done = subprocess.run([*emu, *command], capture_output=True, text=True, check=False, timeout=180, env=env)
    assert (done.stdout, done.stderr) == (native.stdout, "")
    assert native.stdout.count("\n") == 3
