"""Connection limits with real workers: over all of them, at accept, and changed by a reload."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path

from tests.integration.proxy import HELLO, Proxy
from tests.support.client import RawClient
from tests.support.processes import wait_until

LIMIT = """\
layered_runtime:
  layers:
  - name: static
    static_layer: {{envoy.resource_limits: {{listener: {{main: {{connection_limit: {}}}}}}}}}
"""


def served(client: RawClient) -> bool:
    """Whether a request on a connection is answered; a refused one is closed or reset."""
    try:
        client.send(HELLO)
        return bool(client.read_response())
    except ConnectionError:
        return False


def test_all_workers_share_a_limit_and_a_reload_changes_it(tmp_path: Path) -> None:
    with Proxy(tmp_path, workers=2) as proxy, contextlib.ExitStack() as clients:
        early = [clients.enter_context(RawClient(proxy.port)) for _ in range(2)]
        assert all(served(client) for client in early)
        proxy.configure(append=LIMIT.format(3))
        proxy.process.signal(signal.SIGHUP)
        proxy.process.wait_output("version 2 is active")
        late = [served(clients.enter_context(RawClient(proxy.port))) for _ in range(4)]
        assert late == [True, False, False, False]  # those that were there before count too
        overflow = "listener.127.0.0.1_0.downstream_cx_overflow"
        assert proxy.stat(overflow) == 3
        early[0].close()
        wait_until(lambda: served(clients.enter_context(RawClient(proxy.port))), 10.0)
        proxy.configure()
        proxy.process.signal(signal.SIGHUP)
        proxy.process.wait_output("version 3 is active")
        assert all(served(clients.enter_context(RawClient(proxy.port))) for _ in range(4))
