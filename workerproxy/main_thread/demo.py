"""The demo origin beside the embedded default configuration, so that a newcomer sees proxied traffic at once."""

from __future__ import annotations

import ctypes
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from workerproxy.main_thread.worker_process import worker_environment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from workerproxy.config.options import Options
    from workerproxy.main_thread.listener_manager import Listener

_PATHS: Final = ("/", "/headers", "/stream", "/delay/500", "/bytes/1000000", "/status/503")
DEFAULT_PORT: Final = 10001  # as in config/default.yaml
_PR_SET_PDEATHSIG: Final = 1
_STOP_TIMEOUT_S: Final = 2.0


def wants_demo(options: Options) -> bool:
    """Whether nothing but the embedded default is configured."""
    return not (options.config_path or options.config_yaml or options.listen or options.to)


def demo_runs() -> bool:
    """Whether something listens where the demo origin would: one that was started by hand, as ``make run`` does."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", DEFAULT_PORT)) == 0


class DemoOrigin:
    """``python -m workerproxy.demo_origin`` as a child; it ends with this process, however this one ends."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        libc = ctypes.CDLL(None)
        self._popen = subprocess.Popen(
            [sys.executable, "-P", "-m", "workerproxy.demo_origin"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=worker_environment(environment),
            preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM),
        )

    def stop(self) -> None:
        if self._popen.poll() is None:
            self._popen.terminate()
            try:
                self._popen.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._popen.kill()
                self._popen.wait()


def welcome(listeners: Iterable[Listener], admin_address: str) -> str:
    """What stands on stderr when the demo runs: which URLs to try."""
    lines = ["workerproxy runs its embedded default configuration in front of a demo origin. Try:", ""]
    for address in (address for listener in listeners for address in listener.addresses):
        base = f"http://{address.replace('0.0.0.0', '127.0.0.1', 1)}"
        lines += [f"  curl {base}{path}" for path in _PATHS]
    if admin_address:
        lines += ["", f"  http://{admin_address}/          the admin pages: what happens inside"]
    lines += [
        "",
        "Your own configuration: workerproxy -c FILE, or workerproxy --listen :8080 --to http://HOST:PORT",
        "",
    ]
    return "\n".join(lines)
