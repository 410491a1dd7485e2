"""Whose rights the main process has (``--user``, ``--umask``), and the one right it keeps: to bind a port below 1024.

``drop`` comes after the listening sockets are open and before any thread or worker is started: the kernel keeps
capabilities per thread. From then on the main process is an ordinary user with CAP_NET_BIND_SERVICE, so that a reload
may still add a listener on port 443; its workers, started by exec, do not get that right. Under systemd the right
comes from outside (``AmbientCapabilities=``), and ``keep_from_children`` keeps it in the main process likewise.

Linux only: ``capabilities(7)``, ``prctl(2)``.
"""

from __future__ import annotations

import contextlib
import ctypes
import grp
import logging
import os
import pwd
import sys
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

_log = logging.getLogger("workerproxy.main")

# <linux/capability.h>
_SETGID: Final = 1 << 6
_SETUID: Final = 1 << 7
_NET_BIND_SERVICE_NUMBER: Final = 10
NET_BIND_SERVICE: Final = 1 << _NET_BIND_SERVICE_NUMBER
_VERSION_3: Final = 0x20080522
_LOW: Final = 0xFFFFFFFF

# <linux/prctl.h>
_PR_SET_DUMPABLE: Final = 4
_PR_SET_KEEPCAPS: Final = 8
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_RAISE: Final = 2
_PR_CAP_AMBIENT_LOWER: Final = 3

_HIGHEST_ID: Final = 2**32 - 2  # (uid_t)-1 means "leave it as it is"


class PrivilegeError(Exception):
    """The rights asked for cannot be had, or root cannot be given up; the text is for the operator."""


class Identity(NamedTuple):
    """What ``--user`` means here. ``groups`` holds the supplementary ones too."""

    user: int
    group: int
    groups: tuple[int, ...]


class CapabilitySets(NamedTuple):
    """Bit masks of the calling thread."""

    effective: int
    permitted: int
    inheritable: int


def resolve(user_spec: str) -> Identity:
    """``USER``, ``USER:GROUP``, each a name or a number. Raises ``PrivilegeError``.

    Without a group it is the user's own, with the supplementary groups the system has for that user. A group that is
    named is the only one; a number without an account needs one.
    """
    user, colon, group = user_spec.partition(":")
    try:
        account = pwd.getpwuid(_number(user, "user")) if user.isdigit() else pwd.getpwnam(user)
    except KeyError:
        if not user.isdigit():
            raise PrivilegeError(f"there is no user {user!r}") from None
        if not colon:
            raise PrivilegeError(f"user {user} has no account here; name its group, too: {user}:GROUP") from None
        account = None
    if colon:
        only = _group(group)
        return Identity(account.pw_uid if account else _number(user, "user"), only, (only,))
    assert account is not None
    groups = os.getgrouplist(account.pw_name, account.pw_gid)
    return Identity(account.pw_uid, account.pw_gid, tuple(sorted({account.pw_gid, *groups})))


def drop(user_spec: str) -> None:
    """Become that user for good, keeping CAP_NET_BIND_SERVICE where it was held. Raises ``PrivilegeError``.

    Nothing is done when this process is that user already, as the main process of an upgrade is.
    """
    wanted = resolve(user_spec)
    if os.getresuid() == (wanted.user,) * 3 and os.getresgid() == (wanted.group,) * 3:
        keep_from_children()
        return
    if os.geteuid() != 0:
        raise PrivilegeError(f"only root can become user {user_spec!r}; this process is user {os.geteuid()}")
    kept = wanted.user != 0 and _prepare_to_keep()
    try:
        os.setgroups(wanted.groups)
        os.setresgid(wanted.group, wanted.group, wanted.group)
        os.setresuid(wanted.user, wanted.user, wanted.user)
    except OSError as error:
        raise PrivilegeError(f"cannot become user {user_spec!r}: {error.strerror}") from None
    if wanted.user != 0:
        _give_up_the_rest(kept)
        _verify(wanted)
    # The change made /proc/self root's: no core dump, no counting of descriptors. There is nothing in here to hide from
    # the user's other processes, which are the workers: they hold the same secrets.
    with contextlib.suppress(OSError):
        _prctl(_PR_SET_DUMPABLE, 1)
    _log.info("runs as user %d, group %d%s", wanted.user, wanted.group, ", may bind any port" if kept else "")


def check_readable(user_spec: str) -> None:
    """Whether the program and its interpreter can be read as the user that was become: workers are started with them.

    Raises ``PrivilegeError``.
    """
    for path in (sys.executable, os.__file__, __file__):
        if not os.access(path, os.R_OK):
            raise PrivilegeError(f"user {user_spec!r} may not read {path}: install Python and workerproxy where it may")


def set_umask(mode: int) -> None:
    """The permissions that files made from now on do not get; workers inherit it."""
    os.umask(mode)


