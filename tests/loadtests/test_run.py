"""What the load scenarios take and how a run of Locust is judged. Nothing is started."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from loadtests.run import SCENARIOS, judge, locust_command, parse_duration

ROOT = Path(__file__).resolve().parents[2]


def report(requests: int, *failures: tuple[str, str, int]) -> str:
    keys = ("name", "error", "occurrences")
    entries = [dict(zip(keys, failure, strict=True)) for failure in failures]
    return json.dumps({"requests": requests, "failures": entries})


def test_failures_are_named_with_their_reason() -> None:
    text = report(15, ("/bytes 9", "7 bytes instead of 9", 2))
    assert judge(text) == (15, ["2 x /bytes 9: 7 bytes instead of 9"])


def test_a_run_without_failures_has_nothing_wrong() -> None:
    assert judge(report(15)) == (15, [])


def test_a_run_without_requests_is_wrong() -> None:
    assert judge(report(0)) == (0, ["no request was made"])


@pytest.mark.parametrize(("text", "seconds"), [("20", 20), ("20s", 20), ("5m", 300), ("1h", 3600)])
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0s", "2h", "1.5m", "-1", "s", "99999999"])
def test_bad_durations_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        parse_duration(text)


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_has_its_file_and_a_bound(name: str) -> None:
    argv = locust_command(name, "http://127.0.0.1:1", 7, 3)
    assert Path(argv[argv.index("-f") + 1]).is_file()
    shaped = "LoadTestShape" in (ROOT / "loadtests" / "locustfiles" / f"{name}.py").read_text()
    assert shaped == SCENARIOS[name].shaped
    assert shaped != ("7s" in argv)


def test_every_file_is_a_scenario() -> None:
    shared = {"__init__", "common", "raw", "report"}
    assert {path.stem for path in (ROOT / "loadtests" / "locustfiles").glob("*.py")} - shared == set(SCENARIOS)
