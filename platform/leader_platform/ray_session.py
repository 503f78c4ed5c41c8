"""The Ray that a stage runs on: the cluster it was started in or pointed to, else one of its own."""

from __future__ import annotations

import logging
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from leader_platform.errors import RunError, UserError


@contextmanager
def ray_session(num_cpus: int | None = None, address: str | None = None) -> Iterator[None]:
    """Ray for the length of a `with` block.

    A Ray that this process already uses is used and left running. Else a connection to `address` (host:port) or
    RAY_ADDRESS, which Ray sets in its jobs. Else a Ray on loopback for this block alone, with `num_cpus` cores (all by
    default), no dashboard and a token of its own. Workers' output stays in Ray's log files; their errors are raised.
    Raises `UserError` if nothing answers at the address.
    """
    from leader_platform.ray_environment import apply, loopback_environment, ray_environment

    address = address or os.environ.get("RAY_ADDRESS") or None
    environment = ray_environment()
    if "ray" in sys.modules:
        # Ray read the mode when it was imported; half of it would see ours. It turns tokens on by itself at the start.
        del environment["RAY_AUTH_MODE"]
    elif address is None or address.rpartition(":")[0] in ("127.0.0.1", "localhost"):
        environment |= loopback_environment()
    apply(environment)
    import ray

    if ray.is_initialized():
        yield
        return
    if address is None:
        _start_local(num_cpus)
    else:
        _connect(address)
    try:
        yield
    finally:
        ray.shutdown()


def _start_local(num_cpus: int | None) -> None:
    from leader_platform.cluster import default_object_store_bytes
    from leader_platform.cluster_state import environment_token

    if environment_token() is None:
        # Ray would write one to the home folder, for every later Ray of the user, where it stays; ours ends with us.
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    try:
        _init(
            address="local",
            num_cpus=num_cpus,
            include_dashboard=False,
            object_store_memory=default_object_store_bytes(),
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise RunError(f"A local Ray did not start: {_first_line(error)}") from error


def _connect(address: str) -> None:
    from leader_platform.cluster_state import require_listening

    if "://" in address:
        raise UserError(
            f"A stage connects to Ray at host:port, not at {address}; the dashboard's URL is for submitting jobs."
        )
    if address != "auto":
        require_listening(address)
    try:
        _init(address=address)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(f"No Ray cluster could be joined at {address}: {_first_line(error)}") from error


def _init(**arguments: Any) -> None:
    import ray

    # Ray's own remarks (addresses, hints) are not this command's output; its warnings and errors are.
    ray.init(log_to_driver=False, logging_level=logging.WARNING, **arguments)
    _quiet()


def _quiet() -> None:
    """Ray Data writes its progress into logs as pages of operator tables; stages tell theirs in lines."""
    import ray.data

    ray.data.DataContext.get_current().print_on_execution_start = False
    logging.getLogger("ray._private.worker").setLevel(logging.WARNING)
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
