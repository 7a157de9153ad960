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
_KERNELS = """
from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__
print(*(name for name in __cpu_dispatch__ if __cpu_features__[name]))
"""


@needs_kvm
@pytest.mark.needs("numpy")
def test_numpy_is_as_native() -> None:
    def command(code: str) -> list[str]:
        return [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{code}"]

    def run(words: list[str], **more: str) -> tuple[str, str]:
        env = os.environ | {"OPENBLAS_NUM_THREADS": "1"} | more
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=180, env=env)
        return done.stdout, done.stderr

    emu = [sys.executable, "-m", "emu", "run", "--engine", "kvm"]
    # Some hosts hide LZCNT from guests: numpy then has no kernel for x86-64-v3 there.
    kernels = [set(run([*words, *command(_KERNELS)])[0].split()) for words in ([], emu)]
    native = run(command(_CODE), NPY_DISABLE_CPU_FEATURES=" ".join(sorted(kernels[0] - kernels[1])))
    assert run([*emu, *command(_CODE)]) == native
    assert native[0].count("\n") == 3
    assert kernels[1] <= kernels[0]
