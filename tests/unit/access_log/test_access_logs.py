"""The access logs of a worker: loggers that share files, and files that live as long as their loggers."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from envoy.config.accesslog.v3.accesslog_pb2 import AccessLog
from envoy.config.core.v3.base_pb2 import DataSource
from envoy.config.core.v3.substitution_format_string_pb2 import SubstitutionFormatString
from envoy.extensions.access_loggers.file.v3.file_pb2 import FileAccessLog

from tests.unit.access_log.build import Clock
from workerproxy.control.stats import StatsGroup
from workerproxy.http.stream_info import StreamInfo
from workerproxy.worker.access_logs import AccessLogs
from workerproxy.worker.context import Refused, WorkerContext


class Surroundings:
    """As much of a ``WorkerContext`` as access logs use: its own loop, options and statistics."""

    def __init__(self) -> None:
        self.loop = Clock()
        self.options = self
        self.file_flush_interval_ms = 500
        self.stats = self
        self.groups: dict[str, StatsGroup] = {}

    def group(self, prefix: str, cls: Callable[[], StatsGroup]) -> StatsGroup:
        return self.groups.setdefault(prefix, cls())


def logs_of(surroundings: Surroundings) -> AccessLogs:
    return AccessLogs(cast(WorkerContext, surroundings))


def config(path: Path, text: str = "line\n", type_url: str = "") -> AccessLog:
    log_format = SubstitutionFormatString(text_format_source=DataSource(inline_string=text))
    made = AccessLog(name="test")
    made.typed_config.Pack(FileAccessLog(path=str(path), log_format=log_format))
    if type_url:
        made.typed_config.type_url = type_url
    return made


def log(logger: Any, count: int = 1) -> None:
    for _ in range(count):
        logger.log(StreamInfo())


def test_lines_are_written_after_the_flush_interval(tmp_path: Path) -> None:
    surroundings = Surroundings()
    logger = logs_of(surroundings).create(config(tmp_path / "log"))
    log(logger)
    surroundings.loop.advance(0.4)
    assert (tmp_path / "log").read_bytes() == b""
    surroundings.loop.advance(0.1)
    assert (tmp_path / "log").read_bytes() == b"line\n"
    assert getattr(surroundings.groups["filesystem"], "flushed_by_timer", 0) == 1


def test_loggers_of_one_path_share_its_file(tmp_path: Path) -> None:
    logs = logs_of(Surroundings())
    first, second = logs.create(config(tmp_path / "log", "1\n")), logs.create(config(tmp_path / "log", "2\n"))
    log(first)
    log(second)
    log(first)
    logs.flush()
    assert (tmp_path / "log").read_bytes() == b"1\n2\n1\n"


def test_all_files_are_reopened_by_their_paths(tmp_path: Path) -> None:
    logs = logs_of(Surroundings())
    loggers = [logs.create(config(tmp_path / name)) for name in "ab"]
    for name in "ab":
        (tmp_path / name).rename(tmp_path / f"{name}.1")
    logs.reopen()
    for logger in loggers:
        log(logger)
    logs.close()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "a": b"line\n",
        "a.1": b"",
        "b": b"line\n",
        "b.1": b"",
    }


def test_a_file_closes_with_the_last_configuration_that_writes_to_it(tmp_path: Path) -> None:
    surroundings = Surroundings()
    logs = logs_of(surroundings)
    old, new = logs.create(config(tmp_path / "log", "old\n")), logs.create(config(tmp_path / "log", "new\n"))
    log(old)
    del old
    log(new)
    surroundings.loop.advance(0.5)
    assert (tmp_path / "log").read_bytes() == b"old\nnew\n"
    del new
    gc.collect()
    links = [os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
    assert str(tmp_path / "log") not in links


def test_what_cannot_be_built_is_refused_with_its_reason(tmp_path: Path) -> None:
    logs = logs_of(Surroundings())
    with pytest.raises(Refused, match=r"no access logger for x\.y\.Z"):
        logs.create(config(tmp_path / "log", type_url="type.googleapis.com/x.y.Z"))
    with pytest.raises(Refused, match=r"access log test: typed_config\.log_format: unknown operator NOPE"):
        logs.create(config(tmp_path / "log", "%NOPE%"))
    with pytest.raises(Refused, match="unable to open"):
        logs.create(config(tmp_path / "nowhere" / "log"))
