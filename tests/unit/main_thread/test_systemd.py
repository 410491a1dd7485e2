"""systemd's protocols, each against a real datagram socket or real descriptors in a process of its own."""

from __future__ import annotations

import array
import asyncio
import json
import logging
import os
import re
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from workerproxy.control.listen_filter import refuse_new, take_new
from workerproxy.main_thread.listener_sockets import listening_address
from workerproxy.main_thread.systemd import (
    STORED_PREFIX,
    InheritedSocket,
    Notifier,
    ServiceManager,
    WatchdogTimer,
    for_successor,
    has_reuse_port,
    inherited_sockets,
    is_reachable,
    store_name,
    without_systemd,
)

PID: Final = os.getpid()


class Received(NamedTuple):
    fields: dict[str, str]
    fds: list[int]
    sender_pid: int


class Manager:
    """The service manager's end: a datagram socket that asks for the sender's credentials, as systemd's does."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self.socket.settimeout(5)
        self._fds: list[int] = []

    def receive(self) -> Received:
        data, controls, _, _ = self.socket.recvmsg(4096, socket.CMSG_SPACE(300 * 4) + socket.CMSG_SPACE(12))
        fds = array.array("i")
        sender = 0
        for _, kind, value in controls:
            if kind == socket.SCM_RIGHTS:
                fds.frombytes(value)
            else:
                sender = array.array("i", value)[0]
        self._fds += fds
        return Received(dict(line.split("=", 1) for line in data.decode().split("\n")), list(fds), sender)

    def silent(self) -> bool:
        """Whether nothing more has come."""
        return not select.select([self.socket], [], [], 0)[0]

    def close(self) -> None:
        self.socket.close()
        for fd in self._fds:
            os.close(fd)


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    here = Manager(str(tmp_path / "notify") if request.param == "path" else f"@workerproxy-test-{PID}-{time.time_ns()}")
    yield here
    here.close()


@pytest.fixture
def notifier(manager: Manager) -> Iterator[Notifier]:
    made = Notifier({"NOTIFY_SOCKET": manager.address}, PID)
    yield made
    made.close()


# --- notify


@pytest.mark.parametrize(
    ("say", "expected"),
    [
        (lambda n: n.ready("serves"), {"READY": "1", "STATUS": "serves"}),
        (lambda n: n.stopping("drains"), {"STOPPING": "1", "STATUS": "drains"}),
        (lambda n: n.status("two\nlines\tand é"), {"STATUS": "two lines and é"}),
        (lambda n: n.extend_timeout(1.5), {"EXTEND_TIMEOUT_USEC": "1500000"}),
        (lambda n: n.main_pid(42), {"MAINPID": "42"}),
        (lambda n: n.remove_fds("name"), {"FDSTOREREMOVE": "1", "FDNAME": "name"}),
    ],
)
def test_every_message_is_one_datagram_from_this_process(
    say: Callable[[Notifier], None], expected: Mapping[str, str], manager: Manager, notifier: Notifier
) -> None:
    say(notifier)
    assert manager.receive() == Received(dict(expected), [], PID)


def test_a_reload_is_told_with_the_monotonic_time(manager: Manager, notifier: Notifier) -> None:
    before_us = time.monotonic_ns() // 1000
    notifier.reloading("reads the configuration")
    fields = manager.receive().fields
    assert before_us <= int(fields.pop("MONOTONIC_USEC")) <= time.monotonic_ns() // 1000
    assert fields == {"RELOADING": "1", "STATUS": "reads the configuration"}


def test_a_status_that_is_too_long_for_a_datagram_is_cut_between_characters(
    manager: Manager, notifier: Notifier
) -> None:
    notifier.status("x" + "é" * 5000)
    assert manager.receive().fields["STATUS"] == "x" + "é" * 511


def test_after_handing_over_nothing_more_is_said(manager: Manager, notifier: Notifier) -> None:
    notifier.hand_over(42)
    assert manager.receive().fields == {"MAINPID": "42"}
    assert not notifier.active
    notifier.stopping("not ours to say")
    notifier.watchdog()
    assert manager.silent()


def test_a_successor_is_heard_when_it_is_the_main_process(manager: Manager) -> None:
    successor = Notifier({"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "2000000"}, PID, speaks=False)
    successor.status("starts")
    successor.store_fds("name", [manager.socket.fileno()])
    successor.watchdog()
    assert manager.silent()
    successor.speak()
    successor.ready("serves")
    told = [manager.receive() for _ in range(3)]
    assert [next(iter(one.fields)) for one in told] == ["STATUS", "FDSTORE", "READY"]
    assert [len(one.fds) for one in told] == [0, 1, 0]
    assert manager.silent()
    successor.close()


def test_it_is_a_service_manager(notifier: Notifier) -> None:
    supervised: ServiceManager = notifier
    assert repr(supervised).startswith("<Notifier ")


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1234"}])
def test_without_a_socket_every_call_does_nothing(environment: Mapping[str, str]) -> None:
    nobody = Notifier({**environment, "WATCHDOG_USEC": "1000000"}, PID)
    assert (nobody.active, nobody.watchdog_interval_s) == (False, 0.0)
    nobody.ready("serves")
    nobody.reloading("")
    nobody.store_fds("name", [0])
    nobody.watchdog()
    nobody.hand_over(1)
    nobody.close()


def test_a_socket_that_is_gone_is_said_once_and_hurts_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}, PID)
    with caplog.at_level(logging.DEBUG, "workerproxy.main"):
        notifier.ready("serves")
        notifier.store_fds("name", [0])
    notifier.close()
    assert [record.getMessage() for record in caplog.records] == [
        f"cannot notify {tmp_path / 'gone'}: No such file or directory"
    ]


def fill(notifier: Notifier) -> None:
    """Say something until the other side's queue is full."""
    while "waiting=0" in repr(notifier):
        notifier.status("filler")


