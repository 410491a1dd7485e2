"""The tables of docs/parity.md, made from the plays: ``python -m tests.parity.document`` writes them in place."""

from __future__ import annotations

import sys
from itertools import groupby
from pathlib import Path
from typing import Final

from tests.parity.script import Case, Family, read_families

DOCUMENT: Final = Path(__file__).resolve().parents[2] / "docs" / "parity.md"
_BEGIN: Final = "<!-- made from tests/parity/plays: begin {} -->\n"
_END: Final = "<!-- made from tests/parity/plays: end {} -->\n"


def with_tables(text: str, families: list[Family]) -> str:
    """``text`` with both tables renewed. Raises ValueError when a marker is missing."""
    text = _with_table(text, "families", _family_table(families))
    return _with_table(text, "differences", _difference_table([case for family in families for case in family.cases]))


def _with_table(text: str, name: str, table: str) -> str:
    head, begin, rest = text.partition(_BEGIN.format(name))
    _, end, tail = rest.partition(_END.format(name))
    if not begin or not end:
        raise ValueError(f"no markers for the table {name}")
    return head + begin + table + end + tail


def _family_table(families: list[Family]) -> str:
    rows = [f"| `{each.name}` | {len(each.cases)} | {each.about} |\n" for each in families]
    total = sum(len(each.cases) for each in families)
    return "| family | cases | about |\n|---|---:|---|\n" + "".join(rows) + f"| **all** | **{total}** | |\n"


def _difference_table(cases: list[Case]) -> str:
    differing = sorted((case for case in cases if case.differs), key=lambda case: case.differs)
    rows = []
    for reason, group in groupby(differing, key=lambda case: case.differs):
        names = ", ".join(f"`{case.name}`" for case in group)
        rows.append(f"| {reason} | {names} |\n")
    return "| difference, and why | cases |\n|---|---|\n" + "".join(rows or ["| none | |\n"])


def main() -> int:
    DOCUMENT.write_text(with_tables(DOCUMENT.read_text(), read_families()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
