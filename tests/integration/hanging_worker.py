"""A worker that hangs for good at a request with the header ``x-hang``; started as ``refusing_worker`` is."""

from __future__ import annotations

import sys
import time
from typing import Any

from tests.integration.refusing_worker import run
from workerproxy.worker.data_plane import DataPlane
from workerproxy.worker.http.stream import ActiveStream


def hang_for_good() -> None:
    while True:
        time.sleep(60.0)


class HangingDataPlane(DataPlane):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        decode = ActiveStream.decode

        def decode_or_hang(stream: ActiveStream) -> None:
            if b"x-hang" in stream.message.headers:
                hang_for_good()
            decode(stream)

        ActiveStream.decode = decode_or_hang  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    sys.exit(run(sys.argv[1], HangingDataPlane, __spec__.name))
