"""Prometheus beside a local cluster: it reads what Ray, Serve and the platform export, and checks our alert rules."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import yaml

from leader_platform import cluster_processes
from leader_platform.errors import RunError, UserError

# In a checkout, else in the package, where the wheel puts them.
_FILES = (Path(__file__).resolve().parents[2] / "deploy", Path(__file__).parent / "deploy")
_DISCOVERY = "prom_metrics_service_discovery.json"  # Ray writes it: where each node exports its metrics
_PATIENCE_S = 30.0


def require_prometheus() -> str:
    """Where the program is; `UserError` if it is not installed."""
    program = shutil.which("prometheus")
    if program is None:
        raise UserError(
            "Prometheus is not installed; on Debian `apt-get install prometheus` does it, or leave out --monitor."
        )
    return program


def rules_file() -> Path:
    return next(folder / "prometheus/leader.rules.yml" for folder in _FILES if folder.is_dir())


def configuration(ray_folder: Path) -> str:
    """What Prometheus reads, as its YAML: every node that Ray knows, every 15 seconds."""
    return yaml.safe_dump(
        {
            "global": {"scrape_interval": "15s", "evaluation_interval": "15s"},
            "rule_files": [str(rules_file())],
            "scrape_configs": [{"job_name": "ray", "file_sd_configs": [{"files": [str(ray_folder / _DISCOVERY)]}]}],
        },
        sort_keys=False,
    )


def start(folder: Path, temp_dir: Path, ray_folder: Path, port: int) -> None:
    """Start Prometheus on loopback with its configuration, log and data in `folder`. It carries the mark of the cluster
    whose temporary folder is `temp_dir`, and ends with it.

    Raises `RunError` with its log's last line if it does not answer.
    """
    import httpx

    program = require_prometheus()
    folder.mkdir(parents=True, exist_ok=True)
    config, log = folder / "prometheus.yml", folder / "prometheus.log"
    config.write_text(configuration(ray_folder), encoding="utf-8")
    command = [program, f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--storage.tsdb.retention.time=15d"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=os.environ | {cluster_processes.MARKER: str(temp_dir)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/-/ready", timeout=2, trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    process.kill()
    process.wait()
    lines = log.read_text(errors="replace").strip().splitlines() or ["it printed nothing"]
    raise RunError(f"Prometheus did not start: {lines[-1]}")
