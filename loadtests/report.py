"""The tables of a comparison, as Markdown and as JSON. Knows nothing of how the numbers came about."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

from loadtests.measure import Sample, median_sample
from loadtests.scenarios import SCENARIOS

if TYPE_CHECKING:
    from loadtests.compare import Results, Settings

_TITLES = {scenario.name: scenario.title for scenario in SCENARIOS}


def sample_line(sample: Sample) -> str:
    return (
        f"{sample.cpu_us_per_request:7.1f} us CPU per request, {sample.rate_per_s:8.0f}/s, "
        f"p50 {sample.p50_us / 1000:.2f} ms, p99 {sample.p99_us / 1000:.2f} ms, {sample.cpu_share:.2f} cores"
    )


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table: first column to the left, the others to the right."""
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def medians(results: Results) -> dict[str, dict[str, Sample]]:
    """scenario -> proxy -> the median of its rounds."""
    return {
        scenario: {proxy: median_sample(samples) for proxy, samples in by_proxy.items()}
        for scenario, by_proxy in results.samples.items()
    }


def ratio(value: float, base: float) -> str:
    """``value / base`` with two digits; a dash when the base is nothing."""
    return f"{value / base:.2f}" if base else "-"


def _value(sample: Sample | None, name: str, scale: float, digits: int) -> str:
    return "-" if sample is None else f"{getattr(sample, name) / scale:.{digits}f}"


def _by_proxy(results: Results, proxies: list[str], name: str, scale: float, digits: int) -> list[list[str]]:
    return [
        [_TITLES[scenario], *(_value(by_proxy.get(proxy), name, scale, digits) for proxy in proxies)]
        for scenario, by_proxy in medians(results).items()
    ]


def _cpu_table(results: Results, proxies: list[str]) -> str:
    rows = _by_proxy(results, proxies, "cpu_us_per_request", 1, 1)
    peers = [proxy for proxy in proxies if proxy != "workerproxy"] if "workerproxy" in proxies else []
    for row, by_proxy in zip(rows, medians(results).values(), strict=True):
        own = by_proxy.get("workerproxy")
        for peer in peers:
            other = by_proxy.get(peer)
            row.append(ratio(own.cpu_us_per_request, other.cpu_us_per_request) if own and other else "-")
    return table(["CPU us per request", *proxies, *(f"workerproxy / {peer}" for peer in peers)], rows)


def _memory_table(results: Results, proxies: list[str]) -> str:
    def cells(values: dict[str, Any], scale: float) -> list[str]:
        return [f"{values[proxy] / scale:.1f}" if proxy in values else "-" for proxy in proxies]

    rows = []
    if results.rss_bytes:
        rows.append(["RSS of all processes, MiB", *cells(results.rss_bytes, 1 << 20)])
        rows.append(["PSS of all processes, MiB", *cells(results.pss_bytes, 1 << 20)])
    if results.idle_bytes:
        rows.append(["per idle connection, KiB (PSS)", *cells(results.idle_bytes, 1024)])
    return table(["memory", *proxies], rows)


def _workers_table(results: Results) -> str:
    rows = []
    for label, samples in results.two_workers.items():
        sample = median_sample(samples)
        numbers = [f"{sample.rate_per_s:.0f}", f"{sample.cpu_us_per_request:.1f}", f"{sample.cpu_share:.2f}"]
        rows.append([f"{label} worker{'s' if label != '1' else ''}", *numbers])
    return table(["workerproxy", "requests/s", "CPU us per request", "cores used"], rows)


def markdown(results: Results, settings: Settings, machine: dict[str, str], idle_connections: int) -> str:
    """The whole document: what, where, the tables, what failed."""
    proxies = settings.proxies
    parts = [
        "# Measured speed",
        "<!-- Made by `make bench ARGS='--markdown docs/benchmarks.md'`; the numbers are as measured. -->",
        f"Medians of {settings.rounds} interleaved rounds of {settings.duration_s:g} s, one worker each, "
        f"on {datetime.datetime.now(datetime.UTC):%Y-%m-%d}. `loadtests/peers.py` has the configuration of each proxy, "
        "`loadtests/scenarios.py` the requests. CPU is user + system time of all processes of the proxy, divided by "
        "the requests completed. The proxy runs on one core, the origin (nginx) and the load (wrk) on the others; "
        "where those are the bottleneck, the rate is theirs and not the proxy's, and only CPU per request compares.",
        table(["machine", ""], [[name, value] for name, value in machine.items()]),
    ]
    if results.samples:
        parts += [
            "## CPU",
            _cpu_table(results, proxies),
            "## Latency",
            "All scenarios but 'equal load' send as fast as their connections allow, so the times are those of full "
            "queues; compare the last row, where all get the same requests per second.",
            table(["p50, ms", *proxies], _by_proxy(results, proxies, "p50_us", 1000, 2)),
            table(["p99, ms", *proxies], _by_proxy(results, proxies, "p99_us", 1000, 2)),
            "## Rate",
            table(["requests/s", *proxies], _by_proxy(results, proxies, "rate_per_s", 1, 0)),
        ]
    if results.rss_bytes or results.idle_bytes:
        parts += [
            "## Memory",
            f"RSS and PSS after all scenarios; per idle connection: growth of PSS of a freshly started proxy over "
            f"{idle_connections:,} connections that stay open after one request each, without the kernel's part.",
            _memory_table(results, proxies),
        ]
    if results.two_workers:
        parts += [
            "## Two workers",
            "Not pinned: proxy, origin and load share all cores, so the rate can double only where there are enough of "
            "them. That CPU per request stays the same is what says that workers do not disturb each other.",
            _workers_table(results),
        ]
    if results.errors:
        parts += ["## What failed", "\n".join(f"- {error}" for error in results.errors)]
    return "\n\n".join(parts) + "\n"


def as_json(results: Results, machine: dict[str, str]) -> dict[str, Any]:
    """Every sample, for further work on the numbers."""
    return {
        "machine": machine,
        "samples": {
            scenario: {proxy: [sample.as_dict() for sample in samples] for proxy, samples in by_proxy.items()}
            for scenario, by_proxy in results.samples.items()
        },
        "two_workers": {label: [sample.as_dict() for sample in s] for label, s in results.two_workers.items()},
        "rss_bytes": results.rss_bytes,
        "pss_bytes": results.pss_bytes,
        "idle_bytes": results.idle_bytes,
        "errors": results.errors,
    }
