"""The scenarios of the side-by-side comparison, each as one row, and the wrk script that plays it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from loadtests.measure import RESULT_MARK

SMALL_BODY_BYTES: Final = 128
FILES: Final = {"64k": 64 * 1024, "1m": 1024 * 1024}  # what the origin serves from disk, path -> bytes

# What a browser sends with a navigation, ten headers beside host.
BROWSER_HEADERS: Final = {
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0 Safari/537.36",
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "Accept-Language": "en-GB,en;q=0.9,de;q=0.8",
    "Accept-Encoding": "gzip, deflate, br, zstd",
    "Cache-Control": "no-cache",
    "Cookie": "session=0123456789abcdef0123456789abcdef; theme=dark; consent=yes",
    "Referer": "http://www.example.com/previous/page?from=here",
    "Sec-Fetch-Dest": "document",
    "Sec-Fetch-Mode": "navigate",
    "Upgrade-Insecure-Requests": "1",
}

# The end of every script: one line that ``measure.parse_wrk`` reads.
RESULT_LUA: Final = (
    "function done(summary, latency, requests)\n"
    "  local e = summary.errors\n"
    f"  io.write(string.format('\\n{RESULT_MARK}"
    '{"requests": %d, "duration_us": %d, "bytes": %d, "failed": %d, "p50_us": %f, "p99_us": %f}\\n\',\n'
    "    summary.requests, summary.duration, summary.bytes,\n"
    "    e.connect + e.read + e.write + e.status + e.timeout, latency:percentile(50), latency:percentile(99)))\n"
    "end\n"
)


@dataclass(frozen=True, slots=True)
class Scenario:
    """``rate_per_s`` 0: as fast as the connections allow. ``workers`` counts for proxies that can have several."""

    name: str
    title: str
    path: str = "/small"
    connections: int = 64
    headers: tuple[tuple[str, str], ...] = ()
    post_bytes: int = 0
    rate_per_s: int = 0


_TEN: Final = tuple(BROWSER_HEADERS.items())

SCENARIOS: Final = (
    Scenario("small", "small"),
    Scenario("headers", "small + ten headers", headers=_TEN),
    Scenario("64k", "64 KiB body", path="/64k"),
    Scenario("1m", "1 MiB body", path="/1m", connections=32),
    Scenario("post", "POST 10 KiB", path="/post", post_bytes=10 * 1024),
    Scenario("new", "new connection each", headers=(("Connection", "close"),)),
    Scenario("c1000", "1,000 connections", connections=1000),
    Scenario("equal", "equal load", headers=_TEN, rate_per_s=4000),
)


def wrk_script(scenario: Scenario) -> str:
    """Lua for wrk.

    A fixed rate comes from ``delay``: each connection waits a random time, uniform with the mean that gives the rate,
    between an answer and its next request. wrk starts its clock after the delay.
    """
    lines = [f'wrk.headers["{name}"] = "{value}"' for name, value in scenario.headers]
    if scenario.post_bytes:
        lines += ['wrk.method = "POST"', f'wrk.body = string.rep("x", {scenario.post_bytes})']
        lines.append('wrk.headers["Content-Type"] = "application/octet-stream"')
    if scenario.rate_per_s:
        mean_ms = scenario.connections * 1000 / scenario.rate_per_s
        lines.append(f"function delay() return math.random(0, {round(2 * mean_ms)}) end")
    return "\n".join([*lines, RESULT_LUA])
