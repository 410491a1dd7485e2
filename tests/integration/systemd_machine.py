"""A machine of its own with a real systemd as process 1, made of namespaces: nothing of it is left outside.

It sees this machine's programs, read-only, with a private copy of ``/etc`` and an empty ``/run``, ``/var`` and
``/tmp``; it has a network of its own (only the loopback), its own processes, and a control group below ours. The
working tree is installed at ``/opt/workerproxy``, where the unit expects it. Needs root, ``unshare`` and a cgroup2 file
system.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

import pytest

from tests.support.processes import NotReadyError, wait_until
from tests.support.workerproxy import ROOT

T = TypeVar("T")

SYSTEMD: Final = ("/lib/systemd/systemd", "/usr/lib/systemd/systemd")
BOOT_TIMEOUT_S: Final = 20.0
CALL_TIMEOUT_S: Final = 60.0
_LAST_LINES: Final = 50  # of the journal, in the message of a failure
_SPACES: Final = ("--mount", "--pid", "--fork", "--cgroup", "--ipc", "--net", "--uts")
_CLONE_NEWNET: Final = 0x40000000

# Targets that every unit may name; what they are for does not matter here.
_TARGETS: Final = ("sysinit", "basic", "sockets", "multi-user", "shutdown", "network-online", "nss-lookup")
_DEFAULT_TARGET: Final = """[Unit]
Requires=basic.target sockets.target systemd-journald.service
After=basic.target sockets.target
AllowIsolate=yes
"""
_JOURNAL_UNITS: Final = ("systemd-journald.service", "systemd-journald.socket", "systemd-journald-dev-log.socket")

# Runs as process 1 of the new namespaces before systemd takes its place. $1: the directory, $2: systemd.
_BOOT: Final = r"""
set -eu
mount --make-rprivate /
cd "$1"
mount -t tmpfs -o mode=755 tmpfs dev
for name in null zero full random urandom tty; do touch dev/$name; mount --bind /dev/$name dev/$name; done
mkdir dev/shm dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
ln -s pts/ptmx dev/ptmx; ln -s /proc/self/fd dev/fd
ln -s fd/0 dev/stdin; ln -s fd/1 dev/stdout; ln -s fd/2 dev/stderr
mount --bind etc /etc
mount -t tmpfs -o mode=755 tmpfs opt
mkdir opt/python opt/workerproxy opt/workerproxy/bin opt/workerproxy/source opt/workerproxy/packages
mount --bind "$PYTHON_HOME" opt/python
mount --bind "$SOURCE" opt/workerproxy/source
mount --bind "$PACKAGES" opt/workerproxy/packages
for tree in python workerproxy/source workerproxy/packages; do mount -o remount,bind,ro opt/$tree; done
cp workerproxy opt/workerproxy/bin/
mount --rbind opt /opt
touch dev/console
mount --bind log dev/console
umount -l /sys/fs/cgroup
mount -t sysfs -o ro sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t proc proc /proc
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
mount --rbind dev /dev
mount -o remount,bind,ro /
for empty in run var tmp; do mount -t tmpfs -o mode=755 tmpfs /$empty; done
chmod 1777 /tmp
mkdir -p /var/log /var/lib /run/log/journal
cd /
export container=test SYSTEMD_UNIT_PATH=/etc/systemd/system
exec "$2" --system --show-status=no --unit=default.target
"""

_PROGRAM: Final = """#!/bin/sh
export LD_LIBRARY_PATH=/opt/python/lib PYTHONPATH=/opt/workerproxy/source:/opt/workerproxy/packages
exec /opt/python/bin/{python} -m workerproxy "$@"
"""


class Machine:
    """Runs while used as a context manager. ``files`` are put into its ``/etc`` beforehand, by their paths below it."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="workerproxy-machine-"))
        self._files = files
        self._cgroup = Path()
        self._log = self._directory / "log"
        self.pid = 0

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start(self) -> None:
        systemd = _must_have()
        self._cgroup = _unified_hierarchy() / self._directory.name
        self._lay_out(systemd)
        self._cgroup.mkdir()
        environment = {
            "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin",
            "PYTHON_HOME": sys.base_prefix,
            "PACKAGES": sysconfig.get_path("purelib"),
            "SOURCE": str(ROOT),
        }
        join = 'echo $$ >"$0/cgroup.procs"; exec "$@"'
        boot = ["unshare", *_SPACES, "--kill-child=SIGKILL", "sh", "-c", _BOOT, "boot", str(self._directory), systemd]
        with self._log.open("wb") as log:
            # All of it is killed with this thread: unshare by the kernel, process 1 with unshare, the others with that.
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", "sh", "-c", join, str(self._cgroup), *boot],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        try:
            wait_until(self._booted, BOOT_TIMEOUT_S, "the start of systemd")
        except NotReadyError as error:
            raise NotReadyError(f"{error}; it says:\n{self.log()}") from None

    def _lay_out(self, systemd: str) -> None:
        here = self._directory
        here.chmod(0o755)
        for name in ("dev", "opt"):
            (here / name).mkdir()
        shutil.copytree("/etc", here / "etc", symlinks=True)
        units = here / "etc/systemd/system"
        shutil.rmtree(units)
        units.mkdir()
        for target in _TARGETS:
            (units / f"{target}.target").write_text("[Unit]\nDefaultDependencies=no\n")
        (units / "default.target").write_text(_DEFAULT_TARGET)
        for name in _JOURNAL_UNITS:
            shutil.copy(Path(systemd).parent / "system" / name, units / name)
        program = here / "workerproxy"
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        program.write_text(_PROGRAM.format(python=f"python{version}"))
        program.chmod(0o755)
        for name, text in self._files.items():
            (here / "etc" / name).parent.mkdir(parents=True, exist_ok=True)
            (here / "etc" / name).write_text(text)

    def _booted(self) -> bool:
        if self._process.poll() is not None:
            raise NotReadyError(f"systemd cannot be started here:\n{self.log()}")
        if not self.pid:
            children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
            self.pid = int(children[0]) if children else 0
        if not self.pid or not Path(f"/proc/{self.pid}/root/run/systemd/private").exists():
            return False
        return self.systemctl("is-system-running", check=False) in ("running", "degraded")

    def stop(self) -> None:
        """Everything in it is killed; its mounts go with it."""
        process = getattr(self, "_process", None)
        if process is not None:
            with contextlib.suppress(OSError):
                (self._cgroup / "cgroup.kill").write_text("1")
            if process.poll() is None:
                process.kill()
            process.wait()
        if self._cgroup != Path() and self._cgroup.exists():
            wait_until(
                lambda: "populated 0" in (self._cgroup / "cgroup.events").read_text(), 5.0, "the end of all of it"
            )
            for directory, _, _ in os.walk(self._cgroup, topdown=False):
                os.rmdir(directory)
        shutil.rmtree(self._directory, ignore_errors=True)

    # --- inside

    def log(self) -> str:
        """What systemd and its services have said."""
        said = self._log.read_text(errors="replace")
        if self.pid and self._process.poll() is None:
            said += self.run("journalctl", "--no-pager", "-o", "short-monotonic", check=False)
        return said

    def run(self, *argv: str, check: bool = True) -> str:
        """What a command prints that is run in there, as root."""
        inside = ["nsenter", "--target", str(self.pid), "--all", "--", *argv]
        done = subprocess.run(inside, capture_output=True, text=True, timeout=CALL_TIMEOUT_S, check=False)
        if check and done.returncode:
            said = "\n".join(self.log().splitlines()[-_LAST_LINES:])
            raise AssertionError(f"{argv} ended with {done.returncode}: {done.stdout}{done.stderr}\n{said}")
        return (done.stdout + done.stderr).strip()

    def systemctl(self, *arguments: str, check: bool = True) -> str:
        return self.run("systemctl", "--no-pager", *arguments, check=check)

    def show(self, unit: str, name: str) -> str:
        """One property of a unit."""
        return self.systemctl("show", "--value", "-p", name, unit)

    def path(self, name: str) -> Path:
        """Where a file of that machine is seen from here."""
        return Path(f"/proc/{self.pid}/root{name}")

    def inside(self, what: Callable[[], T]) -> T:
        """Call this in that machine's network, on a thread of its own: sockets it makes are there."""
        with ThreadPoolExecutor(1, initializer=self._enter_network) as executor:
            return executor.submit(what).result()

    def _enter_network(self) -> None:
        with Path(f"/proc/{self.pid}/ns/net").open() as file:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(file.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "cannot enter the machine's network")


def _must_have() -> str:
    """systemd's path; skips the test, saying why, where such a machine cannot be made."""
    if os.geteuid() != 0:
        pytest.skip("only root can make a machine out of namespaces")
    systemd = next((path for path in SYSTEMD if os.access(path, os.X_OK)), None)
    if systemd is None:
        pytest.skip("systemd is not installed")
    for program in ("unshare", "nsenter", "setpriv", "systemctl"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    mount = ["mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    tried = subprocess.run(
        ["unshare", *_SPACES, *mount], capture_output=True, text=True, timeout=CALL_TIMEOUT_S, check=False
    )
    if tried.returncode:
        pytest.skip(f"no namespaces here: {tried.stderr.strip()}")
    return systemd


def _unified_hierarchy() -> Path:
    """Where a control group can be made; skips the test where there is none."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, options, *_ = line.split()
        if kind == "cgroup2" and "rw" in options.split(",") and os.access(where, os.W_OK):
            return Path(where)
    pytest.skip("there is no cgroup2 file system that can be written")
