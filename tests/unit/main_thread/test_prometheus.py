"""Names and text of Prometheus, against lines of Envoy 1.40's own /stats/prometheus."""

from __future__ import annotations

import pytest

from workerproxy.control.stats import bucket_index
from workerproxy.control.stats_segment import HistogramData, StatValues
from workerproxy.main_thread.admin.pages.stats_prometheus import render
from workerproxy.main_thread.admin.stats_filter import FilterError, Selection, select
from workerproxy.main_thread.admin.tags import metric_of

# Statistic -> metric with its labels, as Envoy printed them.
SEEN = {
    "server.live": "envoy_server_live{}",
    "server.worker_1.watchdog_miss": 'envoy_server_worker_watchdog_miss{envoy_worker_id="1"}',
    "server.main_thread.watchdog_miss": "envoy_server_main_thread_watchdog_miss{}",
    "listener_manager.workers_started": "envoy_listener_manager_workers_started{}",
    "cluster_manager.cluster_added": "envoy_cluster_manager_cluster_added{}",
    "cluster.c2.upstream_cx_total": 'envoy_cluster_upstream_cx_total{envoy_cluster_name="c2"}',
    "cluster.c.one_x.upstream_cx_total": 'envoy_cluster_one_x_upstream_cx_total{envoy_cluster_name="c"}',
    "cluster.c2.upstream_rq_503": 'envoy_cluster_upstream_rq{envoy_response_code="503",envoy_cluster_name="c2"}',
    "cluster.c2.external.upstream_rq_5xx":
        'envoy_cluster_external_upstream_rq_xx{envoy_response_code_class="5",envoy_cluster_name="c2"}',
    "cluster.c2.circuit_breakers.default.cx_open":
        'envoy_cluster_circuit_breakers_default_cx_open{envoy_cluster_name="c2"}',
    "http.ingress_http.downstream_rq_2xx":
        'envoy_http_downstream_rq_xx{envoy_response_code_class="2",envoy_http_conn_manager_prefix="ingress_http"}',
    "http.async-client.rq_total": 'envoy_http_rq_total{envoy_http_conn_manager_prefix="async-client"}',
    "listener.127.0.0.1_0.downstream_cx_active":
        'envoy_listener_downstream_cx_active{envoy_listener_address="127.0.0.1_0"}',
    "listener.127.0.0.1_0.worker_0.downstream_cx_total":
        'envoy_listener_worker_downstream_cx_total{envoy_worker_id="0",envoy_listener_address="127.0.0.1_0"}',
    "listener.127.0.0.1_0.http.ingress_http.downstream_rq_2xx":
        'envoy_listener_http_downstream_rq_xx{envoy_response_code_class="2",'
        'envoy_http_conn_manager_prefix="ingress_http",envoy_listener_address="127.0.0.1_0"}',
    "listener.admin.downstream_cx_total": "envoy_listener_admin_downstream_cx_total{}",
    "listener.admin.http.admin.downstream_rq_completed":
        'envoy_listener_admin_http_downstream_rq_completed{envoy_http_conn_manager_prefix="admin"}',
}  # fmt: skip


@pytest.mark.parametrize(("name", "expected"), SEEN.items())
def test_names_become_metrics_as_envoys_do(name: str, expected: str) -> None:
    metric, labels = metric_of(name, {})
    assert f"{metric.prometheus_name}{{{labels}}}" == expected


def test_label_values_are_escaped_and_fixed_tags_added() -> None:
    metric, labels = metric_of('cluster.a"\\.upstream_cx_total', {"zone": "z-1"})
    assert metric.prometheus_name == "envoy_cluster_upstream_cx_total"
    assert labels == 'envoy_cluster_name="a\\"\\\\",zone="z-1"'


def selection() -> Selection:
    data = HistogramData.empty()
    for sample in [0] * 16 + [5, 12]:
        data.buckets[bucket_index(sample)] += 1
        data.total_ms += sample
    counters = {"http.b.rq_total": 2, "http.a.rq_total": 1, "cluster_manager.cluster_added": 1, "cluster.c.x": 3}
    return Selection(counters, {"server.live": 1}, {"http.a.downstream_rq_time": data})


def test_metrics_are_grouped_and_ordered_by_their_extracted_names() -> None:
    lines = render(selection(), {}, None).splitlines()
    assert lines[:9] == [
        "# TYPE envoy_cluster_x counter",
        'envoy_cluster_x{envoy_cluster_name="c"} 3',
        "# TYPE envoy_cluster_manager_cluster_added counter",
        "envoy_cluster_manager_cluster_added{} 1",
        "# TYPE envoy_http_rq_total counter",
        'envoy_http_rq_total{envoy_http_conn_manager_prefix="a"} 1',
        'envoy_http_rq_total{envoy_http_conn_manager_prefix="b"} 2',
        "# TYPE envoy_server_live gauge",
        "envoy_server_live{} 1",
    ]


def test_histograms_have_envoys_bounds_sum_and_count() -> None:
    lines = render(selection(), {}, None).splitlines()[9:]
    prefix = 'envoy_http_downstream_rq_time_bucket{envoy_http_conn_manager_prefix="a",le='
    assert lines[0] == "# TYPE envoy_http_downstream_rq_time histogram"
    assert lines[1:4] == [f'{prefix}"0.5"}} 16', f'{prefix}"1"}} 16', f'{prefix}"5"}} 17']
    assert lines[19:] == [
        f'{prefix}"3600000"}} 18',
        f'{prefix}"+Inf"}} 18',
        'envoy_http_downstream_rq_time_sum{envoy_http_conn_manager_prefix="a"} 17',
        'envoy_http_downstream_rq_time_count{envoy_http_conn_manager_prefix="a"} 18',
    ]


def test_a_summary_without_an_interval_has_no_numbers() -> None:
    text = render(selection(), {}, {})
    assert 'envoy_http_downstream_rq_time{envoy_http_conn_manager_prefix="a",quantile="0.995"} nan' in text
    assert "# TYPE envoy_http_downstream_rq_time summary" in text


VALUES = StatValues({"a.one": 1, "a.zero": 0}, {"a.gauge": 2}, {"a.time": HistogramData.empty()})


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, {"a.one", "a.zero", "a.gauge", "a.time"}),
        ({"usedonly": ""}, {"a.one", "a.gauge"}),
        ({"filter": "o"}, {"a.one", "a.zero"}),
        ({"filter": "o", "invert_filter": ""}, {"a.gauge", "a.time"}),
        ({"type": "Gauges"}, {"a.gauge"}),
        ({"type": "Histograms"}, {"a.time"}),
        ({"type": "TextReadouts"}, set()),
    ],
)
def test_a_query_selects(query: dict[str, str], expected: set[str]) -> None:
    chosen = select(VALUES, query)
    assert chosen.counters.keys() | chosen.gauges.keys() | chosen.histograms.keys() == expected


@pytest.mark.parametrize(
    ("query", "why"),
    [({"type": "Bogus"}, "invalid &type= param"), ({"filter": "("}, r"Invalid re2 regex: missing \): \(")],
)
def test_a_query_that_makes_no_sense_is_refused_in_envoys_words(query: dict[str, str], why: str) -> None:
    with pytest.raises(FilterError, match=why):
        select(VALUES, query)
