"""The commands to a running process: what each asks, what it prints, and its exit status."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from signal import SIGHUP, SIGUSR2
from typing import Any, NamedTuple

import pytest

from tests.support.origin import Answer, Origin, Send
from tests.support.ports import free_port
from workerproxy import cli, subcommands
from workerproxy.config.command_line import UsageError

ROOT = Path(__file__).resolve().parents[2]


class Run(NamedTuple):
    status: int
    out: str
    err: str
    asked: str = ""  # the request line's method and target


class Lab:
    """A scripted admin interface, and the command line that talks to it."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.origin = Origin()
        self._capsys = capsys

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.origin.port}"

    def run(self, *argv: str) -> Run:
        status = cli.main(argv)
        return Run(status, *self._capsys.readouterr())

    def ask(self, command: str, answer: Any, status: str = "200 OK", server: str = "workerproxy") -> Run:
        """Run ``command`` against an admin interface that answers with a text, or with an object as JSON."""
        body = (answer if isinstance(answer, str) else json.dumps(answer, indent=1)).encode()
        head = f"HTTP/1.1 {status}\r\nserver: {server}\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        self.origin.play([Answer([Send(head + body)])])
        run = self.run(*shlex.split(command), "--admin", self.address)
        (connection,) = self.origin.connections
        return run._replace(asked=connection.received.split(b" HTTP", 1)[0].decode())


@pytest.fixture
def lab(capsys: pytest.CaptureFixture[str]) -> Iterator[Lab]:
    found = Lab(capsys)
    yield found
    found.origin.stop()


def result(**fields: Any) -> dict[str, Any]:
    plain = {"ok": True, "version": 4, "changes": [], "drains": [], "errors": [], "dry_run": False}
    return plain | fields


# --- reload


def test_a_reload_is_only_asked_for(lab: Lab) -> None:
    run = lab.ask("reload", "reload asked\n", "202 Accepted")
    assert run == Run(0, "reload asked\n", "", "POST /reload?no_wait")


def test_a_reload_that_is_waited_for(lab: Lab) -> None:
    answer = result(changes=["cluster a changed", "route table r changed"], drains=["listener l: 3 connections"])
    run = lab.ask("reload --wait", answer)
    assert run.asked == "POST /reload?format=json"
    assert (run.status, run.err) == (0, "")
    assert run.out.splitlines() == [
        "version 4 is active",
        "  cluster a changed",
        "  route table r changed",
        "draining",
        "  listener l: 3 connections",
    ]


def test_a_reload_that_changes_nothing(lab: Lab) -> None:
    assert lab.ask("reload --wait", result()).out == "version 4 is active; nothing changed\n"


def test_a_dry_run(lab: Lab) -> None:
    run = lab.ask("reload --dry-run", result(dry_run=True, changes=["listener l removed"], drains=["listener l"]))
    assert run.asked == "POST /reload?dry_run&format=json"
    assert run.status == 0
    assert run.out.splitlines() == [
        "dry run, version 4 stays active; this would change",
        "  listener l removed",
        "this would drain",
        "  listener l",
    ]
    run = lab.ask("reload --wait --dry-run", result(dry_run=True))
    assert run.out == "dry run, version 4 stays active; nothing would change\n"


@pytest.mark.parametrize("flag", ["--wait", "--dry-run"])
def test_a_reload_that_is_refused(lab: Lab, flag: str) -> None:
    errors = ["f.yaml:1:1: unknown field 'a'", "f.yaml:2:1: unknown field 'b'"]
    run = lab.ask(f"reload {flag}", result(ok=False, errors=errors), "400 Bad Request")
    assert (run.status, run.out) == (1, "")
    assert run.err.splitlines() == [*errors, "workerproxy reload: refused (2 errors), version 4 stays active"]


def test_a_reload_that_is_refused_with_one_error_and_without(lab: Lab) -> None:
    run = lab.ask("reload --wait", result(ok=False, errors=["so"]), "409 Conflict")
    assert run.err == "so\nworkerproxy reload: refused (1 error), version 4 stays active\n"
    assert lab.ask("reload --wait", {"ok": False}, "409 Conflict").err.startswith("no reason is given\n")


