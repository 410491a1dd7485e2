"""The arithmetic of the comparison: what is read from wrk and /proc, medians, ratios, tables. Nothing is started."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from loadtests import compare, peers, report
from loadtests.measure import (
    MeasureError,
    Sample,
    WrkResult,
    cpu_seconds,
    descriptor_count,
    make_sample,
    median_sample,
    parse_smaps,
    parse_wrk,
    pss_bytes,
    rss_bytes,
)
from loadtests.scenarios import BROWSER_HEADERS, SCENARIOS, Scenario, wrk_script

RESULT = WrkResult(requests=40_000, duration_us=4_000_000, bytes=1, failed=0, p50_us=900, p99_us=2500)
WRK_OUTPUT = """\
Running 1s test @ http://127.0.0.1:1/
  1 threads and 4 connections
Requests/sec:  31000.12

wrk-result:{"requests": 31007, "duration_us": 1000123, "bytes": 5000, "failed": 2, "p50_us": 120.0, "p99_us": 300.5}
"""


def sample(cpu_us: float, failed: int = 0) -> Sample:
    return Sample(100, failed, 10_000, cpu_us, 0.5, 900, 2000)


def test_wrk_result_is_read_from_its_line() -> None:
    result = parse_wrk(WRK_OUTPUT)
    assert result == WrkResult(31007, 1_000_123, 5000, 2, 120.0, 300.5)
    assert result.rate_per_s == pytest.approx(31003.19, abs=0.01)


@pytest.mark.parametrize(
    "output",
    [
        "",
        "unable to connect",
        "wrk-result:{",
        'wrk-result:{"requests": 1}',
        WRK_OUTPUT + "wrk-result:{}",
        "wrk-result:[]",
    ],
)
def test_wrk_output_without_one_good_result_is_an_error(output: str) -> None:
    with pytest.raises(MeasureError):
        parse_wrk(output)


def test_cpu_per_request_is_cpu_time_over_completed_requests() -> None:
    made = make_sample(RESULT, cpu_s=2.0)
    assert made.cpu_us_per_request == 50.0
    assert made.cpu_share == 0.5
    assert made.rate_per_s == 10_000


@pytest.mark.parametrize(("requests", "failed"), [(0, 0), (5, 5), (1000, 2)])
def test_a_run_with_failures_is_no_measurement(requests: int, failed: int) -> None:
    with pytest.raises(MeasureError, match="failed"):
        make_sample(WrkResult(requests, 1, 0, failed, 0, 0), 1.0)


def test_one_failure_in_a_thousand_is_kept_and_shown() -> None:
    assert make_sample(WrkResult(1000, 1_000_000, 0, 1, 0, 0), 1.0).failed == 1


def test_medians_are_taken_field_by_field_and_failures_are_the_worst() -> None:
    median = median_sample([sample(10), sample(90, failed=3), sample(20)])
    assert median.cpu_us_per_request == 20
    assert median.failed == 3
    with pytest.raises(ValueError, match="no samples"):
        median_sample([])


def test_smaps_fields_are_bytes() -> None:
    text = "55e000-7fff000 ---p 00000000 00:00 0 [rollup]\nRss:   2048 kB\nPss:    1024 kB\nPss_Dirty:  7 kB\n"
    assert parse_smaps(text, "Pss") == 1024 * 1024
    assert parse_smaps(text, "Rss") == 2048 * 1024
    assert parse_smaps("", "Rss") == 0


def test_this_process_has_memory_cpu_time_and_descriptors() -> None:
    pid = os.getpid()
    assert rss_bytes(pid) >= pss_bytes(pid) > 1 << 20
    before = cpu_seconds(pid)
    assert before > 0
    assert cpu_seconds(pid) >= before
    with Path(os.devnull).open() as _:
        opened = descriptor_count(pid)
    assert opened == descriptor_count(pid) + 1


def test_ratio_needs_a_base() -> None:
    assert report.ratio(30, 60) == "0.50"
    assert report.ratio(30, 0) == "-"


def test_document_has_every_proxy_its_ratio_and_what_failed() -> None:
    results = compare.Results()
    for cpu_us in (20, 24, 22):
        results.add("small", "workerproxy", sample(cpu_us))
        results.add("small", "envoy", sample(cpu_us * 2))
    results.idle_bytes = {"workerproxy": 3072}
    results.two_workers = {"1": [sample(20)], "2": [sample(21)]}
    results.errors = ["nginx: not installed"]
    settings = compare.Settings(3, 4, ["workerproxy", "envoy", "nginx"], [SCENARIOS[0]], idle=True, two_workers=True)
    text = report.markdown(results, settings, {"cores": "2"}, 2000)
    head = "CPU us per request | workerproxy | envoy | nginx | workerproxy / envoy | workerproxy / nginx"
    assert f"| {head} |" in text
    assert "| small | 22.0 | 44.0 | - | 0.50 | - |" in text
    assert "| per idle connection, KiB (PSS) | 3.0 | - | - |" in text
    assert "| 2 workers | 10000 | 21.0 | 0.50 |" in text
    assert "- nginx: not installed" in text
    rounds = report.as_json(results, {})["samples"]["small"]["envoy"]
    assert [round_["cpu_us_per_request"] for round_ in rounds] == [40, 48, 44]


def test_scenarios_are_those_that_were_asked_for() -> None:
    names = [scenario.name for scenario in SCENARIOS]
    assert len(set(names)) == len(names)
    assert {"small", "headers", "64k", "1m", "post", "new", "c1000", "equal"} <= set(names)
    assert len(BROWSER_HEADERS) == 10


def test_script_paces_each_connection_for_the_wanted_rate() -> None:
    script = wrk_script(Scenario("x", "x", connections=100, rate_per_s=1000))
    assert "math.random(0, 200)" in script  # mean 100 ms on each of 100 connections


@pytest.mark.skipif(shutil.which("luac") is None and shutil.which("wrk") is None, reason="neither luac nor wrk is here")
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_every_script_is_lua_that_wrk_loads(scenario: Scenario, tmp_path: Path) -> None:
    """wrk reads the script before it connects: to a closed port it fails on the connection, not on the script."""
    script = tmp_path / "script.lua"
    script.write_text(wrk_script(scenario))
    argv = ["wrk", "-t1", "-c1", "-d1s", "-s", str(script), "http://127.0.0.1:1/"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    assert "script" not in done.stderr
    assert "unable to connect" in done.stdout + done.stderr


def test_unknown_names_on_the_command_line_are_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        compare.parse_arguments(["--proxies", "envoy,varnish"])
    assert "workerproxy, envoy, haproxy, haproxy-splice, nginx" in capsys.readouterr().err
    with pytest.raises(argparse.ArgumentTypeError):
        compare._names("tiny", ["small"])


def test_cores_are_shared_without_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 8})
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    assert compare.share_cores() == compare.Cores(("taskset", "-c", "3"), ("taskset", "-c", "5,8"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3})
    assert compare.share_cores() == compare.Cores()


def test_configuration_has_one_endpoint_per_origin_port() -> None:
    bootstrap = yaml.safe_load(peers.envoy_yaml(1, 2, 3, 4))
    assert bootstrap["admin"]["address"]["socket_address"]["port_value"] == 2
    [endpoints] = bootstrap["static_resources"]["clusters"][0]["load_assignment"]["endpoints"]
    ports = [e["endpoint"]["address"]["socket_address"]["port_value"] for e in endpoints["lb_endpoints"]]
    assert ports == [3, 4]
