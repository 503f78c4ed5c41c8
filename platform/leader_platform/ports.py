"""Ports of this machine: whether a server could listen on one, and which one to take instead."""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Callable

from leader_platform.errors import RunError, UserError

_LOOPBACK = "127.0.0.1"
_LAST_PORT = 65535


def refusal(port: int, host: str = _LOOPBACK) -> OSError | None:
    """Why a server could not listen on `port` of `host`, or None if it could."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As servers bind: a port that only waits out its last connections counts as free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OverflowError:
        return OSError(errno.EINVAL, "a port is a number from 1 to 65535")
    except OSError as error:
        return error
    return None


def require_free(port: int, setting: str, host: str = _LOOPBACK) -> None:
    """`UserError` unless a server could listen on `port` of `host`; `setting`, such as `--port=`, is the way out."""
    error = refusal(port, host)
    if error is None:
        return
    if error.errno == errno.EADDRINUSE:
        raise UserError(f"Port {port} is taken by another program; choose another: {setting}{first_free(port, host)}.")
    raise UserError(
        f"No server can listen on port {port} of {host} ({error.strerror}); check the address, or choose another port: "
        f"{setting}PORT."
    )


def first_free(port: int, host: str = _LOOPBACK) -> int:
    """`port`, or the next one above it that is free. `RunError` where none of the next hundred is."""
    for candidate in range(port, min(port + 100, _LAST_PORT + 1)):
        if refusal(candidate, host) is None:
            return candidate
    raise RunError(f"No free port was found between {port} and {min(port + 99, _LAST_PORT)}.")


def take_port(port: int, user: str, say: Callable[[str], None], host: str = _LOOPBACK) -> int:
    """`port` where it is free, else the next free one, which is said: `user` is what will listen there."""
    free = first_free(port, host)
    if free != port:
        say(f"Port {port} is taken by another program; {user} takes {free}.")
    return free


def free_port() -> int:
    """A port that is free on all addresses of this machine, and likely to stay so.

    It lies below the ports that the kernel and Ray give out, since it may be opened hours from now.
    """
    for port in random.sample(range(20_000, 30_000), k=100):
        if refusal(port, "0.0.0.0") is None:
            return port
    raise RunError("No free port was found between 20000 and 30000.")