def test_what_a_full_queue_does_not_take_is_sent_later_in_order(manager: Manager, notifier: Notifier) -> None:
    fill(notifier)
    with socket.socket() as kept:
        notifier.store_fds("name", [kept.fileno()])  # a copy waits: the original may be closed
    notifier.ready("serves")
    while manager.receive().fields == {"STATUS": "filler"}:
        notifier.flush()
        if "waiting=0" in repr(notifier):
            break
    rest = [manager.receive()]
    while "READY" not in rest[-1].fields:
        rest.append(manager.receive())
    told = [one for one in rest if one.fields != {"STATUS": "filler"}]
    assert [next(iter(one.fields)) for one in told] == ["FDSTORE", "READY"]
    assert len(told[0].fds) == 1


def test_what_waits_is_bounded_and_a_late_sign_of_life_is_not_kept(manager: Manager) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "2000000"}, PID)
    fill(notifier)
    notifier.watchdog()
    assert "waiting=1>" in repr(notifier)
    open_before = len(os.listdir("/proc/self/fd"))
    for _ in range(600):
        notifier.store_fds("name", [manager.socket.fileno()])
    assert "waiting=512>" in repr(notifier)
    notifier.close()
    assert len(os.listdir("/proc/self/fd")) == open_before - 1  # only the notifier's own socket went


# --- descriptor store


def test_descriptors_are_stored_under_a_name(manager: Manager, notifier: Notifier) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        notifier.store_fds("workerproxy-x", [one.fileno(), other.fileno()])
        received = manager.receive()
        assert received.fields == {"FDSTORE": "1", "FDNAME": "workerproxy-x", "FDPOLL": "0"}
        assert [os.fstat(fd).st_ino for fd in received.fds] == [os.fstat(sock.fileno()).st_ino for sock in (one, other)]


def test_more_descriptors_than_a_datagram_takes_go_in_several(manager: Manager, notifier: Notifier) -> None:
    notifier.store_fds("name", [manager.socket.fileno()] * 300)
    assert [len(manager.receive().fds) for _ in range(2)] == [253, 47]


@pytest.mark.parametrize(
    "address", ["127.0.0.1:8080", "[2001:db8::1]:443", "/run/workerproxy/" + "é" * 90, "@a:b\n", ""]
)
def test_names_in_the_store_are_what_systemd_takes(address: str) -> None:
    name = store_name(address)
    assert re.fullmatch(r"[!-9;-~]{1,255}", name)  # printable ASCII but the colon
    assert name.startswith(STORED_PREFIX)


