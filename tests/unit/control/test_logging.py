"""Application logs: spdlog patterns, levels by component, lines for systemd's journal."""

from __future__ import annotations

import io
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from workerproxy.control.logging import (
    DEFAULT_FORMAT,
    OFF,
    TRACE,
    ApplicationLog,
    JournalFormatter,
    LogSettings,
    PatternFormatter,
    component_levels,
    journal_priority,
    leads_to_journal,
    set_levels,
)

# Logs one error of two lines, with the settings that its first argument evaluates to.
LOGS_TWO_LINES: Final = """
import logging, sys
from workerproxy.control.logging import ApplicationLog, LogSettings
ApplicationLog(eval(sys.argv[1]))
logging.getLogger("workerproxy.main").error("one\\ntwo")
"""


def record(text: str = "hello", name: str = "workerproxy.main", level: int = logging.WARNING) -> logging.LogRecord:
    path = "/somewhere/workerproxy/main_thread/server.py"
    made = logging.LogRecord(name, level, path, 42, text, None, None, "run")
    made.created = 1_700_000_000.123456
    return made


@pytest.fixture
def log_file(tmp_path: Path) -> Iterator[tuple[ApplicationLog, Path]]:
    log = ApplicationLog(LogSettings(path=str(tmp_path / "log"), format="[%l][%n] %v"))
    yield log, tmp_path / "log"
    log.close()
    set_levels("info", {})


def test_the_default_format_is_envoys() -> None:
    line = PatternFormatter(DEFAULT_FORMAT).format(record())
    place = r"\[workerproxy/main_thread/server.py:42\]"
    pattern = rf"\[\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d\.123\]\[{os.getpid()}\]\[warning\]\[main\] {place} hello"
    assert re.fullmatch(pattern, line)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("%%|%v|%L|%s", "%|hello|W|server.py"),
        ("%f %F %E", "123456 123456001 1700000000"),
        ("%@ %!", "workerproxy/main_thread/server.py:42 run"),
        ("plain", "plain"),
    ],
)
def test_flags_are_spdlogs(pattern: str, expected: str) -> None:
    line = PatternFormatter(pattern).format(record())
    assert re.fullmatch(expected.replace("|", r"\|").replace("123456001", r"1234\d{5}"), line)


@pytest.mark.parametrize("pattern", ["%q", "ends with %"])
def test_an_unknown_flag_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="unknown flag"):
        PatternFormatter(pattern)


def test_escaped_messages_are_one_line() -> None:
    assert PatternFormatter("%v", escaped=True).format(record('a\nb"')) == 'a\\nb\\"'


def test_components_have_levels_of_their_own(log_file: tuple[ApplicationLog, Path]) -> None:
    _, path = log_file
    set_levels("error", {"dns": "debug"})
    logging.getLogger("workerproxy.dns").debug("seen")
    logging.getLogger("workerproxy.main").warning("not seen")
    assert path.read_text() == "[debug][dns] seen\n"
    levels = component_levels()
    assert (levels["dns"], levels["main"]) == ("debug", "error")
    set_levels("info", {})
    assert component_levels()["dns"] == "info"


def test_an_unknown_level_changes_nothing(log_file: tuple[ApplicationLog, Path]) -> None:
    before = component_levels()
    with pytest.raises(ValueError, match="unknown log level 'loud'"):
        set_levels("debug", {"dns": "loud"})
    assert component_levels() == before


def test_a_moved_file_is_opened_again(log_file: tuple[ApplicationLog, Path]) -> None:
    log, path = log_file
    path.rename(path.with_suffix(".1"))
    log.reopen()
    logging.getLogger("workerproxy.main").error("new")
    assert path.read_text() == "[error][main] new\n"


def logged(settings: str, tmp_path: Path, journal_stream: str | None = None) -> str:
    """What a program of its own writes to stderr, a file here, which is the journal unless another one is named."""
    path = tmp_path / "stderr"
    with path.open("wb") as stderr:
        status = os.fstat(stderr.fileno())
        stream = f"{status.st_dev}:{status.st_ino}" if journal_stream is None else journal_stream
        argv = [sys.executable, "-c", LOGS_TWO_LINES, settings]
        subprocess.run(argv, stderr=stderr, check=True, timeout=30, env={**os.environ, "JOURNAL_STREAM": stream})
    return path.read_text()


def test_in_the_journal_every_line_has_its_priority_and_none_has_a_time(tmp_path: Path) -> None:
    pattern = r"<3>\[\d+\]\[error\]\[main\] \[<string>:5\] one\n<3>two\n"
    assert re.fullmatch(pattern, logged("LogSettings()", tmp_path))


@pytest.mark.parametrize("stream", ["", "1:2", "nonsense", "1:2:3"])
def test_a_stderr_that_is_not_the_journal_is_written_to_as_ever(stream: str, tmp_path: Path) -> None:
    assert re.fullmatch(r"\[\d{4}-\d\d-\d\d .* one\ntwo\n", logged("LogSettings()", tmp_path, stream))


def test_a_format_that_is_asked_for_is_used_in_the_journal_too(tmp_path: Path) -> None:
    assert logged("LogSettings(format='%l: %v')", tmp_path) == "error: one\ntwo\n"
    assert re.match(r"\[\d{4}-", logged("LogSettings(format_given=True)", tmp_path))  # the default, asked for


def test_a_log_file_is_not_the_journal(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert logged(f"LogSettings(path={str(path)!r})", tmp_path) == ""
    assert re.match(r"\[\d{4}-", path.read_text())


def test_escaped_newlines_stay_escaped_in_the_journal() -> None:
    line = JournalFormatter(escaped=True).format(record("one\ntwo"))
    assert line.startswith("<4>[") and line.endswith("one\\ntwo")


def test_priorities_are_syslogs() -> None:
    levels = (TRACE, logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL, OFF)
    assert [journal_priority(level) for level in levels] == [7, 7, 6, 4, 3, 2, 2]


def test_a_stream_without_a_descriptor_is_not_the_journal() -> None:
    assert not leads_to_journal(io.StringIO(), {"JOURNAL_STREAM": "1:2"})
