"""Finding a running workerproxy and asking it: every way to its address, and a clear line when that does not work."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from envoy.config.bootstrap.v3 import bootstrap_pb2
from google.protobuf import text_format

from tests.support.origin import Answer, Close, Origin, Pause, Send
from tests.support.ports import free_port
from workerproxy import remote
from workerproxy.remote import AdminAddress, RemoteError


def refused(function: Callable[..., object], *arguments: object) -> str:
    with pytest.raises(RemoteError) as error:
        function(*arguments)
    text = str(error.value)
    assert "\n" not in text
    return text


# --- addresses


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9901", AdminAddress("127.0.0.1", 9901)),
        ("localhost:9901", AdminAddress("localhost", 9901)),
        ("[::1]:9901", AdminAddress("::1", 9901)),
        (":9901", AdminAddress("127.0.0.1", 9901)),
        ("0.0.0.0:9901", AdminAddress("127.0.0.1", 9901)),
        ("[::]:9901", AdminAddress("::1", 9901)),
        ("/run/admin.sock", AdminAddress(path="/run/admin.sock")),
        ("./admin.sock", AdminAddress(path="./admin.sock")),
        ("@admin", AdminAddress(path="@admin")),
    ],
)
def test_addresses(text: str, address: AdminAddress) -> None:
    assert remote.parse_admin_address(text) == address


@pytest.mark.parametrize("text", ["", "host", "host:", "host:x", "host:0", "host:65536", "::1:80", "[::1]", "a b:1"])
def test_what_is_no_address(text: str) -> None:
    expected = f"{text!r} is not an admin address; expected HOST:PORT, /path/to.sock or @abstract"
    assert refused(remote.parse_admin_address, text) == expected


def test_an_address_is_shown_with_who_says_so() -> None:
    assert str(AdminAddress("127.0.0.1", 1)) == "127.0.0.1:1"
    assert str(AdminAddress("::1", 1, source="from f")) == "[::1]:1 (from f)"
    assert str(AdminAddress(path="@a")) == "@a"


def test_the_default_is_that_of_the_embedded_configuration() -> None:
    address = remote.default_address()
    assert (address.host, address.port) == ("127.0.0.1", 9901)


def test_an_address_written_by_the_process(tmp_path: Path) -> None:
    path = tmp_path / "address"
    assert refused(remote.address_in_file, str(path)) == f"{path} cannot be read: No such file or directory"
    path.write_text("")
    assert refused(remote.address_in_file, str(path)).startswith(f"{path} is empty: ")
    path.write_text("127.0.0.1:1\n")
    assert remote.address_in_file(str(path)) == AdminAddress("127.0.0.1", 1, source=f"from {path}")


# --- addresses in configurations


def in_config(folder: Path, text: str | bytes, name: str = "f.yaml") -> str:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    address = remote.address_in_config(str(path))
    assert address.source == f"admin address of {path}"
    return str(address).partition(" (")[0]


ADMIN = "admin:\n  address:\n    socket_address: { address: 127.0.0.1, port_value: 7 }\n"


@pytest.mark.parametrize(
    "text",
    [
        ADMIN,
        f"---\n# admin: comment\nnode: {{ id: x }}\n{ADMIN}",
        "admin: {address: {socketAddress: {address: 127.0.0.1, portValue: '7'}}}",
        "admin: {address: {socket_address: {address: 0.0.0.0, port_value: 0x7}}}",
        "x: &a {socket_address: {address: 127.0.0.1, port_value: 7}}\nadmin: {address: *a}",
        f"no_such_field: 1\nstatic_resources: 17\n{ADMIN}",
    ],
)
def test_the_address_in_yaml(tmp_path: Path, text: str) -> None:
    assert in_config(tmp_path, text) == "127.0.0.1:7"


@pytest.mark.parametrize(
    "text",
    [
        f"{ADMIN}static_resources: [\n",
        f"static_resources:\n  listeners:\n - a: 1\n{ADMIN}",
        f"static_resources: *nothing\n{ADMIN}",
        f"a: 'open\n{ADMIN}node: 1\n",
        "a: {\nadmin:\n\n  # where\n# it is\n  address:\n    socket_address:\n"
        "      address: 127.0.0.1\r\n\r\n      port_value: 7\nb: }",
        f"a: \x01\n{ADMIN}",
        b"# \xff\n" + ADMIN.encode(),
    ],
)
def test_a_file_that_is_no_yaml_but_has_its_address(tmp_path: Path, text: str | bytes) -> None:
    """Whoever asks for a reload of a broken file is to see what the server says of it."""
    assert in_config(tmp_path, text) == "127.0.0.1:7"


def test_a_pipe(tmp_path: Path) -> None:
    assert in_config(tmp_path, "admin: {address: {pipe: {path: /run/admin.sock}}}") == "/run/admin.sock"


def test_json(tmp_path: Path) -> None:
    text = '{"admin": {"address": {"socketAddress": {"address": "::1", "portValue": 7}}}, "broken": 1}'
    assert in_config(tmp_path, text, "f.json") == "[::1]:7"
    assert in_config(tmp_path, text, "f.conf") == "[::1]:7"


def test_protobuf(tmp_path: Path) -> None:
    bootstrap = bootstrap_pb2.Bootstrap()
    bootstrap.admin.address.socket_address.address = "127.0.0.1"
    bootstrap.admin.address.socket_address.port_value = 7
    assert in_config(tmp_path, bootstrap.SerializeToString(), "f.pb") == "127.0.0.1:7"
    text = text_format.MessageToString(bootstrap)
    assert in_config(tmp_path, text, "f.pb_text") == "127.0.0.1:7"
    bootstrap.admin.address.pipe.path = "@admin"
    assert in_config(tmp_path, bootstrap.SerializeToString(), "f.pb") == "@admin"


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("f.yaml", "a: 1", "{} has no admin address; name it with --admin, or the process with --pidfile or --pid"),
        (
            "f.yaml",
            "admin: {}",
            "{} has no admin address; name it with --admin, or the process with --pidfile or --pid",
        ),
        ("f.yaml", "- admin", "{} has no admin address; name it with --admin, or the process with --pidfile or --pid"),
        (
            "f.yaml",
            "admin: {address: {socket_address: {address: '::1', port_value: 0}}}",
            "the admin port of {} is chosen by the system; find it with --admin-address-path",
        ),
        (
            "f.yaml",
            "admin: {address: {socket_address: {address: '::1'}}}",
            "the admin address of {} makes no sense; name it with --admin",
        ),
        ("f.yaml", "", "the admin address cannot be found: {}:1:1: the text is empty; "),
        ("f.yaml", "a: [", "the admin address cannot be found: {}:"),
        ("f.json", '{"admin": }', "the admin address cannot be found: {}:1:"),
        ("f.pb", "junk", "the admin address cannot be found: {}: "),
        ("f.pb_text", "junk", "the admin address cannot be found: {}: "),
    ],
)
def test_no_address_in_a_configuration(tmp_path: Path, name: str, text: str, error: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    assert refused(remote.address_in_config, str(path)).startswith(error.format(path))


def test_a_configuration_that_cannot_be_read(tmp_path: Path) -> None:
    assert refused(remote.address_in_config, str(tmp_path)) == f"{tmp_path} cannot be read: Is a directory"


# --- asking


def response(body: bytes, status: str = "200 OK", server: bytes = b"server: workerproxy\r\n") -> list[Answer]:
    head = b"HTTP/1.1 %s\r\n%scontent-length: %d\r\n\r\n" % (status.encode(), server, len(body))
    return [Answer([Send(head + body)])]


@pytest.fixture
def origin() -> Iterator[Origin]:
    found = Origin()
    yield found
    found.stop()


def ask(origin: Origin, timeout_s: float = 10) -> remote.Answer:
    return remote.ask(AdminAddress("127.0.0.1", origin.port), "POST", "/reload?no_wait", timeout_s)


def test_a_request_and_its_answer(origin: Origin) -> None:
    origin.play(response("asked ✓\n".encode(), "202 Accepted"))
    assert ask(origin) == remote.Answer(202, "asked ✓\n")
    (connection,) = origin.connections
    head = connection.received.decode().lower().splitlines()
    assert head[0] == "post /reload?no_wait http/1.1"
    assert {f"host: 127.0.0.1:{origin.port}", "content-length: 0", "connection: close"} <= set(head)


@pytest.mark.parametrize("abstract", [False, True])
def test_over_a_unix_socket(tmp_path: Path, abstract: bool) -> None:
    path = f"@workerproxy-test-{os.getpid()}" if abstract else str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path.replace("@", "\0", 1))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(b"HTTP/1.1 200 OK\r\nserver: workerproxy\r\n\r\nhere")

        thread = threading.Thread(target=serve)
        thread.start()
        answer = remote.ask(AdminAddress(path=path), "GET", "/workers", 10)
        thread.join()
    assert answer == remote.Answer(200, "here")


def test_nobody_is_there(tmp_path: Path) -> None:
    port = free_port()
    there = AdminAddress("127.0.0.1", port, source="admin address of f")
    expected = f"nobody answers at 127.0.0.1:{port} (admin address of f): connection refused"
    assert refused(remote.ask, there, "GET", "/", 1) == expected
    path = str(tmp_path / "s")
    assert refused(remote.ask, AdminAddress(path=path), "GET", "/", 1) == f"nobody answers at {path}: no such socket"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(path)
    assert (
        refused(remote.ask, AdminAddress(path=path), "GET", "/", 1) == f"nobody answers at {path}: connection refused"
    )


def test_a_socket_of_somebody_else(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    user = os.geteuid()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        os.chmod(path, 0)
        if user == 0:  # who may connect to everything
            os.seteuid(65534)
        try:
            text = refused(remote.ask, AdminAddress(path=path), "GET", "/", 1)
        finally:
            os.seteuid(user)
    assert text == f"{path}: permission denied; try as the user of that process, or as root"


@pytest.mark.parametrize("address", [AdminAddress(path="/" + "x" * 200), AdminAddress("x" * 300, 80)])
def test_an_address_that_cannot_be(address: AdminAddress) -> None:
    assert refused(remote.ask, address, "GET", "/", 1).startswith("cannot connect to ")


def test_something_else_is_there(origin: Origin) -> None:
    where = f"127.0.0.1:{origin.port} is not the admin interface of a workerproxy"
    origin.play(response(b"invalid path", "404 Not Found", b"server: envoy\r\n"))
    assert refused(ask, origin) == f"{where}: it calls itself envoy"
    origin.play(response(b"ok", server=b""))
    assert refused(ask, origin) == f"{where}: it does not say what it is"
    origin.play([Answer([Send(b"SSH-2.0-OpenSSH\r\n")], "accept")])
    assert refused(ask, origin) == f"{where}: not HTTP"


def test_it_ends_before_it_has_answered(origin: Origin) -> None:
    where = f"127.0.0.1:{origin.port} closed the connection without an answer; its log says why"
    origin.play([Answer([Close()])])
    assert refused(ask, origin) == where
    origin.play([Answer([Close(reset=True)])])
    assert refused(ask, origin) == where
    origin.play([Answer([Send(b"HTTP/1.1 200 OK\r\nserver: workerproxy\r\ncontent-length: 9\r\n\r\nhal"), Close()])])
    assert refused(ask, origin) == where


def test_it_does_not_answer_in_time(origin: Origin) -> None:
    origin.play([Answer([Pause(60)])])
    expected = f"no answer from 127.0.0.1:{origin.port} within 0.05 s; what was asked for goes on"
    assert refused(ask, origin, 0.05) == expected


# --- signals


TITLED = """
import signal, sys
from setproctitle import setproctitle
setproctitle(sys.argv[1])
if sys.argv[2] == "handler":
    signal.signal(signal.SIGHUP, lambda number, frame: sys.exit(7))
