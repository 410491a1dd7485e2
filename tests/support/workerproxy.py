"""The proxy under test, as a user starts it."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.support.processes import Process, http_get

ROOT = Path(__file__).resolve().parents[2]


def start_workerproxy(config: Path, admin_port: int, *arguments: str, workers: int = 1) -> Process:
    """``python -m workerproxy`` on ``config``, live according to its admin ``/ready``. File logs flush every 10 ms."""
    argv = [sys.executable, "-m", "workerproxy", "-c", str(config), "--concurrency", str(workers)]
    process = Process([*argv, "--file-flush-interval-msec", "10", *arguments], env={"PYTHONPATH": str(ROOT)})
    return process.wait_ready(lambda: http_get(admin_port, "/ready")[0] == 200)
