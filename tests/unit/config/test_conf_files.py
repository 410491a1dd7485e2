"""The files in ``conf/``: each loads here without a warning worth reading, and in Envoy."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.config.envoy_verdict import envoy_accepts
from workerproxy.config.errors import DEPRECATED
from workerproxy.config.load import default_text, load
from workerproxy.config.options import Options
from workerproxy.config.printing import to_yaml

CONF = Path(__file__).resolve().parents[3] / "conf"
FILES = sorted(CONF.rglob("*.yaml"))


def test_there_are_examples() -> None:
    assert len(FILES) >= 7


def test_the_default_in_conf_is_the_embedded_one() -> None:
    assert (CONF / "default.yaml").read_text("utf-8") == default_text()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_loads_and_begins_with_what_it_is(path: Path) -> None:
    loaded = load(Options(config_path=str(path)))
    assert {warning.kind for warning in loaded.warnings} <= {DEPRECATED}
    assert path.read_text("utf-8").startswith("# ")


@pytest.mark.parity
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_loads_in_envoy(path: Path) -> None:
    assert envoy_accepts(path)


@pytest.mark.parity
@pytest.mark.parametrize(
    "options",
    [
        *(Options(config_path=str(path)) for path in FILES),
        Options(listen=":0", to=("http://127.0.0.1:1",)),
        Options(listen="[::1]:0", to=("http://localhost:1/a", "http://127.0.0.1:2/a")),
    ],
    ids=lambda options: options.config_name.rpartition("/")[2],
)
def test_what_print_config_prints_loads_in_envoy(options: Options, tmp_path: Path) -> None:
    printed = tmp_path / "printed.yaml"
    printed.write_text(to_yaml(load(options).bootstrap))
    assert envoy_accepts(printed)
    assert load(Options(config_path=str(printed))).bootstrap == load(options).bootstrap
