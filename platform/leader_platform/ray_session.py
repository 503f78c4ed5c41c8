"""The Ray that a stage runs on: the cluster it was started in or pointed to, else one of its own."""

from __future__ import annotations

import logging
import os
import secrets
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from leader_platform.errors import RunError, UserError
from leader_platform.ray_folders import make_inner, owned_folder, ray_folder


@contextmanager
def ray_session(num_cpus: int | None = None, address: str | None = None) -> Iterator[None]:
    """Ray for the length of a `with` block.

    A Ray that this process already uses is used and left running. Else a connection to `address` (host:port) or
    RAY_ADDRESS, which Ray sets in its jobs. Else a Ray on loopback for this block alone, with `num_cpus` cores (those
    that this process may use), no dashboard and a token of its own. Workers' output stays in Ray's log files; their
    errors are raised. Raises `UserError` if nothing answers at the address.
    """
    from leader_platform.ray_environment import apply, call_directly, loopback_environment, ray_environment

    call_directly()
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
    with ExitStack() as ended:
        # Ray ends before its folder goes.
        folder = ended.enter_context(owned_folder()) if address is None else None
        ended.callback(ray.shutdown)
        if folder is not None:
            _start_local(num_cpus, folder)
        else:
            _connect(str(address))
        yield


def _start_local(num_cpus: int | None, folder: Path) -> None:
    from leader_platform.cluster import default_object_store_bytes
    from leader_platform.cluster_state import environment_token
    from leader_platform.machine import Machine

    if environment_token() is None:
        # Ray would write one to the home folder, for every later Ray of the user, where it stays; ours ends with us.
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    machine, object_store_bytes = Machine(), default_object_store_bytes()
    try:
        with _variables(make_inner(folder)):
            _init(
                address="local",
                num_cpus=num_cpus or machine.usable_cores(),
                include_dashboard=False,
                object_store_memory=object_store_bytes,
                _memory=machine.ray_memory(object_store_bytes),
                _temp_dir=str(ray_folder(folder)),
            )
    except (RuntimeError, ValueError, OSError) as error:
        raise RunError(f"A local Ray did not start: {_first_line(error)}") from error


@contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    """Variables for the processes that are started in the block, and for no later ones."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


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
    _set_up_ray_data()


def _set_up_ray_data() -> None:
    """Ray Data's own progress is pages of operator tables in a log; stages tell theirs in lines."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.print_on_execution_start = False
    # Training resumes by counting batches, and equal seeds promise equal runs: blocks come in their order, always.
    context.execution_options.preserve_order = True
    # Ray 2.60's second reader of Parquet starts thirty actors to read footers, of our few files too: 2.5 s where the
    # first takes 0.1, and thirty dead workers in the dashboard.
    context.use_datasource_v2 = False
    # Only by these can the restarts of a stage's actors be bounded in Ray 2.60.
    warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
    logging.getLogger("ray._private.worker").setLevel(logging.WARNING)
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
