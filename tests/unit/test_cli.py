"""The program as a person starts it: output, exit status, and never a traceback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit.config.documents import document
from workerproxy import cli
from workerproxy.config.options import Options
from workerproxy.main_thread import server

COMMAND = [sys.executable, "-m", "workerproxy"]
REPOSITORY = Path(__file__).resolve().parents[2]


def start(*argv: str, **more: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    run = subprocess.run(
        [*COMMAND, *argv], capture_output=True, text=True, timeout=60, check=False, env=environment, **more
    )
    assert "Traceback" not in run.stderr
    return run


def test_validate_from_any_directory(tmp_path: Path) -> None:
    run = start("--mode", "validate", cwd=tmp_path)
    assert (run.returncode, run.stdout, run.stderr) == (0, "configuration 'the embedded default' OK\n", "")


def test_validate_a_good_and_a_bad_file(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(document())
    run = start("--mode", "validate", "-c", str(path))
    assert (run.returncode, run.stdout, run.stderr) == (0, f"configuration '{path}' OK\n", "")
    path.write_text("a: 1\nb: 2\n")
    run = start("--mode", "validate", "-c", str(path))
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.splitlines() == [
        f"{path}:1:1: unknown field 'a' in envoy.config.bootstrap.v3.Bootstrap",
        f"{path}:2:1: unknown field 'b' in envoy.config.bootstrap.v3.Bootstrap",
        f"workerproxy: 2 errors in configuration '{path}'",
    ]


def test_serve_refuses_a_bad_file_too(tmp_path: Path) -> None:
    run = start("-c", str(tmp_path / "none.yaml"))
    assert run.returncode == 1
    assert run.stderr.endswith(f"workerproxy: 1 error in configuration '{tmp_path}/none.yaml'\n")


def test_errors_as_json_are_on_stdout(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text("a: 1\n")
    run = start("--mode", "validate", "-c", str(path), "--error-format", "json")
    assert run.returncode == 1
    (error,) = json.loads(run.stdout)["errors"]
    assert (error["line"], error["kind"]) == (1, "unknown")
    path.write_text(document())
    run = start("--mode", "validate", "-c", str(path), "--error-format", "json")
    assert (run.returncode, json.loads(run.stdout)) == (0, {"errors": [], "warnings": []})


def test_warnings_go_to_stderr(tmp_path: Path) -> None:
    run = start("--mode", "validate", "--config-yaml", "nope: 1", "--allow-unknown-fields")
    assert run.returncode == 0
    assert run.stderr.splitlines() == [
        "workerproxy: warning: --allow-unknown-fields is deprecated, use --allow-unknown-static-fields instead",
        "warning: --config-yaml:1:1: unknown field 'nope' in envoy.config.bootstrap.v3.Bootstrap; did you mean 'node'?",
    ]


def test_usage_errors_exit_with_1() -> None:
    run = start("--nonsense")
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == "workerproxy: unknown argument '--nonsense'\nFor the flags: workerproxy --help\n"


def test_version_and_help() -> None:
    run = start("--version")
    assert run.returncode == 0
    assert run.stdout.startswith("workerproxy  version: ")
    assert run.stdout.count("\n") == 1
    text = start("--help").stdout
    assert "--config-path" in text
    assert "\n  workerproxy reload " in text


def test_the_hot_restart_version() -> None:
    assert start("--hot-restart-version", "--base-id", "3").stdout == "workerproxy.1\n"
    assert start("--hot-restart-version", "--disable-hot-restart").stdout == "disabled\n"


def test_a_command_to_a_process_that_is_not_there(tmp_path: Path) -> None:
    run = start("reload", "--admin", f"{tmp_path}/é.sock")
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == f"workerproxy reload: nobody answers at {tmp_path}/é.sock: no such socket\n"


def test_a_mistyped_command() -> None:
    run = start("relaod", "--wait")
    assert run.returncode == 1
    assert run.stderr.startswith("workerproxy: unknown argument 'relaod'; did you mean 'reload'?\n")


def test_print_config_of_the_terse_form_is_a_configuration(tmp_path: Path) -> None:
    run = start("--listen", "127.0.0.1:0", "--to", "http://127.0.0.1:3000", "--print-config")
    assert (run.returncode, run.stderr) == (0, "")
    path = tmp_path / "printed.yaml"
    path.write_text(run.stdout)
    assert start("--mode", "validate", "-c", str(path)).returncode == 0


def test_print_supported() -> None:
    run = start("--print-supported")
    assert run.returncode == 0
    assert run.stdout.startswith("# What is supported of Envoy's configuration\n")


def test_a_reader_that_goes_away() -> None:
    command = f"{' '.join(COMMAND)} --print-supported | head -1; echo ${{PIPESTATUS[0]}}"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    run = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=60, check=True, env=environment
    )
    assert run.stdout.splitlines()[-1] == "0"
    assert run.stderr == ""


def test_output_that_is_ascii_only() -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONIOENCODING": "ascii"}
    run = subprocess.run(
        [*COMMAND, "--config-yaml", "node: {id: é}", "--print-config"],
        capture_output=True,
        timeout=60,
        check=False,
        env=environment,
    )
    assert run.returncode == 0
    assert b"Traceback" not in run.stderr


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\1\2\xff",
        b"[" * 100_000,
        b"{" * 100_000,
        b"- " * 100_000,
        b"&a [*a]",
        b"a: &a [*a, *a]",
        b"\xef\xbb\xbf",
        b"!!python/object/apply:os.system [ls]",
        b"%YAML 9.9\n---\na: 1",
        b"? " * 5000,
        b"a" * 1_000_000,
        b"\n" * 100_000,
    ],
    ids=lambda data: repr(data[:12]),
)
@pytest.mark.parametrize("name", ["f.yaml", "f.json", "f.pb", "f.pb_text"])
def test_junk_is_refused_in_words(name: str, data: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    status = cli.main(["--mode", "validate", "-c", str(path)])
    output = capsys.readouterr()
    if data == b"" and name in ("f.pb", "f.pb_text"):
        assert status == 0  # an empty message is a message
    elif data.strip() == b"" and name == "f.pb_text":
        assert status == 0
    else:
        assert status == 1
        assert str(path) in output.err
    assert len(output.err) < 3000


def test_options_and_configuration_reach_the_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[tuple[Options, Any]] = []

    def run(options: Options, bootstrap: Any) -> int:
        seen.append((options, bootstrap))
        return 7

    monkeypatch.setattr(server, "run", run)
    path = tmp_path / "f.yaml"
    path.write_text(document())
    assert cli.main(["-c", str(path), "--workers", "2", "--service-node", "me"]) == 7
    ((options, bootstrap),) = seen
    assert (options.workers, options.config_path) == (2, str(path))
    assert bootstrap.node.id == "me"


def test_an_interrupt_while_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(options: Options, bootstrap: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(server, "run", interrupted)
    assert cli.main([]) == 128 + signal.SIGINT
