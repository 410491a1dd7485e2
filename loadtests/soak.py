"""Mixed load for minutes: ``python -m loadtests.soak --minutes 10`` fails when anything grows.

wrk sends a mix at a steady rate (small, echoed headers, 20 kB, 1 MB, uploads, streams, a new connection now and then).
Beside it are clients that misbehave: they drop a download or an upload in the middle, send half a head, send garbage,
read slowly. Memory, descriptors and /stats gauges are sampled all the time; ``growth.py`` has the rules.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from loadtests.growth import AT_REST, GAUGES, MIB, ProcessSample, SoakSample, growth, sum_gauges, unrest
from loadtests.idle import raise_descriptor_limit
from loadtests.measure import (
    MeasureError,
    WrkResult,
    cpu_seconds,
    descriptor_count,
    exit_on_sigterm,
    parse_smaps,
    parse_wrk,
    tree,
)
from loadtests.scenarios import RESULT_LUA
from loadtests.stand import Stand, demo_stand
from tests.support.processes import NotReadyError, http_get

CONNECTIONS: Final = 50
SAMPLES: Final = 60  # over the whole time, but at most one a second
REST_TIMEOUT_S: Final = 30.0

# Every line is as likely as any other, so a repeated one has a weight. Only what wrk counts as a success.
MIX_LUA: Final = """\
local mix
function init(args)
  local get = function(path, headers) return wrk.format("GET", path, headers) end
  local post = function(size) return wrk.format("POST", "/upload", nil, string.rep("u", size)) end
  mix = {
    get("/hello"), get("/hello"), get("/hello"), get("/hello"), get("/hello"), get("/hello"), get("/hello"),
    get("/headers", {["Host"] = "soak", ["X-Fill"] = string.rep("f", 500), ["Cookie"] = "a=1; b=2"}),
    get("/bytes/20000"), get("/bytes/20000"), get("/bytes/1000000"),
    post(10240), post(300000),
    get("/stream/5/1"), get("/delay/20"), get("/status/204"), get("/status/302"),
    get("/hello", {["Host"] = "soak", ["Connection"] = "close"}),
  }
