"""Requests to the dashboard of a Ray cluster, with a sentence for each way to fail. Nothing here needs Ray itself."""

from __future__ import annotations

import ipaddress
from typing import Any
from urllib.parse import urlsplit

from leader_platform.errors import RunError, UserError


def request(
    url: str,
    token: str | None,
    method: str,
    path: str,
    body: dict[str, Any] | None = None,
    *,
    timeout_s: float = 30.0,
    transport: Any = None,
) -> Any:
    """What the dashboard at `url` answers, from JSON; None where it answers nothing.

    Raises `UserError` if none answers there or it refuses the token, and `RunError` with the last line of what it says
    where it fails. `transport` is httpx's, for tests.
    """
    import httpx

    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        # No proxy of the environment, which would be handed the token: the dashboard is here or in our network.
        with httpx.Client(headers=headers, timeout=timeout_s, trust_env=False, transport=transport) as client:
            answer = client.request(method, url + path, json=body)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise UserError(f"No Ray dashboard answers at {url} ({type(error).__name__}); check the address.") from None
    if answer.status_code in (401, 403):
        raise UserError(
            f"The Ray cluster at {url} refuses the token; set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to its file."
        )
    if answer.is_error:
        raise RunError(f"The Ray dashboard at {url} answers {path} with {answer.status_code}: {last_line(answer.text)}")
    if not answer.content:
        return None
    try:
        return answer.json()
    except ValueError:
        raise UserError(f"What answers at {url} is not a Ray dashboard; check the address.") from None


def is_local(url: str) -> bool:
    """Whether a URL leads to this machine by its loopback address."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def last_line(text: str) -> str:
    """The last line that says something: of a remote traceback, the error itself."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:500] if lines else "no message"
