"""Thirty configurations that cannot be, each for another reason, reloaded under load: nothing changes."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from tests.integration.refusing_worker import TELLTALE
from tests.support.load import ContinuousLoad
from tests.support.operations import Json, RunningProxy, Site, cluster, essence

BETWEEN: Final = 5  # requests from one reload to the next, at least


@dataclass(frozen=True, slots=True)
class Place:
    """What is in the way of a configuration: a directory, a file in it, a port somebody else has."""

    directory: Path
    taken_port: int

    @property
    def file(self) -> Path:
        return self.directory / "file"


Text = Callable[[Site, Place], str]


@dataclass(frozen=True, slots=True)
class Bad:
    """``text(site, place)`` is the file; every one of ``named`` must stand in the errors."""

    reason: str
    named: tuple[str, ...]
    text: Text

    def __str__(self) -> str:
        return self.reason


def bootstrap(change: Callable[[Json], Any]) -> Text:
    """The good configuration with one change made to it."""

    def text(site: Site, _: Place) -> str:
        document = site.bootstrap()
        change(document)
        return json.dumps(document)

    return text


def site(**fields: Any) -> Text:
    """The good site with other fields."""
    return lambda good, _: json.dumps(replace(good, **fields).bootstrap())


def listener(document: Json) -> Json:
    found: Json = document["static_resources"]["listeners"][0]
    return found


def manager(document: Json) -> Json:
    found: Json = listener(document)["filter_chains"][0]["filters"][0]["typed_config"]
    return found


def hosts(document: Json) -> list[Json]:
    found: list[Json] = manager(document)["route_config"]["virtual_hosts"]
    return found


def route(**action: Any) -> Text:
    """The good site with another route to its cluster."""
    return site(routes=[{"match": {"prefix": "/new"}, "route": {"cluster": "origin"} | action}])


def direct(**action: Any) -> Text:
    """The good site with another route that answers by itself."""
    return site(routes=[{"match": {"prefix": "/new"}, "direct_response": {"status": 200} | action}])


def at(address: str, port: Any) -> Json:
    return {"socket_address": {"address": address, "port_value": port}}


def pipe(path: str | Path) -> Json:
    return {"pipe": {"path": str(path)}}


def main_at(address: Json) -> Text:
    return bootstrap(lambda document: listener(document).update(address=address))


def second(address: Callable[[Place], Json]) -> Text:
    """The good configuration with another listener somewhere."""

    def text(good: Site, place: Place) -> str:
        document = good.bootstrap()
        another = listener(document) | {"name": "second", "address": address(place)}
        document["static_resources"]["listeners"].append(another)
        return json.dumps(document)

    return text


def admin_elsewhere(good: Site, place: Place) -> str:
    return json.dumps(replace(good, admin=place.taken_port).bootstrap())


def access_log(path: str, text_format: str) -> Json:
    kind = "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog"
    log = {"@type": kind, "path": path, "log_format": {"text_format": text_format}}
    return {"access_log": [{"name": "file", "typed_config": log}]}


TEA: Final = {"name": "tea", "typed_config": {"@type": "type.googleapis.com/Tea"}}
CHECKS: Final = [
    {"timeout": "1s", "interval": "1s", "unhealthy_threshold": 1, "healthy_threshold": 1, "tcp_health_check": {}},
]
NO_NETWORK: Final = {"cidr_ranges": [{"address_prefix": "300.0.0.0", "prefix_len": 8}]}
NO_WEIGHT: Final = {
    "match": {"prefix": "/"},
    "route": {"weighted_clusters": {"clusters": [{"name": "origin", "weight": 0}]}},
}
NO_REGEX: Final = {"match": {"safe_regex": {"regex": "a("}}, "route": {"cluster": "origin"}}
ANY_DOMAIN: Final = {"name": "again", "domains": ["*"]}
RUNTIME: Final = {"layers": [{"name": "a", "static_layer": {"some.key": 1}}]}

BAD: Final = [
    # the text
    Bad("no YAML", ("proxy.yaml:2:14",), lambda *_: "static_resources: {\n  listeners: ]\n"),
    Bad("control characters", ("proxy.yaml:1",), lambda *_: "\x00node: {}"),
    Bad("a list at the top", ("a list",), lambda *_: "- admin\n- static_resources\n"),
    # fields and values
    Bad("an unknown field", ("static_resourcez", "'static_resources'"), lambda *_: "static_resourcez: {}\n"),
    Bad("an unknown field of an extension", ("stat_prefixx",), site(manager={"stat_prefixx": "a"})),
    Bad("a word for a number", ("port_value", "eighty"), main_at(at("127.0.0.1", "eighty"))),
    Bad("a text for a message", ("load_assignment",), site(cluster={"load_assignment": "x"})),
    Bad("no enum value", ("lb_policy", "FASTEST"), site(cluster={"lb_policy": "FASTEST"})),
    Bad("no duration", ("idle_timeout", "soon"), route(idle_timeout="soon")),
    Bad("a negative duration", ("connect_timeout", "-1s"), site(cluster={"connect_timeout": "-1s"})),
    Bad("a port beyond the last", ("port_value", "65535"), main_at(at("127.0.0.1", 70_000))),
    Bad("a status that is none", ("status", "99"), direct(status=99)),
    Bad("a cluster without a name", ("clusters[1].name",), site(clusters=[cluster("", (1,))])),
    # what workerproxy does not do
    Bad("an unsupported enum value", ("lb_policy", "MAGLEV"), site(cluster={"lb_policy": "MAGLEV"})),
    Bad("an unsupported cluster type", ("type", "ORIGINAL_DST"), site(cluster={"type": "ORIGINAL_DST"})),
    Bad("an unsupported field", ("health_checks",), site(cluster={"health_checks": CHECKS})),
    Bad("a runtime key nobody reads", ("some.key",), bootstrap(lambda d: d.update(layered_runtime=RUNTIME))),
    Bad("a filter of an unknown type", ("Tea",), bootstrap(lambda d: manager(d)["http_filters"].insert(0, TEA))),
    # parts that do not go together
    Bad("no router", ("http_filters",), site(manager={"http_filters": []})),
    Bad("two clusters of one name", ("'origin'",), site(clusters=[cluster("origin", (1,))])),
    Bad("a route to nowhere", ("'nowhere'",), route(cluster="nowhere")),
    Bad("two hosts for one domain", ("the domain '*'",), bootstrap(lambda d: hosts(d).append(ANY_DOMAIN))),
    Bad(
        "weights of nothing",
        ("weighted_clusters",),
        site(routes=[NO_WEIGHT]),
    ),
    Bad("no regular expression", ("regex", "a("), site(routes=[NO_REGEX])),
    Bad("no network", ("300.0.0.0",), site(manager={"internal_address_config": NO_NETWORK})),
    Bad("an unknown operator", ("NONSENSE",), site(manager=access_log("/dev/null", "%NONSENSE%"))),
    Bad("a body that is too large", ("too large", "4096"), direct(body={"inline_string": "x" * 5000})),
    # what is not there
    Bad("a body from no file", ("/not-there",), direct(body={"filename": "/not-there"})),
    Bad("a body from no variable", ("NOT_THERE",), direct(body={"environment_variable": "NOT_THERE"})),
    Bad("a log in no directory", ("/not-there/log",), site(manager=access_log("/not-there/log", "a"))),
    # addresses that cannot be had
    Bad("another program's port", ("second", "in use"), second(lambda place: at("127.0.0.1", place.taken_port))),
    Bad("another machine's address", ("second", "192.0.2.1"), second(lambda _: at("192.0.2.1", 8080))),
    Bad(
        "a pipe in no directory",
        ("second", "not-there"),
        second(lambda _: pipe("/not-there/pipe")),
    ),
    Bad(
        "a pipe where a file is",
        ("second", "no socket"),
        second(lambda place: pipe(place.file)),
    ),
    Bad("another program's port for admin", ("admin",), admin_elsewhere),
    # what only a worker can tell
    Bad("a worker's own reason", (TELLTALE, "not on this worker"), site(clusters=[cluster(TELLTALE, (1,))])),
]


def test_what_is_refused_changes_nothing_and_is_named(tmp_path: Path) -> None:
    assert len(BAD) >= 30
    (tmp_path / "file").write_text("no socket")
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        RunningProxy(tmp_path, module="tests.integration.refusing_worker") as proxy,
        ContinuousLoad(proxy.port) as load,
    ):
        place = Place(tmp_path, taken.getsockname()[1])
        good = replace(proxy.site, version=2)  # every bad one would have answered with this, had it become active
        before = proxy.overview()
        for bad in BAD:
            proxy.write(bad.text(good, place))
            answer = proxy.reload()
            assert not answer["ok"], bad
            assert answer["version"] == 1, bad
            errors = "\n".join(answer["errors"])
            assert [word for word in bad.named if word not in errors] == [], (bad, errors)
            assert essence(proxy.overview()) == essence(before), bad
            assert proxy.marker() == "version 1", bad
            refused = json.loads(proxy.get("/config_dump"))["configs"][-1]
            assert refused["@type"] == "workerproxy.RefusedConfigDump", bad
            assert refused["details"] == errors, bad
            load.wait_requests(BETWEEN)
        proxy.apply()
        assert proxy.marker() == "version 2"
    print(load.report(f"{len(BAD)} refused reloads"))
    assert load.ledger.failures() == []
