"""What is made of py-spy's samples. Nothing is started."""

from __future__ import annotations

from collections import Counter

import pytest

from loadtests.peers import ROOT
from loadtests.profile import busiest, parse_stacks, render, shorten

STACKS = """\
main (worker.py:9);read_ready (net/connection.py:10);feed (codec.py:5) 6
main (worker.py:9);read_ready (net/connection.py:12) 3
main (worker.py:9);read_ready (net/connection.py:14);feed (codec.py:7) 1
"""


def test_lines_of_one_function_are_one_row() -> None:
    profile = parse_stacks(STACKS)
    assert profile.total == 10
    assert profile.own == {"feed (codec.py)": 7, "read_ready (net/connection.py)": 3}
    assert profile.with_callees["read_ready (net/connection.py)"] == 10
    assert profile.files == {"codec.py": 7, "net/connection.py": 3}


def test_a_function_that_calls_itself_counts_once_per_sample() -> None:
    assert parse_stacks("a (x.py:1);a (x.py:2) 4").with_callees == {"a (x.py)": 4}


def test_anything_else_is_an_error() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        parse_stacks("no count here")


def test_shares_are_turned_into_time_per_request() -> None:
    text = render(parse_stacks(STACKS), user_s=1.5, system_s=0.5, requests=100_000)
    assert text.startswith("20.0 us CPU per request: 15.0 user, 5.0 kernel. 10 samples.")
    assert "| `feed (codec.py)` | 70.0% | 14.00 | 70.0% |" in text
    assert "| `read_ready (net/connection.py)` | 30.0% | 6.00 | 100.0% |" in text


def test_paths_are_shortened() -> None:
    counter = Counter(
        {f"f ({ROOT}/workerproxy/a.py)": 1, "g (/usr/lib/python3/site-packages/lib/b.py)": 2, "h (c.py)": 3}
    )
    shorten(counter)
    assert counter == {"f (workerproxy/a.py)": 1, "g (lib/b.py)": 2, "h (c.py)": 3}


def test_the_worker_under_load_is_the_process_that_used_most_in_between() -> None:
    before = {1: (90.0, 9.0), 2: (1.0, 1.0)}
    after = {1: (90.5, 9.0), 2: (3.0, 4.0), 3: (1.0, 0.5)}
    assert busiest(before, after) == (2, 2.0, 3.0)
