"""What is known of a running Ray cluster, and questions to its dashboard. Nothing here needs Ray itself."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from leader_platform import dashboard
from leader_platform.errors import UserError
from leader_platform.surroundings import home

WAY_OUT = "`leader cluster down` clears it, then `leader cluster up` starts a new one."


class ClusterState(BaseModel):
    """A running cluster. Of one that `leader cluster up` did not start, only the addresses are known."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: str  # host:port of the global control store; the dashboard's URL where only that is known
    dashboard_url: str
    token_file: Path | None = (
        None  # None: the token that Ray itself finds (RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, ~/.ray)
    )
    pid: int | None = None
    process_start: float | None = None  # as `cluster_processes.start_time` tells it
    num_cpus: float | None = None
    num_gpus: float | None = None
    object_store_bytes: int | None = None
    temp_dir: Path | None = None
    started_at: float | None = None  # seconds since 1970
    prometheus_url: str | None = None
    forwarded: bool = False  # the dashboard's URL is this machine's end of a connection to another machine's

    def token(self) -> str | None:
        """The cluster's token, or None if it has none; `UserError` if its file cannot be read."""
        if self.token_file is None:
            return environment_token()
        try:
            return self.token_file.read_text().strip()
        except OSError as error:
            raise UserError(
                f"The cluster's token {self.token_file} cannot be read ({error.strerror}); {WAY_OUT}"
            ) from None

    def headers(self) -> dict[str, str]:
        """What a request to the dashboard must carry."""
        token = self.token()
        return {"Authorization": f"Bearer {token}"} if token else {}


def environment_token() -> str | None:
    """The token that Ray itself would use in this process, in Ray's order, or None."""
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(os.path.expanduser(named)) if named else Path(str(home()), ".ray", "auth_token")
    with contextlib.suppress(OSError):
        return path.read_text().strip() or None
    return None


def get_json(state: ClusterState, path: str, timeout_s: float = 30.0) -> Any:
    """What the cluster's dashboard answers to GET `path`. Raises as `dashboard.request` does."""
    return dashboard.request(state.dashboard_url, state.token(), "GET", path, timeout_s=timeout_s)


def require_listening(address: str) -> None:
    """`UserError` unless `address` is host:port and something listens there; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in address:
        raise UserError(f"{address!r} is not a Ray address; give host:port, auto, or the dashboard's http://host:port.")
    try:
        socket.create_connection((host, int(port)), timeout=10.0).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"No Ray cluster answers at {address} ({error}); check the address.") from None
