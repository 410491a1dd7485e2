"""Streams that run when their route or cluster is removed: what ends or spares them, and what they keep alive."""

from __future__ import annotations

import gc
import logging
from typing import Any

import pytest

from tests.unit.worker.fakes import Peer
from tests.unit.worker.plane import TO_ORIGIN, Plane, cluster, listener
from tests.unit.worker.proxy import GET, OK, Proxy, head_and_body
from workerproxy.extensions.base import StreamFilter
from workerproxy.worker.context import Leftovers
from workerproxy.worker.http.settings import ConnectionManagerConfig
from workerproxy.worker.router.route_table import RouteTable

LONG = {"name": "long", "match": {"prefix": "/long"}, "route": {"cluster": "origin", "timeout": "0s"}}
OTHER = {"match": {"prefix": "/"}, "route": {"cluster": "other", "timeout": "0s"}}
CLUSTERS = (cluster("origin"), cluster("other"))
BEGUN = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n"
END = b"0\r\n\r\n"


class Lab(Plane):
    """One listener, whose routes and clusters change, and one stream on the route ``long``."""

    def __init__(self) -> None:
        super().__init__(drain_time_s=600)
        self.bind(1)
        self.reload(LONG, OTHER)
        self.long = self.client()
        self.long.send(GET.replace(b"/ ", b"/long "))
        self.upstream = self.network.origins()[-1]

    def reload(self, *routes: dict[str, Any], clusters: tuple[dict[str, Any], ...] = CLUSTERS) -> Leftovers:
        return self.commit({"a": [1]}, listener("a", routes=routes), clusters=clusters)


def fresh_request(lab: Lab, client: Peer) -> bytes:
    client.send(GET.replace(b"/ ", b"/long "))
    for origin in lab.network.origins():
        if not origin.is_closed and origin is not lab.upstream and origin.received:
            origin.send(OK)
    return client.take()


@pytest.mark.parametrize("begun", [False, True])
def test_a_stream_survives_every_change_of_its_route_and_its_cluster(begun: bool) -> None:
    lab = Lab()
    if begun:
        lab.upstream.send(BEGUN)
    changed = {**LONG, "route": {"cluster": "other", "timeout": "1s"}}
    moved = {**LONG, "match": {"prefix": "/elsewhere"}}
    for routes, clusters in (
        ([changed], CLUSTERS),
        ([moved, OTHER], CLUSTERS),
        ([{"name": "long", "match": {"prefix": "/long"}, "direct_response": {"status": 404}}], CLUSTERS),
        ([LONG], (cluster("origin", connect_timeout="9s"), cluster("other"))),
        ([LONG], (cluster("origin", lb_policy="RANDOM"),)),
    ):
        assert lab.reload(*routes, clusters=clusters) == Leftovers(0, 0)
        lab.loop.advance(601)
    lab.upstream.send(END if begun else OK)
    assert lab.long.take().endswith(END if begun else b"ok")
    assert not lab.long.got_fin


def test_a_stream_on_a_removed_route_may_finish_within_the_drain_time(caplog: pytest.LogCaptureFixture) -> None:
    lab = Lab()
    with caplog.at_level(logging.INFO, "workerproxy"):
        assert lab.reload(OTHER) == Leftovers(0, 1)
    assert [record.getMessage() for record in caplog.records] == [
        "1 streams on removed routes or clusters may finish within 600 s: route 'long'"
    ]
    lab.loop.advance(590)
    lab.upstream.send(OK)
    assert lab.long.take().endswith(b"ok")
    lab.loop.advance(20)
    assert not lab.long.got_fin


@pytest.mark.parametrize(
    ("routes", "clusters", "details"),
    [
        ([OTHER], CLUSTERS, "route_removed"),
        ([{**LONG, "route": {"cluster": "other"}}], CLUSTERS[1:], "cluster_removed"),
        ([OTHER], CLUSTERS[1:], "route_removed"),
    ],
)
def test_after_the_drain_time_a_stream_that_waits_is_answered_and_one_that_runs_is_cut_short(
    routes: list[dict[str, Any]], clusters: tuple[dict[str, Any], ...], details: str, caplog: pytest.LogCaptureFixture
) -> None:
    lab = Lab()
    waiting, lab.long = lab.long, lab.client()
    lab.long.send(GET.replace(b"/ ", b"/long "))
    lab.network.origins()[-1].send(BEGUN)
    lab.long.take()
    infos = [manager.stream for manager in lab.plane._listeners["a"].connections]
    assert lab.reload(*routes, clusters=clusters).streams == 2
    with caplog.at_level(logging.WARNING, "workerproxy"):
        lab.loop.advance(601)
    first, _, body = head_and_body(waiting.take())
    assert first == b"HTTP/1.1 503 Service Unavailable"
    assert b"removed" in body
    assert not waiting.got_fin
    assert lab.long.take() == b""
    assert lab.long.got_fin
    assert [info.response_code_details for info in infos if info is not None] == [details, details]
    (record,) = caplog.records
    assert record.getMessage().startswith("the drain time is over; 2 streams on removed routes or clusters are ended: ")
    assert lab.upstream.is_closed
    assert lab.plane._listeners["a"].config.stats.downstream_rq_active == 0


