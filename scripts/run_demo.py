"""What ``make run`` starts: the demo origin, workerproxy on its embedded default, and a list of what to try.

Arguments are passed on to workerproxy. Ctrl-C or SIGTERM stops the proxy first and then the origin. Exit status: the
proxy's, or 1 when the origin could not start.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).resolve().parents[1]
DEFAULT_CONFIG: Final = ROOT / "workerproxy" / "config" / "default.yaml"
READY_TIMEOUT_S: Final = 20.0
STOP_TIMEOUT_S: Final = 20.0
_POLL_S: Final = 0.1

HINTS: Final = """
  curl -i {proxy}/                  several times: the two endpoints of the demo origin take turns
  curl -i {proxy}/headers           what the origin received: compare it with what curl sent
  curl -N {proxy}/stream            a response that comes in pieces, passed on piece by piece
  curl -i {proxy}/status/503        an error of the origin, passed on
  curl -i {proxy}/hello             answered by the proxy itself (route "/hello" of conf/default.yaml)
  curl -T Makefile {proxy}/upload   a request body, counted by the origin

  curl {admin}/clusters             both endpoints, with what they have served
  curl {admin}/stats                every counter, summed over the workers
  ps -o pid,args --ppid {pid}       the worker processes

Ctrl-C stops everything.
"""


def _url(socket_address: dict[str, Any]) -> str:
    """Where to reach an address of the configuration from this machine."""
    host = str(socket_address["address"])
    host = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    return f"http://{f'[{host}]' if ':' in host else host}:{socket_address['port_value']}"


def urls(bootstrap: dict[str, Any]) -> tuple[str, str]:
    """First listener and admin of a bootstrap configuration."""
    listener = bootstrap["static_resources"]["listeners"][0]["address"]["socket_address"]
    return _url(listener), _url(bootstrap["admin"]["address"]["socket_address"])


def answers(url: str) -> bool:
    """Whether anything HTTP answers there, whatever it says."""
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except urllib.error.HTTPError as error:
        error.close()
        return True
    except OSError:
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def main(arguments: Sequence[str]) -> int:
    proxy_url, admin_url = urls(yaml.safe_load(DEFAULT_CONFIG.read_text()))
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    with contextlib.ExitStack() as stack:
        # Sessions of their own: Ctrl-C reaches this program alone, which then stops them in order.
        origin = subprocess.Popen([sys.executable, "-m", "workerproxy.demo_origin"], env=env, start_new_session=True)
        stack.callback(_stop, origin)
        argv = [sys.executable, "-m", "workerproxy", *arguments]
        proxy = subprocess.Popen(argv, env=env, start_new_session=True)
        stack.callback(_stop, proxy)
        waited_s = 0.0
        hinted = False
        while not stop.wait(_POLL_S):
            if origin.poll() is not None:
                return 1  # it has said why
            if proxy.poll() is not None:
                return proxy.returncode
            if not hinted and waited_s < READY_TIMEOUT_S:
                waited_s += _POLL_S
                if answers(f"{admin_url}/ready") and answers(f"{proxy_url}/"):
                    print(HINTS.format(proxy=proxy_url, admin=admin_url, pid=proxy.pid), flush=True)
                    hinted = True
        print("stopping ...", flush=True)
    return proxy.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
