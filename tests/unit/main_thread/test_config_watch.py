"""The watch on configuration files: what counts as a change, and that it is reported once, at rest. No sleep."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
from envoy.config.bootstrap.v3 import bootstrap_pb2

from tests.unit.config.documents import document, with_routes
from tests.unit.config.loading import load_text
from workerproxy.config.options import Options
from workerproxy.main_thread.config_watch import ConfigWatch, Look, WatchedFiles, look, watched_files


class Timer:
    def __init__(self, delay_s: float, callback: Callable[[], None]) -> None:
        self.delay_s = delay_s
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """An event loop whose time is the test's."""

    def __init__(self) -> None:
        self.timers: list[Timer] = []

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        self.timers.append(Timer(delay_s, callback))
        return self.timers[-1]


class Lab:
    """A watch on some files; ``ticks`` lets it look, and says how often it has called."""

    def __init__(self, *files: Path, seen: Look | None = None) -> None:
        self.files = [str(file) for file in files]
        self.calls = 0
        self.during_a_call: Callable[[], object] = lambda: None
        self.loop = Loop()
        loop = cast(asyncio.AbstractEventLoop, self.loop)
        self.watch = ConfigWatch(lambda: self.files, self._changed, 0.5, loop, seen)

    def _changed(self) -> None:
        self.calls += 1
        self.during_a_call()

    def ticks(self, number: int = 1) -> int:
        before = self.calls
        for _ in range(number):
            (timer,) = self.loop.timers
            self.loop.timers.clear()
            timer.callback()
        return self.calls - before


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "proxy.yaml"
    path.write_text("one")
    return path