def test_a_reload_refused_in_text(lab: Lab) -> None:
    run = lab.ask("reload --wait", "it is starting or stopping\n", "409 Conflict")
    assert run[:3] == (1, "", "workerproxy reload: it is starting or stopping\n")


# --- roll, upgrade


@pytest.mark.parametrize("command", ["roll", "upgrade"])
def test_what_takes_long_and_answers_in_text(lab: Lab, command: str) -> None:
    assert lab.ask(f"{command} --wait", "one\ntwo\n") == Run(0, "one\ntwo\n", "", f"POST /{command}")
    run = lab.ask(command, "worker 0: done\nworker 1: no answer\n", "500 Internal Server Error")
    assert run[:3] == (1, "", f"worker 0: done\nworkerproxy {command}: worker 1: no answer\n")
    assert lab.ask(command, "", "500 Internal Server Error").err == f"workerproxy {command}: refused with status 500\n"


# --- workers


def test_the_workers_are_shown(lab: Lab) -> None:
    rows = [
        {"worker": 0, "state": "serving", "pid": 100, "lag_ms": 0.1, "cpus": [0, 1]},
        {"worker": 1, "state": "empty", "pid": 0, "lag_ms": 12.0},
    ]
    run = lab.ask("workers", {"main_pid": 99, "workers": rows})
    assert (run.asked, run.status, run.err) == ("GET /workers?format=json", 0, "")
    assert run.out.splitlines() == [
        "main_pid 99",
        "worker  state    pid  lag_ms  cpus",
        "     0  serving  100     0.1  [0,1]",
        "     1  empty      0    12.0  -",
    ]


def test_there_may_be_no_worker(lab: Lab) -> None:
    assert lab.ask("workers", {"workers": []}).out == "\n"


def test_the_number_of_workers_is_changed(lab: Lab) -> None:
    run = lab.ask("workers 4", "4 workers\n")
    assert run == Run(0, "4 workers\n", "", "POST /workers?count=4")
    assert lab.ask("workers 9999", "at most 64\n", "400 Bad Request")[:3] == (
        1,
        "",
        "workerproxy workers: at most 64\n",
    )


# --- who cannot be asked


def test_an_older_version(lab: Lab) -> None:
    run = lab.ask("roll", "invalid path. admin commands are:\n  /: Admin home page\n", "404 Not Found")
    expected = "workerproxy roll: this workerproxy does not know the command; is it an older version?\n"
    assert run[:3] == (1, "", expected)


def test_a_path_that_is_not_allowed(lab: Lab) -> None:
    run = lab.ask("workers", "request to path /workers not allowed", "403 Forbidden")
    assert run[:3] == (1, "", "workerproxy workers: request to path /workers not allowed\n")


def test_another_program(lab: Lab) -> None:
    run = lab.ask("reload", "ok", server="envoy")
    expected = f"{lab.address} is not the admin interface of a workerproxy: it calls itself envoy"
    assert run[:3] == (1, "", f"workerproxy reload: {expected}\n")


def test_nobody_is_there(lab: Lab) -> None:
    address = f"127.0.0.1:{free_port()}"
    run = lab.run("reload", "--admin", address)
    assert run[:3] == (1, "", f"workerproxy reload: nobody answers at {address}: connection refused\n")


# --- how the process is found


