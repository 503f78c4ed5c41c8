"""Serve's REST API on the Ray dashboard: the one that `serve deploy` speaks."""

from __future__ import annotations

from typing import Any

from leader_platform import dashboard
from leader_platform.cluster_state import environment_token

_APPLICATIONS = "/api/serve/applications/"
_TIMEOUT_S = 120.0  # starting Serve, which a first PUT does, takes several seconds


class Dashboard:
    """Serve of one cluster. Raises as `leader_platform.dashboard.request` does.

    Without a `token` it takes the one that Ray itself would find in this process.
    """

    def __init__(self, url: str, token: str | None = None, transport: Any = None) -> None:
        self.url = url.rstrip("/")
        self._token = token or environment_token()
        self._transport = transport

    def details(self) -> dict[str, Any]:
        """Ray's ServeInstanceDetails."""
        details: dict[str, Any] = self._request("GET")
        return details

    def put(self, config: dict[str, Any]) -> None:
        """Make the cluster's Serve applications those of `config`, a ServeDeploySchema."""
        self._request("PUT", config)

    def delete(self) -> None:
        """Shut Serve down."""
        self._request("DELETE")

    def _request(self, method: str, body: dict[str, Any] | None = None) -> Any:
        return dashboard.request(
            self.url, self._token, method, _APPLICATIONS, body, timeout_s=_TIMEOUT_S, transport=self._transport
        )
