"""Giving up root, for real: each case in a process of its own that then looks at what it has.

Runs as root only. The user and group are ``nobody``'s, or numbers without an account.
"""

from __future__ import annotations

import grp
import json
import os
import pwd
import shutil
import subprocess
import sys
from typing import Any, Final

import pytest

from workerproxy.main_thread.privileges import Identity, PrivilegeError, drop, resolve

NOBODY: Final = pwd.getpwnam("nobody")
NET_BIND: Final = "0000000000000400"
NONE: Final = "0000000000000000"

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give root up")

# Runs the statements of its argument, in which `seen` collects what is to be returned; `status()` is /proc/self/status.
CHILD: Final = """
import json, os, socket, subprocess, sys
from workerproxy.main_thread import privileges
from workerproxy.main_thread.privileges import PrivilegeError, ambient_bind_service, capabilities, drop, set_umask

def status(text=None):
    lines = (text or open("/proc/self/status").read()).splitlines()
    return dict(line.split(":\\t", 1) for line in lines if ":\\t" in line)

def child_status():
    return status(subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True, check=True).stdout)

def can_bind(port):
    with socket.socket() as sock:
        try:
            sock.bind(("127.0.0.1", port))
        except PermissionError:
            return False
    return True

seen = {}
exec(sys.argv[1])
print(json.dumps(seen))
"""


def run(statements: str, *before: str) -> dict[str, Any]:
    """What the statements leave in ``seen``, run by a fresh process; ``before`` is a command it is started through."""
    argv = [*before, sys.executable, "-c", CHILD, statements]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


# --- who is meant


def test_a_name_brings_its_group_and_all_other_groups() -> None:
    groups = {NOBODY.pw_gid, *os.getgrouplist("nobody", NOBODY.pw_gid)}
    assert resolve("nobody") == Identity(NOBODY.pw_uid, NOBODY.pw_gid, tuple(sorted(groups)))
    assert resolve(str(NOBODY.pw_uid)) == resolve("nobody")


def test_a_group_that_is_named_is_the_only_one() -> None:
    gid = grp.getgrnam("daemon").gr_gid
    assert resolve("nobody:daemon") == Identity(NOBODY.pw_uid, gid, (gid,))
    assert resolve("54321:54322") == Identity(54321, 54322, (54322,))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("no-such-user", "there is no user 'no-such-user'"),
        ("", "there is no user ''"),
        ("nobody:no-such-group", "there is no group 'no-such-group'"),
        ("nobody:", "there is no group ''"),
        ("54321", "user 54321 has no account here; name its group, too: 54321:GROUP"),
        ("4294967295:1", "user 4294967295 is out of range"),
        ("1:4294967295", "group 4294967295 is out of range"),
    ],
)
def test_what_nobody_can_become_is_said(spec: str, message: str) -> None:
    with pytest.raises(PrivilegeError) as raised:
        drop(spec)
    assert str(raised.value) == message


# --- dropping


@as_root
def test_root_is_gone_for_good_and_low_ports_can_still_be_bound() -> None:
    seen = run(
        """
drop("nobody:daemon")
seen["ids"], seen["gids"], seen["groups"] = os.getresuid(), os.getresgid(), os.getgroups()
seen["status"] = status()
seen["bind"] = can_bind(1)
for name, attempt in {"uid": lambda: os.setresuid(0, 0, 0), "gid": lambda: os.setresgid(0, 0, 0),
                      "setgroups": lambda: os.setgroups([0]), "shadow": lambda: open("/etc/shadow")}.items():
    try:
        attempt()
        seen[name] = True
    except PermissionError:
        seen[name] = False
seen["own"] = len(os.listdir("/proc/self/fd")) > 0 and os.stat("/proc/self/fd").st_uid
"""
    )
    gid = grp.getgrnam("daemon").gr_gid
    assert (seen["ids"], seen["gids"], seen["groups"]) == ([NOBODY.pw_uid] * 3, [gid] * 3, [gid])
    caps = {name: seen["status"][name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")}
    assert caps == {"CapInh": NONE, "CapPrm": NET_BIND, "CapEff": NET_BIND, "CapAmb": NONE}
    assert seen["status"]["NoNewPrivs"] == "1"
    assert seen["bind"] is True
    assert [seen[name] for name in ("uid", "gid", "setgroups", "shadow")] == [False] * 4
    assert seen["own"] == NOBODY.pw_uid  # /proc/self is not root's, so descriptors can be counted and cores dumped


@as_root
def test_workers_have_no_capability_and_the_next_main_process_has_the_one() -> None:
    seen = run(
        """
drop("nobody")
seen["worker"] = child_status()
with ambient_bind_service():
    seen["main"] = child_status()
seen["later"] = child_status()
seen["self"] = status()
"""
    )
    for who in ("worker", "later"):
        assert {seen[who][name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {NONE}
        assert seen[who]["Uid"].split() == [str(NOBODY.pw_uid)] * 4
    assert {seen["main"][name] for name in ("CapPrm", "CapEff", "CapAmb")} == {NET_BIND}
    assert {seen["self"][name] for name in ("CapInh", "CapAmb")} == {NONE}


@as_root
def test_who_is_that_user_already_only_makes_sure() -> None:
    seen = run(
        """
drop("nobody")
before = capabilities()
with ambient_bind_service():  # as the main process of an upgrade is started
    drop("nobody")
    seen["child"] = child_status()["CapEff"]
seen["same"] = before == capabilities()
"""
    )
    assert seen == {"child": NONE, "same": True}


@as_root
def test_a_capability_that_root_lacks_is_not_kept() -> None:
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("setpriv is not installed, so root cannot be made to lack a capability")
    seen = run(
        """
drop("nobody")
seen["status"] = status()
with ambient_bind_service():
    seen["child"] = child_status()
""",
        setpriv,
        "--bounding-set=-net_bind_service",
        "--inh-caps=-net_bind_service",
    )
    for who in ("status", "child"):
        assert {seen[who][name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {NONE}


@as_root
def test_another_user_cannot_become_somebody_else() -> None:
    seen = run(
        """
drop("nobody")
try:
    drop("daemon")
except PrivilegeError as error:
    seen["error"] = str(error)
"""
    )
    assert seen["error"] == f"only root can become user 'daemon'; this process is user {NOBODY.pw_uid}"


@as_root
def test_root_may_stay_root_and_keeps_everything() -> None:
    seen = run(
        """
before = capabilities()
drop("root")
drop("root:daemon")
with ambient_bind_service():
    seen["child"] = child_status()["CapEff"]
seen["same"] = before == capabilities()
seen["gid"] = os.getgid()
"""
    )
    assert seen["same"]
    assert seen["child"] != NONE
    assert seen["gid"] == grp.getgrnam("daemon").gr_gid


@as_root
def test_a_capability_from_systemd_stays_in_the_main_process() -> None:
    seen = run(
        """
drop("nobody")
given = ambient_bind_service()
given.__enter__()  # what AmbientCapabilities= does before the program is started
seen["before"] = child_status()["CapEff"]
privileges.keep_from_children()
seen["after"] = child_status()["CapEff"]
seen["bind"] = can_bind(1)
with ambient_bind_service():
    seen["main"] = child_status()["CapEff"]
"""
    )
    assert seen == {"before": NET_BIND, "after": NONE, "bind": True, "main": NET_BIND}


def test_the_umask_is_taken() -> None:
    seen = run("set_umask(0o027); seen['umask'] = status()['Umask']")
    assert seen["umask"] == "0027"
