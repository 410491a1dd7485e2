"""What a reload may change, and how it is called."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from envoy.config.bootstrap.v3 import bootstrap_pb2
from google.protobuf import json_format

from workerproxy.main_thread.live_change import compare

BASE: dict[str, Any] = {
    "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 1}}},
    "static_resources": {
        "listeners": [
            {"name": "l", "address": {"socket_address": {"address": "127.0.0.1", "port_value": 2}}},
            {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 3}}},
        ],
        "clusters": [{"name": "a"}, {"name": "b"}],
    },
}


def changed(change: str) -> dict[str, Any]:
    data = copy.deepcopy(BASE)
    exec(change, {"d": data, "r": data["static_resources"]})
    return data


def bootstrap(data: dict[str, Any]) -> Any:
    return json_format.ParseDict(data, bootstrap_pb2.Bootstrap())


@pytest.mark.parametrize(
    ("change", "changes"),
    [
        ("pass", []),
        ("r['clusters'][0]['connect_timeout'] = '1s'", ["cluster 'a' changed"]),
        ("r['clusters'][0]['name'] = 'c'", ["cluster 'a' removed", "cluster 'c' added"]),
        ("r['listeners'][0]['filter_chains'] = [{'name': 'x'}]", ["listener 'l' changed"]),
        ("d['node'] = {'id': 'n'}", ["node changed"]),
        ("d['admin']['address']['socket_address']['port_value'] = 9", ["admin changed"]),
        ("d['stats_flush_interval'] = '1s'", ["bootstrap options changed"]),
        (
            "r['listeners'][0]['address']['socket_address']['port_value'] = 9",
            ["listener 'l' moved from 127.0.0.1:2 to 127.0.0.1:9"],
        ),
        ("del r['listeners'][0]", ["listener 'l' removed"]),
        (
            "r['listeners'][1]['address']['socket_address']['port_value'] = 9",
            ["listener '127.0.0.1:3' removed", "listener '127.0.0.1:9' added"],
        ),
    ],
)
def test_every_difference_has_its_line(change: str, changes: list[str]) -> None:
    assert compare(bootstrap(BASE), bootstrap(changed(change))) == changes
