"""Who may call: keys that callers present as `Authorization: Bearer KEY`, and of which only digests are kept.

A key is 256 random bits, so one round of SHA-256 is enough: there is nothing to guess. The file holds a name and a
digest for each key, so that keys can be given out, told apart and taken back one by one, without a restart.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import re
import secrets
import time
from collections.abc import Callable, Mapping

from leader_platform import storage
from leader_platform.errors import UserError

logger = logging.getLogger("ray.serve")

_PREFIX = "leader_"
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_READ_AGAIN_S = 5.0  # so a key that was taken back is refused within this time


def digest(key: str) -> str:
    """SHA-256 of a key, in hexadecimal."""
    return hashlib.sha256(key.encode()).hexdigest()


def read_keys(path: str) -> dict[str, str]:
    """Name -> digest. `UserError` where the file is missing or is not one of keys."""
    try:
        keys = json.loads(storage.read_bytes(path))["keys"]
    except FileNotFoundError:
        raise UserError(f"There is no key file {path}; make one with `leader serve keys add NAME`.") from None
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{path} is not a readable key file; write it with `leader serve keys add NAME`.") from None
    if not isinstance(keys, dict) or not all(_is_key(name, value) for name, value in keys.items()):
        raise UserError(f"{path} is not a key file: it must hold a SHA-256 digest by name under `keys`.")
    return keys


def _is_key(name: object, value: object) -> bool:
    return isinstance(name, str) and isinstance(value, str) and bool(_DIGEST.fullmatch(value))


def add_key(path: str, name: str) -> str:
    """Add a key of that name to the file, which is made where it is missing; returns the key, which is told nowhere
    else. `UserError` for a name that is taken or cannot be one."""
    if not _NAME.fullmatch(name):
        raise UserError(f"{name!r} cannot name a key; use up to 64 letters, digits, dots and dashes.")
    keys = read_keys(path) if storage.exists(path) else {}
    if name in keys:
        raise UserError(f"There is a key {name} already; remove it first, or choose another name.")
    key = _PREFIX + secrets.token_urlsafe(32)
    _write(path, {**keys, name: digest(key)})
    return key


def remove_key(path: str, name: str) -> None:
    """Take a key back. `UserError` where there is none of that name."""
    keys = read_keys(path)
    if name not in keys:
        raise UserError(f"There is no key {name!r} in {path}; there are: {', '.join(sorted(keys)) or 'none'}.")
    _write(path, {other: value for other, value in keys.items() if other != name})


def _write(path: str, keys: Mapping[str, str]) -> None:
    storage.write_bytes(path, json.dumps({"keys": dict(sorted(keys.items()))}, indent=2).encode() + b"\n")


class KeyRing:
    """The keys of a file, read again every few seconds. A file that cannot be read leaves the keys as they were."""

    def __init__(self, path: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = path, clock
        self._digests = self._read()
        self._read_at = clock()

    async def accepts(self, key: str) -> bool:
        """Whether this is one of the keys."""
        if self._clock() - self._read_at >= _READ_AGAIN_S:
            self._read_at = self._clock()
            try:
                self._digests = await asyncio.to_thread(self._read)  # the file may lie on another machine
            except UserError as error:
                logger.error("Keys stay as they were: %s", error)
        presented = digest(key)
        # All are compared, each in constant time.
        return sum(hmac.compare_digest(presented, known) for known in self._digests) > 0

    def _read(self) -> list[str]:
        return list(read_keys(self._path).values())
