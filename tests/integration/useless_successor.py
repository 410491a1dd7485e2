"""Workers of which only the first two are of any use: a later one ends before it has served anything."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.integration.refusing_worker import run
from workerproxy.worker.data_plane import DataPlane


def count_starts() -> int:
    """How often a worker of this main process was started, this one included."""
    marks = Path(f"/tmp/useless-successor-{os.getppid()}")
    with marks.open("ab") as file:
        file.write(b"x")
    return marks.stat().st_size


if __name__ == "__main__":
    if sys.argv[1].isdigit() and count_starts() > 2:
        Path(f"/tmp/useless-successor-{os.getppid()}").unlink()
        sys.exit(3)
    sys.exit(run(sys.argv[1], DataPlane, __spec__.name))