def rename_over(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.rename(path)


def test_nothing_changes(file: Path) -> None:
    lab = Lab(file)
    assert lab.ticks(5) == 0


def test_an_edit_in_place_is_reported_once_at_rest(file: Path) -> None:
    lab = Lab(file)
    file.write_text("other")
    assert lab.ticks() == 0  # it may be half written
    assert lab.ticks() == 1
    assert lab.ticks(5) == 0


def test_an_edit_that_keeps_the_size(file: Path) -> None:
    lab = Lab(file)
    file.write_text("two")
    os.utime(file, ns=(1, 1))
    assert lab.ticks(2) == 1


def test_an_atomic_rename_with_the_same_size_and_time(file: Path) -> None:
    lab = Lab(file)
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    rename_over(file, "two")
    os.utime(file, ns=times)
    assert lab.ticks(2) == 1


def test_a_file_that_is_still_being_written_is_waited_for(file: Path) -> None:
    lab = Lab(file)
    for size in range(4, 9):
        file.write_text("x" * size)
        assert lab.ticks() == 0
    assert lab.ticks() == 1


def test_two_changes_in_a_row_are_one(file: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("page")
    lab = Lab(file, page)
    file.write_text("other")
    assert lab.ticks() == 0
    page.write_text("other page")
    assert lab.ticks() == 0
    assert lab.ticks(5) == 1


def test_a_directory_swapped_by_its_symbolic_link(tmp_path: Path) -> None:
    """As Kubernetes does for a ConfigMap: proxy.yaml -> ..data/proxy.yaml, ..data -> ..2026_1."""
    for version in ("..2026_1", "..2026_2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "proxy.yaml").write_text("same")
        os.utime(tmp_path / version / "proxy.yaml", ns=(1, 1))
    (tmp_path / "..data").symlink_to("..2026_1")
    (tmp_path / "proxy.yaml").symlink_to("..data/proxy.yaml")
    lab = Lab(tmp_path / "proxy.yaml")
    (tmp_path / "..data_tmp").symlink_to("..2026_2")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    assert lab.ticks(2) == 1
    (tmp_path / "..data_tmp").symlink_to("..2026_1")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    assert lab.ticks() == 0
    (tmp_path / "..data_tmp").symlink_to("..2026_2")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    assert lab.ticks(5) == 0  # and back before anybody read it


def test_a_file_that_vanishes_and_comes_back_as_it_was(
    file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lab = Lab(file)
    with caplog.at_level(logging.INFO, "workerproxy.config"):
        file.rename(tmp_path / "aside")
        assert lab.ticks(5) == 0
        (tmp_path / "aside").rename(file)
        assert lab.ticks(5) == 0
    assert caplog.messages == [
        f"{file} is gone; the configuration stays as it is until it is back",
        f"{file} is back",
    ]


def test_a_file_that_vanishes_and_comes_back_changed(file: Path) -> None:
    lab = Lab(file)
    file.unlink()
    assert lab.ticks(5) == 0
    file.write_text("other")
    assert lab.ticks() == 0
    assert lab.ticks() == 1


def test_a_change_does_not_wait_for_another_file_that_is_gone(file: Path, tmp_path: Path) -> None:
    """The new configuration may no longer name it."""
    page = tmp_path / "page.html"
    page.write_text("page")
    lab = Lab(file, page)
    page.rename(tmp_path / "aside")
    file.write_text("other")
    assert lab.ticks(5) == 1
    (tmp_path / "aside").rename(page)  # or it does name it: then it was missed, and is read now
    assert lab.ticks(5) == 1


def test_a_file_that_is_not_there_at_first(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "page.html")
    assert lab.ticks(2) == 0
    (tmp_path / "page.html").write_text("page")
    assert lab.ticks(2) == 1


def test_a_file_behind_something_that_is_no_directory(file: Path) -> None:
    lab = Lab(file / "below", Path("a\0b"))
    assert lab.ticks(3) == 0


def test_a_change_while_the_first_configuration_was_loaded(file: Path) -> None:
    before = look([str(file)])
    file.write_text("other")
    assert Lab(file, seen=before).ticks(2) == 1
    assert Lab(file, seen=look([str(file)])).ticks(2) == 0


def test_a_change_during_the_call_is_the_next_change(file: Path) -> None:
    lab = Lab(file)
    lab.during_a_call = lambda: file.write_text("written while it is read")
    file.write_text("other")
    assert lab.ticks(2) == 1
    lab.during_a_call = lambda: None
    assert lab.ticks(5) == 1


def test_files_that_are_read_for_another_reason(file: Path) -> None:
    lab = Lab(file)
    file.write_text("other")
    lab.watch.about_to_be_read()
    assert lab.ticks(3) == 0
    file.write_text("another one")
    assert lab.ticks(3) == 1


def test_the_files_may_be_others_after_a_reload(file: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("page")
    lab = Lab(file)
    lab.files.append(str(page))
    assert lab.ticks(3) == 0  # new to the watch, but just read
    page.write_text("other page")
    assert lab.ticks(3) == 1
    lab.files.remove(str(page))
    page.write_text("page")
    assert lab.ticks(3) == 0


def test_it_goes_on_when_a_call_fails(file: Path) -> None:
    lab = Lab(file)

    def fail() -> None:
        raise RuntimeError

    lab.during_a_call = fail
    file.write_text("other")
    with pytest.raises(RuntimeError):
        lab.ticks(2)
    assert len(lab.loop.timers) == 1


def test_it_stops(file: Path) -> None:
    lab = Lab(file)
    (timer,) = lab.loop.timers
    assert timer.delay_s == 0.5
    lab.watch.stop()
    assert timer.cancelled


def routes_with_files(folder: Path, *names: str) -> str:
    bodies = [f"{{filename: {folder / name}}}" for name in names] + ["{inline_string: text}"]
    return ", ".join(f"{{match: {{prefix: /}}, direct_response: {{status: 200, body: {body}}}}}" for body in bodies)


def test_what_is_watched_is_what_was_read_and_what_it_names(tmp_path: Path) -> None:
    for name in ("a.html", "b.html"):
        (tmp_path / name).write_text(name)
    loaded = load_text(tmp_path, with_routes(f"[{routes_with_files(tmp_path, 'b.html', 'a.html', 'b.html')}]"))
    names = ["f.yaml", "b.html", "a.html"]
    assert watched_files(Options(config_path=loaded.name), loaded.bootstrap) == [str(tmp_path / name) for name in names]
    assert watched_files(Options(), bootstrap_pb2.Bootstrap()) == []


def test_a_configuration_is_walked_once(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text("a")
    current = load_text(tmp_path, with_routes(f"[{routes_with_files(tmp_path, 'a.html')}]")).bootstrap
    files = WatchedFiles(Options(), lambda: current)
    first = files()
    assert first == [str(tmp_path / "a.html")]
    assert files() is first
    current = load_text(tmp_path, document()).bootstrap
    assert files() == []