def test_a_stream_that_began_after_the_removal_is_not_meant() -> None:
    lab = Lab()
    lab.reload(OTHER)
    lab.reload(LONG, OTHER)
    lab.long.fin()
    lab.loop.advance(1)
    lab.long = lab.client()
    lab.long.send(GET.replace(b"/ ", b"/long "))
    lab.reload(OTHER)
    lab.loop.advance(599.5)
    assert lab.long.take() == b""
    lab.loop.advance(1)
    assert lab.long.take().startswith(b"HTTP/1.1 503 ")


def test_a_stream_whose_route_comes_back_is_spared() -> None:
    lab = Lab()
    assert lab.reload(OTHER).streams == 1
    assert lab.reload(LONG, OTHER).streams == 0
    lab.loop.advance(700)
    lab.upstream.send(OK)
    assert lab.long.take().endswith(b"ok")


def test_streams_of_a_removed_listener_are_its_connections_and_not_counted_twice() -> None:
    lab = Lab()
    assert lab.commit({}, clusters=CLUSTERS) == Leftovers(1, 0)
    lab.plane.stop_accepting([1])
    lab.loop.advance(601)
    assert lab.long.is_closed


def test_many_names_are_not_all_told(caplog: pytest.LogCaptureFixture) -> None:
    lab = Plane()
    lab.bind(1)
    routes = [{**TO_ORIGIN, "name": f"route-{n:02}", "match": {"path": f"/{n}"}} for n in range(12)]
    lab.commit({"a": [1]}, listener("a", routes=routes))
    for number in range(12):
        lab.client().send(b"GET /%d HTTP/1.1\r\nhost: h\r\n\r\n" % number)
    with caplog.at_level(logging.INFO, "workerproxy"):
        assert lab.commit({"a": [1]}, listener("a", routes=[TO_ORIGIN])).streams == 12
    assert caplog.records[0].getMessage().endswith("route 'route-08', route 'route-09' and 2 more")


# What a long stream keeps alive.


def alive(kind: type) -> int:
    gc.collect()
    return sum(type(one) is kind for one in gc.get_objects())


def test_a_long_stream_keeps_its_version_alive_without_the_routes_and_an_idle_connection_keeps_nothing() -> None:
    tables, configs = alive(RouteTable), alive(ConnectionManagerConfig)
    lab = Lab()
    idle = lab.client()
    fresh_request(lab, idle)
    for _ in range(5):
        lab.reload(LONG, OTHER)
    assert alive(RouteTable) == tables + 1
    assert alive(ConnectionManagerConfig) == configs + 2  # the newest, and the stream's
    lab.upstream.send(OK)
    lab.long.take()
    lab.reload(LONG, OTHER)
    assert alive(ConnectionManagerConfig) == configs + 1


def test_a_stream_whose_filters_may_still_choose_another_route_keeps_its_routes() -> None:
    tables = alive(RouteTable)
    proxy = Proxy(filters=[StreamFilter])
    client = proxy.client()
    client.send(GET)
    listener = proxy.listener
    new = proxy.make_config({}, [{"match": {"prefix": "/"}, "direct_response": {"status": 299}}])
    listener.renew(new, listener.stats, listener.worker_stats, listener.http_stats)
    stream = proxy.manager.stream
    assert stream is not None
    stream.clear_route_cache()
    assert stream.route is not None
    assert stream.route.cluster == "origin"
    proxy.origin().send(BEGUN)
    stream.clear_route_cache()
    assert stream.route.cluster == "origin"
    proxy.origin().send(END)
    client.take()
    del stream, proxy.config
    proxy.log.infos.clear()
    client.send(GET)
    assert client.take().startswith(b"HTTP/1.1 299 ")
    assert alive(RouteTable) == tables + 1
