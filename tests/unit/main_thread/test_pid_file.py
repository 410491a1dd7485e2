"""The pid file: whole or not at all, never another running workerproxy's, removed only by its owner."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from workerproxy.main_thread.pid_file import PidFile, PidFileError


@contextmanager
def program(*argv: str) -> Iterator[int]:
    """A process that waits, under this command line, seen in ``/proc`` by the time its id is given."""
    waits = "import sys; print(flush=True); sys.stdin.read()"
    started = subprocess.Popen(
        [*argv, "-c", waits] if len(argv) == 1 else [argv[0], "-c", waits, *argv[1:]],
        executable=sys.executable,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with started:
        assert started.stdout is not None
        started.stdout.readline()
        yield started.pid
        started.kill()


def ended_pid() -> int:
    with subprocess.Popen(["true"]) as ended:
        pass
    return ended.pid


def test_it_holds_this_process_for_everybody_to_read(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    before = os.umask(0o077)
    try:
        PidFile(str(path)).write()
    finally:
        os.umask(before)
    assert path.read_text() == f"{os.getpid()}\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert list(tmp_path.iterdir()) == [path]  # nothing temporary is left


@pytest.mark.parametrize(
    "title", ["workerproxy: main", "workerproxy: main (draining)", "/opt/workerproxy/bin/workerproxy"]
)
def test_a_running_workerproxy_is_not_overwritten(title: str, tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with program(title) as pid:
        path.write_text(f"{pid}\n")
        with pytest.raises(PidFileError, match=f"names process {pid}, a workerproxy that runs"):
            PidFile(str(path)).write()
        assert path.read_text() == f"{pid}\n"
    PidFile(str(path)).write()  # it has ended
    assert path.read_text() == f"{os.getpid()}\n"


def test_a_workerproxy_run_as_a_module_is_known(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with program("/usr/bin/python3.11", "workerproxy") as pid:
        path.write_text(str(pid))
        with pytest.raises(PidFileError, match="a workerproxy that runs"):
            PidFile(str(path)).write()


@pytest.mark.parametrize("title", ["workerproxy: worker 3", "tail", "/usr/bin/workerproxy-exporter"])
def test_a_number_that_now_belongs_to_another_program_is_stale(title: str, tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with program(title) as pid:
        path.write_text(f"{pid}\n")
        PidFile(str(path)).write()
    assert path.read_text() == f"{os.getpid()}\n"


@pytest.mark.parametrize("content", ["", "nonsense", "-1", "0", "9" * 30, "²"])
def test_a_file_without_a_process_is_replaced(content: str, tmp_path: Path) -> None:
    path = tmp_path / "pid"
    path.write_text(content)
    PidFile(str(path)).write()
    assert path.read_text() == f"{os.getpid()}\n"


def test_the_process_before_an_upgrade_is_overwritten_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with program("workerproxy: main") as old, program("workerproxy: main") as stranger:
        path.write_text(f"{old}\n")
        with pytest.raises(PidFileError):
            PidFile(str(path)).take_over(stranger)
        PidFile(str(path)).take_over(old)
    assert path.read_text() == f"{os.getpid()}\n"


def test_it_is_removed_by_the_process_it_names_only(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    file = PidFile(str(path))
    file.write()
    path.write_text(f"{ended_pid()}\n")  # as the successor in an upgrade does
    file.remove()
    assert path.exists()
    file.write()
    file.remove()
    assert not path.exists()
    file.remove()  # twice does no harm


def test_a_relative_path_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = PidFile("pid")
    monkeypatch.chdir("/")
    file.write()
    assert (tmp_path / "pid").exists()


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    file = PidFile(str(tmp_path / "nowhere" / "pid"))
    assert not file.replaceable()
    with pytest.raises(PidFileError, match=r"cannot write the pid file .*/nowhere/pid: No such file or directory"):
        file.write()


def test_a_directory_in_its_place_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "pid").mkdir()
    with pytest.raises(PidFileError, match="directory"):
        PidFile(str(tmp_path / "pid")).write()
    assert [path.name for path in tmp_path.iterdir()] == ["pid"]