def test_by_the_configuration_it_was_started_with(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(
        f"admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {lab.origin.port}}}}}}}\na: 1"
    )
    for flag in ("-c", "--config-path"):
        lab.origin.play(
            [Answer([Send(b"HTTP/1.1 202 Accepted\r\nserver: workerproxy\r\ncontent-length: 2\r\n\r\nok")])]
        )
        assert lab.run("reload", flag, str(path)) == Run(0, "ok\n", "")


def test_by_the_address_it_has_written(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "address"
    path.write_text(lab.address)
    lab.origin.play([Answer([Send(b"HTTP/1.1 202 Accepted\r\nserver: workerproxy\r\ncontent-length: 2\r\n\r\nok")])])
    assert lab.run("reload", "--admin-address-path", str(path)) == Run(0, "ok\n", "")


MAIN = """
import signal, sys
from setproctitle import setproctitle
setproctitle("workerproxy: main")
for number in (signal.SIGHUP, signal.SIGUSR2):
    signal.signal(number, lambda number, frame: sys.exit(number))
print("ready", flush=True)
signal.pause()
"""


@pytest.mark.parametrize(("command", "number"), [("reload", SIGHUP), ("upgrade", SIGUSR2)])
@pytest.mark.parametrize("flag", ["--pid", "--pidfile"])
def test_by_its_id(lab: Lab, tmp_path: Path, command: str, number: int, flag: str) -> None:
    with subprocess.Popen([sys.executable, "-c", MAIN], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            path = tmp_path / "pid"
            path.write_text(f"{process.pid}\n")
            run = lab.run(command, flag, str(path) if flag == "--pidfile" else str(process.pid))
            assert run == Run(0, f"{command} asked of process {process.pid}; its log says what becomes of it\n", "")
            assert process.wait(10) == number
        finally:
            process.kill()


def test_no_signal_for_a_process_that_is_another(lab: Lab) -> None:
    run = lab.run("reload", "--pid", str(os.getpid()))
    assert run.err.startswith(f"workerproxy reload: process {os.getpid()} is not the main process of a workerproxy; ")


# --- usage


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (
            "reload --wait --pid 1",
            "--pid sends a signal, and a signal has no answer to wait for; use -c, --admin or --admin-address-path",
        ),
        (
            "reload --dry-run --pidfile f",
            "--pidfile sends a signal, and a signal has no answer to wait for; use -c, --admin or --admin-address-path",
        ),
        ("roll --pid 1", "--pid: there is no signal for this; use -c, --admin or --admin-address-path"),
        ("workers 3 --pidfile f", "--pidfile: there is no signal for this; use -c, --admin or --admin-address-path"),
        ("reload -c f --pid 1", "argument --pid: not allowed with argument -c/--config-path"),
        ("reload --pid 0", "argument --pid: not a number from 1 on: '0'"),
        ("workers 0", "argument N: not a number from 1 on: '0'"),
        ("workers two", "argument N: not a number from 1 on: 'two'"),
        ("workers 1 2", "unknown argument '2'"),
        ("reload --wiat", "unknown argument '--wiat'; did you mean '--wait'?"),
        (
            "upgrade --wait --pid 1",
            "--pid sends a signal, and a signal has no answer to wait for; use -c, --admin or --admin-address-path",
        ),
        ("reload --timeout-s 0", "argument --timeout-s: not a number from 1 on: '0'"),
    ],
)
def test_usage_errors(lab: Lab, command: str, error: str) -> None:
    name = command.split()[0]
    run = lab.run(*command.split())
    assert run == Run(1, "", f"workerproxy {name}: {error}\nFor the flags: workerproxy {name} --help\n")


@pytest.mark.parametrize("command", subcommands.COMMANDS)
def test_each_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main([command, "--help"])
    assert exit_.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: workerproxy {command} [")
    assert "--admin-address-path FILE" in out
    assert max(map(len, out.splitlines())) <= 120


def commands_in(document: Path) -> list[str]:
    """Every command line with a command, as a reader would copy it."""
    names = "|".join(subcommands.COMMANDS)
    return re.findall(rf"(?:`|^|^\$ )(workerproxy (?:{names})(?![\w:])[^`\n#|]*)", document.read_text(), re.MULTILINE)


@pytest.mark.parametrize("document", ["docs/operations.md", "docs/configuration.md"])
def test_the_documents_have_the_commands_right(document: str) -> None:
    found = commands_in(ROOT / document)
    assert found
    for line in found:
        words = shlex.split(line.replace("[", "").replace("]", ""))[1:]
        parser = subcommands._parser(words[0])
        try:
            _, unknown = parser.parse_known_args([word.replace("N", "4") for word in words[1:]])
        except UsageError as error:
            raise AssertionError(f"{line}: {error}") from None
        assert unknown == [], line
