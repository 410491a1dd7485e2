"""``python -m workerproxy.worker FD``: the program a worker is. Started by the main process only.

FD is the worker's end of the control pipe; everything else comes through it. Signals are for the main process: the
terminal and systemd send them to the whole group, so a worker ignores them (it starts with them blocked).
"""

from __future__ import annotations

import signal

_IGNORED = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGPIPE,
)


def main(arguments: list[str]) -> int:
    import faulthandler
    import socket

    import uvloop

    from workerproxy.worker.data_plane import DataPlane
    from workerproxy.worker.worker import Worker

    faulthandler.enable()
    faulthandler.register(signal.SIGUSR2, all_threads=True)
    control = socket.socket(fileno=int(arguments[0]))
    loop = uvloop.new_event_loop()
    return Worker(control, loop, DataPlane).run()


if __name__ == "__main__":
    for _number in _IGNORED:
        signal.signal(_number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _IGNORED)
    import sys

    sys.exit(main(sys.argv[1:]))
