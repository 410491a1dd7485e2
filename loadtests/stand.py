"""A stand for load: the demo origin with two endpoints and a proxy in front of it, on free ports.

The proxy is workerproxy, or Envoy on the same file: a scenario that fails with both is wrong itself.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loadtests import peers
from loadtests.measure import tree
from tests.support.ports import free_ports
from tests.support.processes import Process, http_get

ORIGIN_MODULE: Final = "workerproxy.demo_origin"
OUTPUT_SHOWN: Final = 3000  # characters


@dataclass(slots=True)
class Stand:
    """What runs. ``processes`` are the proxy's when it was ready: main process first."""

    proxy: peers.Running
    origin: Process
    processes: tuple[int, ...]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.proxy.port}"

    def complaints(self) -> list[str]:
        """What went wrong with the programs themselves: ended, or a worker that had to be replaced."""
        found = []
        if not self.origin.running():
            found.append(f"the demo origin ended: {self.origin.output()}")
        if not self.proxy.process.running():
            found.append(f"the proxy ended: {self.proxy.process.output()}")
        elif (now := tuple(process.pid for process in tree(self.proxy.pid))) != self.processes:
            found.append(f"the proxy's processes changed from {self.processes} to {now}")
        if self.proxy.has_traceback():
            found.append(f"the proxy printed a traceback:\n{self.proxy.process.output()[:OUTPUT_SHOWN]}")
        return found


@contextlib.contextmanager
def demo_stand(proxy: str = "workerproxy", workers: int = 1) -> Iterator[Stand]:
    """Everything ready; all of it is stopped on the way out. Raises FileNotFoundError, NotReadyError."""
    ports = free_ports(2)
    argv = [sys.executable, "-m", ORIGIN_MODULE]
    for port in ports:
        argv += ["--port", str(port)]
    with (
        tempfile.TemporaryDirectory(prefix="workerproxy-stand-") as directory,
        Process(argv, env={"PYTHONPATH": str(peers.ROOT)}) as origin,
    ):
        origin.wait_ready(lambda: all(http_get(port, "/status/200")[0] == 200 for port in ports))
        place = peers.Place(Path(directory), ports[0], workers=workers, more_origin_ports=(ports[1],))
        running = peers.start(proxy, place)
        try:
            yield Stand(running, origin, tuple(process.pid for process in tree(running.pid)))
        finally:
            running.stop()
