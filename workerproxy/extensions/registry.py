"""Finds the extensions: every module in the folders of this package is one, known by its configuration type.

A module says what it is in plain data: ``CONFIG_TYPE`` (full name of its configuration message), ``NAME`` (Envoy's
name for it) and ``READS`` (message -> fields it reads, for "supported or refused"); an HTTP filter that ends its chain
also ``TERMINAL``, a load balancer ``LB_POLICY``. Its factory is between it and the runtime that uses it. Files whose
name begins with ``_`` are helpers, not extensions. To add an extension is to add a file: nothing lists them.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Final

CATEGORIES: Final = ("http_filters", "load_balancers", "access_loggers")


class ExtensionError(Exception):
    """A module in an extension folder is not a proper extension: a mistake in its code, not in a configuration."""


@dataclass(frozen=True, slots=True)
class Extension:
    """One extension: which folder it is in, its types, and its module (where the factory is)."""

    category: str
    name: str
    config_type: str
    reads: Mapping[str, frozenset[str]]
    module: ModuleType

    @property
    def is_terminal(self) -> bool:
        """Whether an HTTP filter ends its chain (``TERMINAL = True`` in its module), as the router does."""
        return bool(getattr(self.module, "TERMINAL", False))

    @property
    def summary(self) -> str:
        """The first line of the module's docstring, without the full stop."""
        return (self.module.__doc__ or "").strip().partition("\n")[0].rstrip(".")


class Registry:
    """The extensions of all folders, by configuration type. Reads the folders when made."""

    def __init__(self, categories: Sequence[str] = CATEGORIES) -> None:
        self._by_type: dict[tuple[str, str], Extension] = {}
        for category in categories:
            package = importlib.import_module(f"workerproxy.extensions.{category}")
            for info in pkgutil.iter_modules(package.__path__):
                if not info.name.startswith("_"):
                    self._add(category, importlib.import_module(f"{package.__name__}.{info.name}"))

    def find(self, category: str, config_type: str) -> Extension | None:
        """The extension of that folder for a configuration type, or None."""
        return self._by_type.get((category, config_type))

    def of(self, category: str) -> list[Extension]:
        """All extensions of one folder, by name."""
        found = [extension for extension in self._by_type.values() if extension.category == category]
        return sorted(found, key=lambda extension: extension.name)

    def all(self) -> list[Extension]:
        """All extensions, folder by folder."""
        return [extension for category in CATEGORIES for extension in self.of(category)]

    def _add(self, category: str, module: ModuleType) -> None:
        for attribute in ("CONFIG_TYPE", "NAME", "READS"):
            if not hasattr(module, attribute):
                raise ExtensionError(f"{module.__name__} has no {attribute} (see workerproxy.extensions.registry)")
        extension = Extension(category, module.NAME, module.CONFIG_TYPE, module.READS, module)
        earlier = self._by_type.setdefault((category, extension.config_type), extension)
        if earlier is not extension:
            raise ExtensionError(f"{module.__name__} and {earlier.module.__name__} are both for {module.CONFIG_TYPE}")
