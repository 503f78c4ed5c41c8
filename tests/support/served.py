"""A run as far as a deployment's plan looks at it."""

from __future__ import annotations

import json
from pathlib import Path

from leader_platform.config import LeaderConfig
from leader_platform.settings import load_config

CONFIG = load_config(LeaderConfig(), None, ["serve.port=18231"])


def trained(run: Path, finished_at: str = "2026-01-01") -> Path:
    """A run whose student and teacher were made then."""
    for product in ("student", "teacher"):
        (run / product).mkdir(parents=True, exist_ok=True)
        manifest = {"key": run.name, "finished_at": finished_at}
        (run / product / "manifest.json").write_text(json.dumps(manifest))
    return run
