"""Application logs: spdlog patterns, levels by component."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from workerproxy.control.logging import (
    DEFAULT_FORMAT,
    ApplicationLog,
    LogSettings,
    PatternFormatter,
    component_levels,
    set_levels,
)


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
