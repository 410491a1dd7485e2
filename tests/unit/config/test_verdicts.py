"""Accept or refuse: every configuration of the table, through this program and through the real Envoy."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.config import verdicts
from tests.unit.config.envoy_verdict import envoy_accepts
from tests.unit.config.loading import assert_loads, errors_of, load_text
from workerproxy.config.errors import UNSUPPORTED_FIELD, UNSUPPORTED_VALUE, ConfigErrors


def _file(folder: Path, text: str | bytes) -> Path:
    path = folder / "envoy.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("name", verdicts.ACCEPTED)
def test_we_accept(name: str, tmp_path: Path) -> None:
    assert_loads(tmp_path, verdicts.ACCEPTED[name])


@pytest.mark.parametrize("name", [*verdicts.REFUSED, *verdicts.STRICTER])
def test_we_refuse(name: str, tmp_path: Path) -> None:
    assert errors_of(tmp_path, {**verdicts.REFUSED, **verdicts.STRICTER}[name])


@pytest.mark.parametrize("name", verdicts.UNSUPPORTED)
def test_we_say_what_is_unsupported_and_nothing_else(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors) as refused:
        load_text(tmp_path, verdicts.UNSUPPORTED[name])
    assert {error.kind for error in refused.value.errors} <= {UNSUPPORTED_FIELD, UNSUPPORTED_VALUE}


@pytest.mark.parity
@pytest.mark.parametrize("name", [*verdicts.ACCEPTED, *verdicts.STRICTER, *verdicts.UNSUPPORTED])
def test_envoy_accepts(name: str, tmp_path: Path) -> None:
    tables = {**verdicts.ACCEPTED, **verdicts.STRICTER, **verdicts.UNSUPPORTED}
    assert envoy_accepts(_file(tmp_path, tables[name]))


@pytest.mark.parity
@pytest.mark.parametrize("name", verdicts.REFUSED)
def test_envoy_refuses(name: str, tmp_path: Path) -> None:
    assert not envoy_accepts(_file(tmp_path, verdicts.REFUSED[name]))
