"""Extensions are found by their configuration type; what is no proper extension is said at once."""

from __future__ import annotations

import pkgutil
import sys
import types

import pytest

from workerproxy.config.schema import Schema
from workerproxy.extensions.registry import CATEGORIES, ExtensionError, Registry


def test_extensions_are_found_by_type_within_their_category() -> None:
    registry = Registry()
    router = registry.find("http_filters", "envoy.extensions.filters.http.router.v3.Router")
    assert router is not None
    assert (router.name, router.category, router.is_terminal) == ("envoy.filters.http.router", "http_filters", True)
    assert registry.find("load_balancers", router.config_type) is None
    assert registry.find("http_filters", "no.such.Type") is None


def test_every_category_has_extensions_in_order() -> None:
    registry = Registry()
    for category in CATEGORIES:
        names = [extension.name for extension in registry.of(category)]
        assert names == sorted(names) != []
    assert len(registry.all()) == sum(len(registry.of(category)) for category in CATEGORIES)


def test_what_extensions_say_of_themselves_is_true() -> None:
    schema = Schema()
    for extension in Registry().all():
        assert schema.find(extension.config_type) is not None, extension.config_type
        assert extension.summary
        for message, fields in extension.reads.items():
            kind = schema.find(message)
            assert kind is not None, message
            assert fields <= set(kind.by_name), message


def _package(monkeypatch: pytest.MonkeyPatch, *modules: types.ModuleType) -> None:
    """A category ``made_up`` with these modules."""
    package = types.ModuleType("workerproxy.extensions.made_up")
    package.__path__ = []
    monkeypatch.setitem(sys.modules, package.__name__, package)
    for module in modules:
        monkeypatch.setitem(sys.modules, f"{package.__name__}.{module.__name__}", module)
    infos = [types.SimpleNamespace(name=module.__name__) for module in modules]
    monkeypatch.setattr(pkgutil, "iter_modules", lambda path: infos)


def _module(name: str, **attributes: object) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__dict__.update(attributes)
    return module


def test_a_module_without_its_declaration(monkeypatch: pytest.MonkeyPatch) -> None:
    _package(monkeypatch, _module("one", CONFIG_TYPE="a.B", NAME="x"))
    with pytest.raises(ExtensionError, match="has no READS"):
        Registry(["made_up"])


def test_two_modules_for_one_type(monkeypatch: pytest.MonkeyPatch) -> None:
    good = {"CONFIG_TYPE": "a.B", "NAME": "x", "READS": {}}
    _package(monkeypatch, _module("one", **good), _module("two", **good))
    with pytest.raises(ExtensionError, match=r"both for a\.B"):
        Registry(["made_up"])


def test_helper_files_are_no_extensions(monkeypatch: pytest.MonkeyPatch) -> None:
    _package(monkeypatch, _module("_helper"))
    assert Registry(["made_up"]).of("made_up") == []
