"""HTTP by the user's proxy settings, except to this machine."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import httpx

from leader_platform.dashboard import is_local
from leader_platform.errors import UserError


def http_client(url: str | None, **options: Any) -> httpx.Client:
    """A client for `url` (None: for hosts of the internet): this machine directly, others as the environment says.

    Raises `UserError` for proxy settings that cannot be used.
    """
    trust_env = url is None or not leads_here(url)
    try:
        return httpx.Client(trust_env=trust_env, **options)
    except (ImportError, httpx.InvalidURL, ValueError) as error:
        if not trust_env:
            raise
        # The value is not printed: it may hold a password.
        reason = str(error).partition(". ")[0].rstrip(".")
        raise UserError(
            f"The proxy settings of the environment cannot be used ({reason}); correct HTTP_PROXY, HTTPS_PROXY, "
            "ALL_PROXY and NO_PROXY. A SOCKS proxy needs `pip install httpx[socks]`."
        ) from None


def leads_here(url: str) -> bool:
    """Whether a client that calls `url` calls this machine by loopback, or by 0.0.0.0, which is taken for it."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    return is_local(url) or host in ("localhost", "0.0.0.0", "::") or host.endswith(".localhost")
