"""Data from the configuration, files and the environment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from envoy.config.core.v3.base_pb2 import DataSource

from workerproxy.http.data_source import DataSourceError, read_data_source


def test_data_may_be_in_the_configuration() -> None:
    assert read_data_source(DataSource(inline_string="é")) == "é".encode()
    assert read_data_source(DataSource(inline_bytes=b"\xff")) == b"\xff"
    assert read_data_source(DataSource()) == b""


def test_data_may_be_in_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").write_bytes(b"\x00of a file")
    monkeypatch.setitem(os.environ, "WORKERPROXY_TEST_DATA", "of the environment")
    assert read_data_source(DataSource(filename=str(tmp_path / "data"))) == b"\x00of a file"
    assert read_data_source(DataSource(environment_variable="WORKERPROXY_TEST_DATA")) == b"of the environment"


def test_data_that_is_missing_or_too_large_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"12345")
    source = DataSource(filename=str(tmp_path / "data"))
    assert read_data_source(source, 5) == b"12345"
    for bad, limit in (
        (source, 4),
        (DataSource(inline_string="12345"), 4),
        (DataSource(filename=str(tmp_path / "none")), None),
        (DataSource(filename=str(tmp_path)), None),
        (DataSource(environment_variable="WORKERPROXY_TEST_NONE"), None),
    ):
        with pytest.raises(DataSourceError):
            read_data_source(bad, limit)
