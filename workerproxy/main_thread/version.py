"""The program's own version, as installed."""

from __future__ import annotations

from importlib import metadata
from typing import Final

PROGRAM: Final = "workerproxy"


def program_version() -> str:
    """``0.1.0``; ``unknown`` when the package is not installed."""
    try:
        return metadata.version(PROGRAM)
    except metadata.PackageNotFoundError:
        return "unknown"


def version_parts() -> tuple[int, int, int]:
    """Major, minor and patch; zeros where the version has no number."""
    parts = [int(part) if part.isdigit() else 0 for part in program_version().split(".")]
    major, minor, patch = (*parts, 0, 0, 0)[:3]
    return major, minor, patch
