"""Helpers: load a text as the program would, and its errors without the file's name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from workerproxy.config.errors import ConfigErrors
from workerproxy.config.load import LoadedConfig, load
from workerproxy.config.options import Options


def load_text(folder: Path, text: str | bytes, name: str = "f.yaml", options: Options | None = None) -> LoadedConfig:
    """Write ``text`` to ``folder/name`` and load it. Raises ``ConfigErrors``."""
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load(replace(options or Options(), config_path=str(path)))


def errors_of(folder: Path, text: str | bytes, name: str = "f.yaml", options: Options | None = None) -> list[str]:
    """The errors as text, with only the file's own name; fails when there is none."""
    try:
        load_text(folder, text, name, options)
    except ConfigErrors as refused:
        return str(refused).replace(f"{folder}/", "").splitlines()
    raise AssertionError("the configuration was accepted")


def assert_loads(folder: Path, text: str | bytes) -> None:
    """Fails with all errors when the text is refused."""
    load_text(folder, text)


def warnings_of(folder: Path, text: str, options: Options | None = None) -> list[str]:
    return [str(w).replace(f"{folder}/", "") for w in load_text(folder, text, options=options).warnings]
