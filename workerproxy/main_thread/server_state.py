"""The server's state as ``/ready``, ``/server_info`` and ``server.state`` tell it (``admin.v3.ServerInfo.State``)."""

from __future__ import annotations

from enum import IntEnum


class ServerState(IntEnum):
    LIVE = 0  # a worker serves the active configuration
    DRAINING = 1  # told to stop, or POST /healthcheck/fail
    PRE_INITIALIZING = 2  # no configuration is active yet
    INITIALIZING = 3  # there is one, but no worker serves it
