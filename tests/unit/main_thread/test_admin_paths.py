"""``admin.allow_paths``: which paths are answered at all."""

from __future__ import annotations

import pytest
from envoy.config.bootstrap.v3.bootstrap_pb2 import Admin
from google.protobuf.json_format import ParseDict

from workerproxy.main_thread.admin.server import AdminSocket

ADDRESS = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}


@pytest.mark.parametrize(
    ("matchers", "allowed", "refused"),
    [
        ([], ["/", "/quitquitquit"], []),
        ([{"exact": "/ready"}, {"prefix": "/stats"}], ["/ready", "/stats/prometheus"], ["/", "/ready/", "/READY"]),
        ([{"safe_regex": {"regex": "/(ready|stats)"}}], ["/ready", "/stats"], ["/statsx"]),
    ],
)
def test_what_no_matcher_matches_is_refused(
    matchers: list[dict[str, object]], allowed: list[str], refused: list[str]
) -> None:
    admin = AdminSocket.open(ParseDict({"address": ADDRESS, "allow_paths": matchers}, Admin()))
    assert admin is not None
    assert [path for path in [*allowed, *refused] if admin.allows(path)] == allowed
    admin.close()