def capabilities() -> CapabilitySets:
    """What the calling thread has. Raises ``OSError``."""
    data = (_Data * 2)()
    _call("capget", ctypes.byref(_Header(_VERSION_3, 0)), data)
    low, high = data
    return CapabilitySets(
        low.effective | high.effective << 32,
        low.permitted | high.permitted << 32,
        low.inheritable | high.inheritable << 32,
    )


def keep_from_children() -> None:
    """Take CAP_NET_BIND_SERVICE out of the ambient set: programs started from now on do not get it. Never fails."""
    with contextlib.suppress(OSError):  # a kernel without ambient capabilities (before 4.3) gives none away
        _ambient(_PR_CAP_AMBIENT_LOWER)


@contextlib.contextmanager
def ambient_bind_service() -> Iterator[None]:
    """What is started in here gets CAP_NET_BIND_SERVICE, if this process has it: the main process of an upgrade.

    Does nothing for root, whose children have all capabilities, and where the kernel refuses it.
    """
    raised = False
    before = CapabilitySets(0, 0, 0)
    if os.geteuid() != 0:
        try:
            before = capabilities()
            if before.permitted & NET_BIND_SERVICE:
                _inherit(before.inheritable | NET_BIND_SERVICE, before)
                _ambient(_PR_CAP_AMBIENT_RAISE)
                raised = True
        except OSError as error:
            _log.warning("the new main process will not be allowed to bind ports below 1024: %s", error.strerror)
    try:
        yield
    finally:
        if raised:
            keep_from_children()
            with contextlib.suppress(OSError):
                _inherit(before.inheritable, before)


def _inherit(mask: int, before: CapabilitySets) -> None:
    """Change the inheritable set, if need be: under systemd it is right, and the call may be filtered out."""
    if not before.inheritable & NET_BIND_SERVICE:
        _set(before._replace(inheritable=mask))


def _prepare_to_keep() -> bool:
    """Before root is given up: keep what is needed for that, and CAP_NET_BIND_SERVICE, beyond the change of user.

    False when there is nothing to keep or the kernel refuses: then the change of user clears everything, as ever.
    """
    try:
        now = capabilities()
        if not now.permitted & NET_BIND_SERVICE:
            return False
        few = now.permitted & (_SETGID | _SETUID | NET_BIND_SERVICE)
        _set(CapabilitySets(few, few, 0))
        _prctl(_PR_SET_KEEPCAPS, 1)
    except OSError as error:
        _log.warning("ports below 1024 cannot be bound after the start: %s", error.strerror)
        return False
    return True


def _give_up_the_rest(kept: bool) -> None:
    try:
        if kept:
            _set(CapabilitySets(NET_BIND_SERVICE, NET_BIND_SERVICE, 0))
            _prctl(_PR_SET_KEEPCAPS, 0)
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)  # nor by a program with the setuid bit
    except OSError as error:
        raise PrivilegeError(f"cannot give up root's capabilities: {error.strerror}") from None
    keep_from_children()


def _verify(now: Identity) -> None:
    """Try to be root again, as nobody must be able to."""
    regained = _works(os.setresuid, 0) or (now.group != 0 and _works(os.setresgid, 0))
    if regained or capabilities().permitted & ~NET_BIND_SERVICE:
        raise PrivilegeError("root was given up, but can be had again")


def _works(change: Callable[[int, int, int], None], to: int) -> bool:
    try:
        change(to, to, to)
    except OSError:
        return False
    return True


def _number(text: str, what: str) -> int:
    number = int(text)
    if number > _HIGHEST_ID:
        raise PrivilegeError(f"{what} {text} is out of range")
    return number


def _group(text: str) -> int:
    if text.isdigit():
        return _number(text, "group")
    try:
        return grp.getgrnam(text).gr_gid
    except KeyError:
        raise PrivilegeError(f"there is no group {text!r}") from None


# --- system calls without a name in Python


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))

    effective: int
    permitted: int
    inheritable: int


def _set(sets: CapabilitySets) -> None:
    data = (_Data * 2)()
    for half, shift in zip(data, (0, 32), strict=True):
        half.effective, half.permitted, half.inheritable = [mask >> shift & _LOW for mask in sets]
    _call("capset", ctypes.byref(_Header(_VERSION_3, 0)), data)


def _ambient(operation: int) -> int:
    return _prctl(_PR_CAP_AMBIENT, operation, _NET_BIND_SERVICE_NUMBER)


def _prctl(*arguments: int) -> int:
    words = [*arguments, 0, 0, 0, 0][:5]
    return _call("prctl", *(ctypes.c_ulong(word) for word in words))


def _call(name: str, *arguments: object) -> int:
    """A function of the C library that returns -1 and sets errno. Raises ``OSError``."""
    result = int(getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
