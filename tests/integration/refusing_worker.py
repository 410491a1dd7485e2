"""A worker that refuses what no loader can know: a configuration with a cluster called ``only-a-worker-can-tell``.

``python -m tests.integration.refusing_worker FD`` is that worker; with a configuration file instead of a descriptor it
is a main process with such workers.
"""

from __future__ import annotations

import socket
import sys
from typing import Any

import uvloop

from workerproxy.control.messages import Prepare
from workerproxy.worker.context import Refused
from workerproxy.worker.data_plane import DataPlane
from workerproxy.worker.worker import Worker

TELLTALE = "only-a-worker-can-tell"


class RefusingDataPlane(DataPlane):
    def prepare(self, message: Prepare, bootstrap: Any) -> None:
        super().prepare(message, bootstrap)
        if any(cluster.name == TELLTALE for cluster in bootstrap.static_resources.clusters):
            raise Refused(f"cluster {TELLTALE}: not on this worker")


def run(argument: str, data_plane: type[DataPlane], module: str) -> int:
    """Be a worker with this data plane, or a main process whose workers are ``module``."""
    if argument.isdigit():
        control = socket.socket(fileno=int(argument))
        return Worker(control, uvloop.new_event_loop(), data_plane).run()
    from workerproxy.config.load import load
    from workerproxy.config.options import Options
    from workerproxy.main_thread import server

    options = Options(config_path=argument, workers=2)
    return server.run(options, load(options).bootstrap, (sys.executable, "-m", module))


if __name__ == "__main__":
    sys.exit(run(sys.argv[1], RefusingDataPlane, __spec__.name))
