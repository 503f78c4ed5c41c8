"""Serve's REST API on the Ray dashboard: the one that `serve deploy` speaks."""

from __future__ import annotations

import ipaddress
from typing import Any
from urllib.parse import urlsplit

import httpx

from leader_platform.cluster import environment_token
from leader_platform.errors import RunError, UserError

_APPLICATIONS = "/api/serve/applications/"


def is_local(url: str) -> bool:
    """Whether a URL leads to this machine by its loopback address."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Dashboard:
    """The dashboard of one cluster. Raises `RunError` where it does not answer, `UserError` where it refuses.

    Without a `token` it takes the one that Ray itself would find in this process.
    """

    def __init__(self, url: str, token: str | None = None, transport: httpx.BaseTransport | None = None) -> None:
        self.url = url.rstrip("/")
        token = token or environment_token()
        self._client = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            # Starting Serve, which a first PUT does, takes several seconds.
            timeout=120,
            # A web proxy set for downloads would be handed the token.
            trust_env=False,
            transport=transport,
        )

    def details(self) -> dict[str, Any]:
        """Ray's ServeInstanceDetails."""
        details: dict[str, Any] = self._request("GET").json()
        return details

    def put(self, config: dict[str, Any]) -> None:
        """Make the cluster's Serve applications those of `config`, a ServeDeploySchema."""
        self._request("PUT", config)

    def delete(self) -> None:
        """Shut Serve down."""
        self._request("DELETE")

    def _request(self, method: str, body: dict[str, Any] | None = None) -> httpx.Response:
        try:
            response = self._client.request(method, _APPLICATIONS, json=body)
        except httpx.HTTPError as error:
            raise RunError(
                f"The Ray dashboard at {self.url} does not answer ({type(error).__name__}); "
                "see `leader cluster status`."
            ) from None
        if response.status_code in (401, 403):
            raise UserError(
                f"The Ray dashboard at {self.url} refuses the token; "
                "set RAY_AUTH_TOKEN_PATH to the file with the cluster's token."
            )
        if response.is_error:
            raise RunError(
                f"The Ray dashboard at {self.url} answered {response.status_code}: {last_line(response.text)}"
            )
        return response


def last_line(text: str) -> str:
    """The last line that says something: of a remote traceback, the error itself."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:500] if lines else "no message"
