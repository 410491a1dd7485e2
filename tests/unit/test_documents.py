"""What the documents name must exist: files, functions, commands, links. A document that lies is a bug."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
DOCUMENTS: Final = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("conf/**/*.md")])
FOLDERS: Final = ("workerproxy", "tests", "conf", "docs", "loadtests", "scripts")

REFERENCE: Final = re.compile(r"([\w./-]+\.py)::([\w.]+)")
PATH: Final = re.compile(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]*)`")
LINK: Final = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]*)(#[^)\s]*)?\)")
LINE_NUMBER: Final = re.compile(r"[\w/-]+\.py:\d+")
MAKE: Final = re.compile(r"(?:`|^)make ([a-z]+)", re.MULTILINE)
MODULE: Final = re.compile(r"python3? -m ((?:workerproxy|loadtests|tests|scripts)[\w.]*)")
FLAGS: Final = re.compile(r"(?:`|^|\$ |bin/)(?:python3? -m )?workerproxy( -[^`\n#|]*)", re.MULTILINE)


@cache
def names_in(file: Path) -> frozenset[str]:
    """Every name a file defines: functions, classes, ``Class.method``, constants and annotated attributes."""
    return frozenset(_names(ast.parse(file.read_text()), ""))


def _names(node: ast.AST, prefix: str) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + child.name
            if isinstance(child, ast.ClassDef):
                yield from _names(child, f"{prefix}{child.name}.")
        elif isinstance(child, ast.Assign):
            yield from (prefix + target.id for target in child.targets if isinstance(target, ast.Name))
        elif isinstance(child, ast.AnnAssign) and isinstance(child.target, ast.Name):
            yield prefix + child.target.id
        elif isinstance(child, ast.If | ast.Try | ast.With):
            yield from _names(child, prefix)


@cache
def make_targets() -> frozenset[str]:
    return frozenset(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@cache
def command_line_flags() -> frozenset[str]:
    argv = [sys.executable, "-m", "workerproxy", "--help"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, cwd=ROOT, check=True)
    return frozenset(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", done.stdout))


def broken(text: str, document: Path) -> list[str]:
    """Everything that ``text`` names and that does not exist."""
    found = []
    for path, name in REFERENCE.findall(text):
        if not (ROOT / path).is_file() or name not in names_in(ROOT / path):
            found.append(f"{path}::{name}")
    found += [path for path in PATH.findall(text) if not (ROOT / path).exists()]
    found += [f"link {path}" for path, _ in LINK.findall(text) if path and not (document.parent / path).exists()]
    found += [f"line number {text}" for text in LINE_NUMBER.findall(text)]
    found += [f"make {target}" for target in MAKE.findall(text) if target not in make_targets()]
    found += [f"module {name}" for name in MODULE.findall(text) if not module_exists(name)]
    for arguments in FLAGS.findall(text):
        flags = re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", arguments)
        found += [f"workerproxy {flag}" for flag in flags if flag not in command_line_flags()]
    return found


def module_exists(name: str) -> bool:
    try:
        return importlib.util.find_spec(name.rstrip(".")) is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_document_names_exists(document: Path) -> None:
    assert broken(document.read_text(), document) == []


def test_the_documents_are_found() -> None:
    assert {"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"} <= {path.name for path in DOCUMENTS}


@pytest.mark.parametrize(
    "text",
    [
        "`workerproxy/demo_origin.py::Connection.no_such_method`",
        "`workerproxy/no_such_file.py::main`",
        "`docs/no_such_file.md`",
        "[text](no_such_file.md)",
        "workerproxy/demo_origin.py:12",
        "`make nonsense`",
        "    python -m loadtests.no_such_module",
    ],
)
def test_a_wrong_name_is_noticed(text: str) -> None:
    assert len(broken(text, ROOT / "README.md")) == 1


def test_right_names_pass() -> None:
    text = """`workerproxy/demo_origin.py::Connection.data_received`, `workerproxy/demo_origin.py::DEFAULT_PORTS`,
`docs/`, [text](CHANGELOG.md#unreleased), [elsewhere](https://www.rfc-editor.org/rfc/rfc9110), `make test`,
`python -m loadtests.compare`
"""
    assert broken(text, ROOT / "README.md") == []