def test_every_address_has_a_name_of_its_own() -> None:
    addresses = [
        "127.0.0.1:80",
        "127.0.0.1:8080",
        "[::1]:80",
        "/a:b",
        "/a_b",
        "/" + "x" * 105 + "a",
        "/" + "x" * 105 + "b",
    ]
    assert len({store_name(address) for address in addresses}) == len(addresses)
    assert store_name("127.0.0.1:80").startswith("workerproxy-127.0.0.1_80-")


# --- watchdog


@pytest.mark.parametrize(
    ("environment", "interval_s"),
    [
        ({"WATCHDOG_USEC": "10000000"}, 5.0),
        ({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": str(PID)}, 5.0),
        ({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": str(PID + 1)}, 0.0),
        ({"WATCHDOG_USEC": "0"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
        ({"WATCHDOG_PID": str(PID)}, 0.0),
    ],
)
def test_the_watchdog_is_fed_at_half_its_time_if_this_process_is_meant(
    environment: Mapping[str, str], interval_s: float
) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": "/run/notify", **environment}, PID)
    assert notifier.watchdog_interval_s == interval_s
    notifier.close()


def test_the_event_loop_feeds_the_watchdog_until_it_is_stopped(manager: Manager) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "20000"}, PID)

    async def feed() -> None:
        loop = asyncio.get_running_loop()
        timer = WatchdogTimer(loop, notifier)
        for _ in range(3):
            received = await loop.run_in_executor(None, manager.receive)
            assert received.fields == {"WATCHDOG": "1"}
        timer.stop()
        timer.stop()
        while not manager.silent():
            manager.receive()
        await asyncio.sleep(0.05)  # five times the interval

    asyncio.run(feed())
    assert manager.silent()
    notifier.close()


def test_a_timer_without_systemd_does_nothing() -> None:
    async def start() -> None:
        timer = WatchdogTimer(asyncio.get_running_loop(), Notifier({}, PID))
        timer.stop()

    asyncio.run(start())


# --- environments


ENVIRONMENT: Final = {
    "PATH": "/bin",
    "NOTIFY_SOCKET": "/run/notify",
    "WATCHDOG_USEC": "1",
    "WATCHDOG_PID": "2",
    "LISTEN_PID": "2",
    "LISTEN_FDS": "1",
    "LISTEN_FDNAMES": "x",
    "LISTEN_PIDFDID": "3",
    "JOURNAL_STREAM": "8:9",
}


def test_workers_see_nothing_of_systemd_but_where_stderr_goes() -> None:
    assert without_systemd(ENVIRONMENT) == {"PATH": "/bin", "JOURNAL_STREAM": "8:9"}


def test_a_successor_speaks_for_the_service_and_is_watched() -> None:
    passed = for_successor(ENVIRONMENT)
    assert passed == {"PATH": "/bin", "NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "1", "JOURNAL_STREAM": "8:9"}
    successor = Notifier({**passed, "WATCHDOG_USEC": "4000000"}, PID + 1)
    assert successor.watchdog_interval_s == 2.0
    successor.close()


# --- sockets from systemd

# Prints what it was passed. The shell in front of it puts the descriptors at 3 and up, as systemd does, and its own
# process id, which it keeps, in LISTEN_PID.
SHOW: Final = """
import json, os, sys
from workerproxy.main_thread.systemd import InheritedSocketError, inherited_sockets
try:
    found = inherited_sockets(os.environ, os.getpid())
except InheritedSocketError as error:
    print(json.dumps({"error": str(error)}))
else:
    print(json.dumps([[one.name, one.address, one.socket.fileno(), one.socket.get_inheritable(),
                       one.socket.gettimeout(), one.stored] for one in found]))
"""


def activated(fds: list[int], names: str | None, listen_pid: str = "$$") -> Any:
    """What a program finds that systemd starts with these descriptors."""
    moves = " ".join(f"{3 + index}<&{fd}" for index, fd in enumerate(fds))
    exports = f"LISTEN_PID={listen_pid} LISTEN_FDS={len(fds)}" + ("" if names is None else f" LISTEN_FDNAMES={names}")
    script = f'export {exports}; exec "$0" -c "$1" {moves}'
    argv = ["bash", "-c", script, sys.executable, SHOW]
    done = subprocess.run(argv, pass_fds=fds, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_sockets_are_passed_by_name_and_know_their_addresses(tmp_path: Path) -> None:
    path = str(tmp_path / "s.sock")
    with (
        socket.create_server(("127.0.0.1", 0)) as v4,
        socket.create_server(("::1", 0), family=socket.AF_INET6) as v6,
        socket.socket(socket.AF_UNIX) as unix,
    ):
        unix.bind(path)
        unix.listen()
        found = activated([v4.fileno(), v6.fileno(), unix.fileno()], "http:workerproxy-v6:")
        ports = v4.getsockname()[1], v6.getsockname()[1]
    assert found == [
        ["http", f"127.0.0.1:{ports[0]}", 3, False, 0.0, False],
        ["workerproxy-v6", f"[::1]:{ports[1]}", 4, False, 0.0, True],
        ["unknown", path, 5, False, 0.0, False],
    ]


def test_without_names_they_are_called_unknown() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        (found,) = activated([sock.fileno()], None)
    assert found[0] == "unknown"


def test_sockets_for_another_process_are_not_touched() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        assert activated([sock.fileno()], "http", listen_pid="1") == []


def test_a_socket_passed_twice_is_taken_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        found = activated([one.fileno(), one.fileno(), other.fileno()], "http:workerproxy-http:other")
    assert [name for name, *_ in found] == ["http", "other"]


def test_what_does_not_listen_is_refused_by_its_number_and_name() -> None:
    with socket.create_server(("127.0.0.1", 0)) as good, socket.socket() as idle:
        found = activated([good.fileno(), idle.fileno()], "http:idle")
    assert found == {"error": "descriptor 4 ('idle'), which systemd passed, does not listen; expected Accept=no"}


def test_a_datagram_socket_is_refused() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        found = activated([sock.fileno()], "dns")
    expected = "descriptor 3 ('dns'), which systemd passed, is not a stream socket; expected ListenStream="
    assert found == {"error": expected}


def test_a_descriptor_that_is_no_socket_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        found = activated([file.fileno()], "file")
    assert found == {"error": "descriptor 3 ('file'), which systemd passed, is not a socket"}


def test_a_descriptor_that_is_not_open_is_refused() -> None:
    environment = {"LISTEN_PID": str(PID), "LISTEN_FDS": "99999", "LISTEN_FDNAMES": "x"}
    argv = [
        sys.executable,
        "-c",
        f"import os; os.environ.update({environment!r})\n{SHOW}".replace("os.getpid()", str(PID)),
    ]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True, stdin=subprocess.DEVNULL)
    assert (
        json.loads(done.stdout)["error"]
        == "descriptor 3 ('x'), which systemd passed, cannot be used: Bad file descriptor"
    )


@pytest.mark.parametrize("environment", [{}, {"LISTEN_PID": ""}, {"LISTEN_PID": str(PID)}, {"LISTEN_FDS": "1"}])
def test_no_sockets_are_nothing_special(environment: Mapping[str, str]) -> None:
    assert inherited_sockets(environment, PID) == []


# --- what is known about a socket


def test_a_socket_accepts_again_though_its_last_owner_had_made_it_deaf() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        refuse_new(sock)
        (found,) = activated([sock.fileno()], "workerproxy-http")
        with socket.create_connection(("127.0.0.1", int(found[1].rpartition(":")[2])), timeout=0.5) as client:
            assert client.getpeername() == sock.getsockname()
        take_new(sock)


def test_addresses_are_written_as_listeners_write_them(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as abstract, socket.socket(socket.AF_UNIX) as nameless:
        abstract.bind(f"\0workerproxy-test-{PID}")
        assert listening_address(abstract) == f"@workerproxy-test-{PID}"
        assert listening_address(nameless) == ""
        assert is_reachable(abstract)
        assert not is_reachable(nameless)
    with socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True) as both:
        assert listening_address(both) == f"[::]:{both.getsockname()[1]}"
        assert is_reachable(both)


def test_a_unix_socket_whose_file_is_gone_is_not_reachable(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        assert is_reachable(sock)
        path.unlink()
        assert not is_reachable(sock)
        path.write_text("no socket")
        assert not is_reachable(sock)


def test_whether_a_socket_may_have_others_beside_it_is_known() -> None:
    with socket.create_server(("127.0.0.1", 0)) as alone, socket.socket(socket.AF_UNIX) as unix:
        assert not has_reuse_port(alone)
        assert not has_reuse_port(unix)
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as shared:
        assert has_reuse_port(shared)
        assert InheritedSocket("workerproxy-x", "127.0.0.1:1", shared).stored