end
function request() return mix[math.random(#mix)] end
function delay() return math.random(0, DELAY_MS) end
"""


class Misbehaviour(threading.Thread):
    """One client after the other, each leaving in its own bad way, until told to stop."""

    def __init__(self, port: int) -> None:
        super().__init__(name="misbehaviour", daemon=True)
        self.port = port
        self.stopping = threading.Event()
        self.done = 0
        self._ways = (
            self._drop_download,
            self._drop_upload,
            self._half_head,
            self._garbage,
            self._slow_reader,
            self._errors,
        )

    def run(self) -> None:
        while not self.stopping.wait(0.05):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=5) as client:
                self._ways[self.done % len(self._ways)](client)
            self.done += 1

    def stop(self) -> None:
        self.stopping.set()
        self.join(30)

    def _drop_download(self, client: socket.socket) -> None:
        client.sendall(b"GET /bytes/50000000 HTTP/1.1\r\nhost: soak\r\n\r\n")
        client.recv(65536)

    def _drop_upload(self, client: socket.socket) -> None:
        client.sendall(b"POST /upload HTTP/1.1\r\nhost: soak\r\ncontent-length: 1000000\r\n\r\n" + b"x" * 10_000)

    def _half_head(self, client: socket.socket) -> None:
        client.sendall(b"GET /hello HTTP/1.1\r\nhost: so")

    def _garbage(self, client: socket.socket) -> None:
        client.sendall(b"\x16\x03\x01 this is not HTTP\r\n\r\n")
        client.recv(65536)

    def _errors(self, client: socket.socket) -> None:
        """Not bad manners, but answers that wrk would count as failures or not understand."""
        client.sendall(b"HEAD /bytes/1000 HTTP/1.1\r\nhost: soak\r\n\r\n")
        client.sendall(b"GET /status/503 HTTP/1.1\r\nhost: soak\r\nconnection: close\r\n\r\n")
        while client.recv(65536):
            pass

    def _slow_reader(self, client: socket.socket) -> None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(b"GET /bytes/2000000 HTTP/1.1\r\nhost: soak\r\nconnection: close\r\n\r\n")
        for _ in range(20):
            if not client.recv(4096) or self.stopping.wait(0.05):
                return


def take_sample(stand: Stand, started: float) -> SoakSample:
    """Raises NotReadyError when the admin interface does not answer."""
    processes = {}
    for process in tree(stand.proxy.pid):
        with contextlib.suppress(OSError):  # it ended meanwhile
            rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
            counted = descriptor_count(process.pid)
            processes[process.pid] = ProcessSample(parse_smaps(rollup, "Rss"), parse_smaps(rollup, "Pss"), counted)
    status, text = http_get(stand.proxy.admin_port, "/stats", timeout_s=10)
    if status != 200:
        raise NotReadyError(f"admin /stats answered {status}")
    return SoakSample(time.monotonic() - started, processes, sum_gauges(text))


def sample_line(sample: SoakSample) -> str:
    memory = " ".join(f"{process.rss_bytes / MIB:.1f}" for process in sample.processes.values())
    pss = sum(process.pss_bytes for process in sample.processes.values()) / MIB
    open_ = " ".join(str(process.descriptors) for process in sample.processes.values())
    gauges = " ".join(f"{name}={sample.gauges[name]}" for name in GAUGES)
    return f"{sample.at_s:6.0f} s  RSS {memory} MiB (PSS in all {pss:.1f})  descriptors {open_}  {gauges}"


def rest(stand: Stand, started: float) -> SoakSample:
    """A sample once nothing is active any more, or the last one when that takes too long."""
    deadline = time.monotonic() + REST_TIMEOUT_S
    while True:
        sample = take_sample(stand, started)
        if not any(sample.gauges[name] for name in AT_REST) or time.monotonic() > deadline:
            return sample
        time.sleep(0.5)


def soak(stand: Stand, seconds: float, rate_per_s: int) -> list[str]:
    """Load, sample, judge; what is wrong."""
    started = time.monotonic()
    before = take_sample(stand, started)
    print(sample_line(before), flush=True)
    samples = []
    with tempfile.TemporaryDirectory(prefix="workerproxy-soak-") as directory:
        script = Path(directory) / "mix.lua"
        delay_ms = 2 * CONNECTIONS * 1000 // rate_per_s
        script.write_text(MIX_LUA.replace("DELAY_MS", str(delay_ms)) + RESULT_LUA)
        argv = [
            "wrk",
            "-t1",
            f"-c{CONNECTIONS}",
            f"-d{round(seconds)}s",
            "--timeout",
            "20s",
            "-s",
            str(script),
            stand.url,
        ]
        misbehaviour = Misbehaviour(stand.proxy.port)
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as wrk:
            try:
                misbehaviour.start()
                interval_s = max(1.0, seconds / SAMPLES)
                while wrk.poll() is None and time.monotonic() - started < seconds + 60:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        wrk.wait(interval_s)
                        break
                    samples.append(take_sample(stand, started))
                    if len(samples) % max(1, round(min(60, seconds / 6) / interval_s)) == 0:
                        print(sample_line(samples[-1]), flush=True)
            finally:
                wrk.terminate()
                misbehaviour.stop()
            output = wrk.stdout.read() if wrk.stdout else ""
    result = parse_wrk(output)
    after = rest(stand, started)
    print(sample_line(after), flush=True)
    cpu_us = cpu_seconds(stand.proxy.pid) * 1e6 / max(1, result.requests)
    print(f"{result.requests} requests, {result.failed} failed, {cpu_us:.0f} us CPU of the proxy for each")
    print(f"{misbehaviour.done} misbehaving clients")
    return _failures(result) + growth(samples) + unrest(before, after) + stand.complaints()


def _failures(result: WrkResult) -> list[str]:
    if not result.requests:
        return ["no request was answered"]
    return [f"{result.failed} requests failed"] if result.failed else []


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtests.soak", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=10, help="how long (default: %(default)s, at most 600)")
    parser.add_argument("--rate", type=int, default=800, help="requests per second, about (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="workers of the proxy (default: %(default)s)")
    parser.add_argument("--proxy", choices=["workerproxy", "envoy"], default="workerproxy")
    options = parser.parse_args(arguments)
    exit_on_sigterm()
    if not 0 < options.minutes <= 600 or not 1 <= options.rate <= 100_000:
        parser.error("--minutes must be above 0 and at most 600, --rate from 1 to 100000")
    raise_descriptor_limit(8192)
    try:
        with demo_stand(options.proxy, options.workers) as stand:
            wrong = soak(stand, options.minutes * 60, options.rate)
    except (FileNotFoundError, NotReadyError, MeasureError) as error:
        print(error, file=sys.stderr)
        return 1
    for line in wrong:
        print(f"WRONG: {line}")
    print("soak: " + ("failed" if wrong else "nothing grew"))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
