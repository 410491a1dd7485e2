"""The shipped units, judged by systemd's own tools and by what this program's command line takes."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.support.workerproxy import ROOT
from workerproxy.config.command_line import parse

UNITS: Final = ROOT / "conf/systemd"
PROGRAM: Final = "/opt/workerproxy/bin/workerproxy"
EXPOSURE_BOUND: Final = 2.0  # of 10; docs/systemd.md says what it is made of
MAY_REPEAT: Final = frozenset({"Type", "SystemCallFilter", "ListenStream"})

# What systemd before 253 says of lines that it does not know, and ignores.
OLD_SYSTEMD: Final = re.compile(
    r".*/workerproxy\.service:\d+: "
    r"(Failed to parse service type, ignoring: notify-reload|Unknown key(?: name)? 'ReloadSignal' in section .*)"
)


def settings(name: str) -> list[tuple[str, str]]:
    """Every ``Name=value`` of a unit, in order."""
    lines = (UNITS / name).read_text().splitlines()
    return [(key, value) for key, equals, value in (line.partition("=") for line in lines) if equals and key.isalnum()]


def setting(name: str, key: str) -> str:
    """The value that counts: the last one."""
    return [value for found, value in settings(name) if found == key][-1]


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units, with a program that exists, for tools that look for it; skips the test where there are none."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed, so nobody can judge the units")
    for path in UNITS.iterdir():
        (tmp_path / path.name).write_text(path.read_text().replace(PROGRAM, sys.executable))
    return tmp_path


def analyze(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *argv], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.peers
@pytest.mark.parametrize("name", ["workerproxy.service", "workerproxy.socket"])
def test_systemd_has_nothing_to_say_against_them(name: str, units: Path) -> None:
    done = analyze("verify", "--man=no", str(units / name))
    said = [line for line in done.stderr.splitlines() if "workerproxy" in line and not OLD_SYSTEMD.fullmatch(line)]
    assert (done.returncode, said) == (0, [])


@pytest.mark.peers
def test_the_service_is_hardened(units: Path) -> None:
    done = analyze("security", "--offline=yes", "--no-pager", str(units / "workerproxy.service"))
    found = re.search(r"Overall exposure level for workerproxy\.service: (\d+\.\d+)", done.stdout)
    assert found, done.stderr
    print(found[0])
    assert float(found[1]) <= EXPOSURE_BOUND, done.stdout


@pytest.mark.peers
def test_the_user_is_one_that_systemd_can_make(units: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-sysusers") is None:
        pytest.skip("systemd-sysusers is not installed")
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    argv = ["systemd-sysusers", f"--root={root}", str(units / "workerproxy.sysusers")]
    subprocess.run(argv, check=True, capture_output=True, timeout=60)
    users = (root / "etc/passwd").read_text()
    assert re.search(
        rf"^{setting('workerproxy.service', 'User')}:x:\d+:\d+:.*:/nonexistent:/usr/sbin/nologin$", users, re.M
    )


@pytest.mark.parametrize("name", ["workerproxy.service", "workerproxy.socket"])
def test_nothing_is_said_twice(name: str) -> None:
    keys = [key for key, _ in settings(name) if key not in MAY_REPEAT]
    assert len(keys) == len(set(keys))


def test_the_commands_are_what_the_program_takes() -> None:
    program, *arguments = shlex.split(setting("workerproxy.service", "ExecStart"))
    options = parse(arguments, "").options
    assert program == PROGRAM
    assert options.config_path == "/etc/workerproxy/workerproxy.yaml"
    program, *arguments = shlex.split(setting("workerproxy.service", "ExecReload"))
    assert (program, arguments) == (PROGRAM, ["reload", "--wait", "-c", options.config_path])


def test_it_may_drain_to_the_end_before_it_is_killed() -> None:
    options = parse(shlex.split(setting("workerproxy.service", "ExecStart"))[1:], "").options
    stop_s = int(setting("workerproxy.service", "TimeoutStopSec").removesuffix("s"))
    assert stop_s >= options.drain_grace_s + options.drain_time_s + 10


def test_an_older_systemd_finds_a_type_it_knows_first() -> None:
    assert [value for key, value in settings("workerproxy.service") if key == "Type"] == ["notify", "notify-reload"]


def test_the_socket_unit_gives_every_worker_a_socket_of_its_own() -> None:
    addresses = [value for key, value in settings("workerproxy.socket") if key == "ListenStream"]
    assert len(addresses) == 2 and len(set(addresses)) == 1
    assert setting("workerproxy.socket", "ReusePort") == "yes"
