"""Times in formats. The texts of ``PATTERNS`` are what Envoy 1.40 printed for the same instant."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from workerproxy.http.format_times import TimeSource, default_time, formatted_time
from workerproxy.http.formatter import compile_format
from workerproxy.http.stream_info import StreamInfo

INSTANT_NS = 1_795_314_783_324_627_000  # 2026-11-22T02:33:03.324627Z, a Sunday
PATTERNS = {
    "%s": "1795314783",
    "%s.%3f": "1795314783.324",
    "%f|%1f|%6f|%*f": "324627000|3|324627|324627",
    "%Y/%m/%dT%H:%M:%S%z %s": "2026/11/22T02:33:03+0000 1795314783",
    "%E3S|%E*S|%E4f|%Ez|%E*z": "03.324|03.324627|3246|+00:00|+00:00:00",
    "%a %b %e %j %y %Z %% %p %I": "Sun Nov 22 326 26 UTC % AM 02",
    "%D %T %F %R %C %u %w": "11/22/26 02:33:03 2026-11-22 02:33 20 7 0",
    "%E4Y%ET": "2026T",
    "lit": "lit",
}


def source(*instants_ns: int) -> TimeSource:
    """Gives the instants in turn."""
    nanoseconds: Iterator[int] = iter(instants_ns)
    return TimeSource(lambda info: next(nanoseconds), lambda info: next(nanoseconds) // 1_000_000)


@pytest.mark.parametrize(("pattern", "text"), PATTERNS.items())
def test_patterns_print_what_envoy_prints(pattern: str, text: str) -> None:
    assert formatted_time(pattern, source(INSTANT_NS), local=False)(StreamInfo()) == text.encode()


def test_the_default_is_milliseconds_in_utc() -> None:
    stamp = default_time(source(INSTANT_NS, INSTANT_NS, INSTANT_NS + 675_373_000, INSTANT_NS + 10**9), local=False)
    assert [stamp(StreamInfo()) for _ in range(4)] == [
        b"2026-11-22T02:33:03.324Z",
        b"2026-11-22T02:33:03.324Z",
        b"2026-11-22T02:33:04.000Z",
        b"2026-11-22T02:33:04.324Z",
    ]


def test_subseconds_that_are_zero_keep_one_digit_or_vanish() -> None:
    text = formatted_time("%*f|%E*S|%E*f|%3f", source(INSTANT_NS // 10**9 * 10**9), local=False)
    assert text(StreamInfo()) == b"0|03|0|000"


def test_a_pattern_is_rendered_anew_each_second() -> None:
    text = formatted_time("%S.%1f", source(INSTANT_NS, INSTANT_NS + 10**8, INSTANT_NS + 10**9), local=False)
    assert [text(StreamInfo()) for _ in range(3)] == [b"03.3", b"03.4", b"04.3"]


def test_local_times_have_the_offset_of_the_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "XYZ-05:30")
    time.tzset()
    try:
        assert default_time(source(INSTANT_NS), local=True)(StreamInfo()) == b"2026-11-22T08:03:03.324+0530"
        assert formatted_time("%H %z %Ez", source(INSTANT_NS), local=True)(StreamInfo()) == b"08 +0530 +05:30"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_the_start_time_is_the_wall_time_of_the_first_byte() -> None:
    info = StreamInfo()
    info.start_time = time.monotonic() - 5
    before = time.time() - 5
    assert abs(float(compile_format("%START_TIME(%s.%9f)%").format(info)) - before) < 1
    assert abs(float(compile_format("%EMIT_TIME(%s)%").format(info)) - (before + 5)) <= 2


def test_all_times_of_a_line_agree() -> None:
    info = StreamInfo()
    for _ in range(200):
        info.start_time = time.monotonic()
        first, second = compile_format("%START_TIME(%s%9f)% %START_TIME(%s%9f)%").format(info).split()
        assert first == second


def test_a_request_that_runs_has_its_duration_so_far() -> None:
    info = StreamInfo()
    info.start_time = time.monotonic() - 2
    assert 2000 <= int(compile_format("%DURATION%").format(info)) < 60_000
