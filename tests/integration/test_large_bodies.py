"""Bodies of 100 MB in both directions: right to the last byte, in bounded memory, at the pace of the slower side."""

from __future__ import annotations

import contextlib
import http.client
import resource
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Final

import pytest

from tests.integration import bulk
from tests.integration.bulk import BulkOrigin, MemoryWatch, content, digest, read_digest
from tests.integration.stage import Listener, Plan, Stage, cluster, endpoint, route, tcp, wait_quiet
from tests.integration.strace import Call, Strace

LARGE: Final = 100 << 20  # bytes
DIGEST: Final = digest(LARGE)
MEMORY_BOUND: Final = 24 << 20  # bytes by which a worker may grow
IN_FLIGHT_BOUND: Final = 40 << 20  # what three pairs of socket buffers, a pipe and the watermarks may hold
FRAMINGS: Final = ("length", "chunked")
MOVES: Final = "splice,recvfrom,recvmsg,read,sendto,sendmsg,write,writev,pipe2"

_paths = (f"/bulk/{number}" for number in count())


@pytest.fixture(scope="module")
def origin() -> Iterator[BulkOrigin]:
    running = BulkOrigin()
    yield running
    running.stop()


def plan(origin: BulkOrigin) -> Plan:
    return Plan(
        listeners={"main": Listener(), "idle": Listener({"stream_idle_timeout": "0.5s"})},
        clusters=[cluster("bulk", [endpoint(tcp(origin.port))])],
        routes=[route("/bulk/", "bulk", timeout="0s")],
    )


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, origin: BulkOrigin) -> Iterator[Stage]:
    with Stage(tmp_path_factory.mktemp("proxy"), plan(origin)) as running:
        yield running


@pytest.fixture
def path() -> str:
    return next(_paths)


@contextlib.contextmanager
def download(
    port: int, path: str, size: int, framing: str, receive_buffer: int = 0, pause_s: float = 0
) -> Iterator[http.client.HTTPResponse]:
    """A response whose head has come; ``pause_s`` is between the blocks that the origin sends."""
    with contextlib.closing(bulk.connect(port, receive_buffer)) as connection:
        fields = {"x-send": str(size), "x-framing": framing, "x-pause": str(pause_s)}
        connection.request("GET", path, headers=fields)
        with connection.getresponse() as response:
            assert response.status == 200
            yield response


def upload(port: int, path: str, blocks: Iterator[bytes], size: int, framing: str) -> str:
    """The digest the origin found."""
    with contextlib.closing(bulk.connect(port)) as connection:
        fields = {"content-length": str(size)} if framing == "length" else {"transfer-encoding": "chunked"}
        connection.request("POST", path, blocks, fields, encode_chunked=framing == "chunked")
        with connection.getresponse() as response:
            assert response.status == 200
            return response.read().decode()


@pytest.mark.parametrize("framing", [*FRAMINGS, "close"])
def test_a_large_response_arrives_whole_in_bounded_memory(
    stage: Stage, origin: BulkOrigin, path: str, framing: str
) -> None:
    origin.plan(path)
    with MemoryWatch(stage.worker()) as memory, download(stage.port, path, LARGE, framing) as response:
        assert read_digest(response) == (LARGE, DIGEST)
    assert memory.growth < MEMORY_BOUND


@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_large_request_arrives_whole_in_bounded_memory(
    stage: Stage, origin: BulkOrigin, path: str, framing: str
) -> None:
    transfer = origin.plan(path)
    with MemoryWatch(stage.worker()) as memory:
        assert upload(stage.port, path, content(LARGE), LARGE, framing) == DIGEST
    assert transfer.received == LARGE
    assert memory.growth < MEMORY_BOUND


@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_client_that_does_not_read_stops_the_origin(
    stage: Stage, origin: BulkOrigin, path: str, framing: str
) -> None:
    transfer = origin.plan(path)
    with (
        MemoryWatch(stage.worker()) as memory,
        download(stage.port, path, LARGE, framing, receive_buffer=1 << 16) as response,
    ):
        stood_at = wait_quiet(lambda: transfer.sent)
        assert stood_at < IN_FLIGHT_BOUND
        assert read_digest(response) == (LARGE, DIGEST)
    assert memory.growth < MEMORY_BOUND


@pytest.mark.parametrize("framing", FRAMINGS)
def test_an_origin_that_does_not_read_stops_the_client(
    stage: Stage, origin: BulkOrigin, path: str, framing: str
) -> None:
    transfer = origin.plan(path, held=True)
    sent: list[int] = [0]
    found: list[str] = []

    def blocks() -> Iterator[bytes]:
        for block in content(LARGE):
            yield block
            sent[0] += len(block)

    def send() -> None:
        found.append(upload(stage.port, path, blocks(), LARGE, framing))

    client = threading.Thread(target=send, daemon=True)
    with MemoryWatch(stage.worker()) as memory:
        client.start()
        stood_at = wait_quiet(lambda: sent[0])
        assert stood_at < IN_FLIGHT_BOUND
        transfer.gate.set()
        client.join(bulk.TIMEOUT_S)
    assert found == [DIGEST]
    assert memory.growth < MEMORY_BOUND