elif sys.argv[2] == "blocked":
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
print("ready", flush=True)
signal.pause()
"""
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a process of that title, which takes SIGHUP or does not."""
    started: list[subprocess.Popen[bytes]] = []

    def start(title: str, hup: str = "handler") -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-c", TITLED, title, hup], stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("title", ["workerproxy: main", "workerproxy: main (draining)", "workerproxy: keeper"])
def test_a_signal_reaches_a_main_process(start: Start, title: str) -> None:
    process = start(title)
    remote.signal_main(process.pid, signal.SIGHUP)
    assert process.wait(10) == 7


@pytest.mark.parametrize("title", ["something else", "workerproxy: worker 0"])
def test_no_signal_for_anybody_else(start: Start, title: str) -> None:
    process = start(title)
    expected = f"process {process.pid} is not the main process of a workerproxy; it is {title!r}"
    assert refused(remote.signal_main, process.pid, signal.SIGHUP) == expected
    assert process.poll() is None


def test_no_signal_for_a_main_process_that_it_would_kill(start: Start) -> None:
    process = start("workerproxy: main", "default")
    expected = f"process {process.pid} does not take SIGHUP: it is starting or ending; try again"
    assert refused(remote.signal_main, process.pid, signal.SIGHUP) == expected
    assert process.poll() is None


def test_a_signal_for_a_main_process_that_takes_it_later(start: Start) -> None:
    process = start("workerproxy: main", "blocked")
    remote.signal_main(process.pid, signal.SIGHUP)
    assert b"ShdPnd:\t0000000000000001" in Path(f"/proc/{process.pid}/status").read_bytes()


def test_a_process_that_has_ended(start: Start) -> None:
    process = start("workerproxy: main")
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    expected = f"process {process.pid} is not the main process of a workerproxy"
    assert refused(remote.signal_main, process.pid, signal.SIGHUP) == expected
    process.wait()
    assert refused(remote.signal_main, process.pid, signal.SIGHUP) == f"there is no process {process.pid}"


def test_a_pid_file(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    assert refused(remote.pid_in_file, str(path)) == f"{path} cannot be read: No such file or directory"
    path.write_text("12\n")
    assert remote.pid_in_file(str(path)) == 12
    for text in ("", "0", "-1", "x", "99999999999999999999"):
        path.write_text(text)
        assert refused(remote.pid_in_file, str(path)) == f"{path} does not hold a process id"