# --- splice


def moved(calls: list[Call], name: str) -> int:
    return sum(call.result for call in calls if call.name == name and call.result > 0)


@pytest.mark.parametrize("direction", ["down", "up"])
def test_a_body_of_known_length_does_not_enter_the_process(
    stage: Stage, origin: BulkOrigin, path: str, direction: str, tmp_path: Path
) -> None:
    size = 8 << 20
    origin.plan(path)
    with Strace(stage.worker().pid, MOVES, tmp_path) as strace:
        if direction == "down":
            with download(stage.port, path, size, "length") as response:
                assert read_digest(response) == (size, digest(size))
        else:
            assert upload(stage.port, path, content(size), size, "length") == digest(size)
    calls = strace.calls()
    assert moved(calls, "splice") > 2 * 0.9 * size  # into the pipe and out of it
    assert moved(calls, "recvfrom") < 0.1 * size


@pytest.mark.parametrize("framing", FRAMINGS)
def test_without_pipes_bodies_are_copied(tmp_path: Path, origin: BulkOrigin, path: str, framing: str) -> None:
    size = 16 << 20
    with Stage(tmp_path, plan(origin)) as stage:
        connection = bulk.connect(stage.port)
        origin.plan(path)
        connection.request("POST", path, b"first")  # both connections are open now
        with connection.getresponse() as response:
            response.read()
        worker = stage.worker()
        lowest_free = next(fd for fd in count() if not Path(f"/proc/{worker.pid}/fd/{fd}").exists())
        _, hard_limit = resource.prlimit(worker.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (lowest_free, hard_limit))

        origin.plan(path)
        with Strace(worker.pid, MOVES, tmp_path) as strace:
            fields = {"x-send": str(size), "x-framing": framing}
            if framing == "length":
                fields["content-length"] = str(size)
            else:
                fields["transfer-encoding"] = "chunked"
            connection.request("POST", path, content(size), fields, encode_chunked=framing == "chunked")
            with connection.getresponse() as response:
                assert read_digest(response) == (size, digest(size))
        connection.close()
    calls = strace.calls()
    assert not moved(calls, "splice")
    tried = [call.rest for call in calls if call.name == "pipe2"]
    assert all(rest.startswith("EMFILE") for rest in tried)
    assert bool(tried) == (framing == "length")


# --- timeouts


@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_response_that_moves_is_not_idle(stage: Stage, origin: BulkOrigin, path: str, framing: str) -> None:
    size = 8 * bulk.BLOCK
    origin.plan(path)
    with download(stage.ports["idle"], path, size, framing, pause_s=0.2) as response:  # 1.6 s in all
        assert read_digest(response) == (size, digest(size))


@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_request_that_moves_is_not_idle(stage: Stage, origin: BulkOrigin, path: str, framing: str) -> None:
    size = 8 * bulk.BLOCK
    origin.plan(path)

    def slowly() -> Iterator[bytes]:
        for block in content(size):
            threading.Event().wait(0.2)
            yield block

    assert upload(stage.ports["idle"], path, slowly(), size, framing) == digest(size)


@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_response_that_stands_still_is_idle(stage: Stage, origin: BulkOrigin, path: str, framing: str) -> None:
    origin.plan(path)
    size = 2 * bulk.BLOCK
    with (
        download(stage.ports["idle"], path, size, framing, pause_s=3.0) as response,
        pytest.raises(http.client.IncompleteRead),
    ):
        read_digest(response)
    entry = stage.log(path, "idle")
    assert (entry["flags"], entry["details"]) == ("SI", "stream_idle_timeout")


def test_what_is_counted_is_what_was_sent(stage: Stage, origin: BulkOrigin, path: str) -> None:
    size = 5 << 20
    origin.plan(path)
    assert upload(stage.port, path, content(size), size, "length") == digest(size)
    assert stage.log(path)["received"] == size
    path = next(_paths)
    origin.plan(path)
    with download(stage.port, path, size, "length") as response:
        read_digest(response)
    assert stage.log(path)["sent"] == size


def test_the_origins_of_large_bodies_stay_in_the_pool(stage: Stage, origin: BulkOrigin, path: str) -> None:
    before = stage.stats("upstream_cx_total")
    for _ in range(3):
        origin.plan(path)
        with download(stage.port, path, 4 << 20, "length") as response:
            read_digest(response)
    after = stage.stats("upstream_cx_total")
    name = "cluster.bulk.upstream_cx_total"
    assert after[name] - before.get(name, 0) <= 1
