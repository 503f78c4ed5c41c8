"""Dashboards and alerts name metrics that there are."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from leader_jobs.metrics import FeatureMetrics, TrainingMetrics
from leader_serve.metrics import RayMetrics

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
RULES, DASHBOARDS = DEPLOY / "prometheus/leader.rules.yml", sorted((DEPLOY / "grafana").glob("*.json"))


def exported() -> dict[str, set[str]]:
    """What Ray makes of each metric's name, and its tags."""
    suffixes = {"Counter": ("_total",), "Gauge": ("",), "Histogram": ("_bucket", "_sum", "_count")}
    sources = (RayMetrics(), TrainingMetrics("teacher"), FeatureMetrics(0))
    values = [value for source in sources for value in vars(source).values()]
    values += [gauge for value in values if isinstance(value, dict) for gauge in value.values()]
    metrics = [value for value in values if hasattr(value, "info")]
    return {
        f"ray_{metric.info['name']}{suffix}": set(metric.info["tag_keys"])
        for metric in metrics
        for suffix in suffixes[type(metric).__name__]
    }


def of_vllm() -> dict[str, set[str]]:
    """The metrics of vLLM's engines, as Ray names them: read in its source, since importing it takes seconds."""
    package = importlib.util.find_spec("vllm")
    assert package is not None
    assert package.origin is not None
    source = (Path(package.origin).parent / "v1/metrics/loggers.py").read_text()
    names = re.findall(r'"vllm:(\w+)"', source)
    return {f"ray_vllm_{name}{suffix}": {"WorkerId"} for name in names for suffix in ("", "_total", "_bucket")}


def rules() -> list[str]:
    return [rule["expr"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def panels() -> list[str]:
    panels = [panel for file in DASHBOARDS for panel in json.loads(file.read_text())["panels"]]
    return [target["expr"] for panel in panels for target in panel["targets"]]


@pytest.mark.parametrize("expression", [*rules(), *panels()])
def test_an_expression_names_metrics_and_tags_that_there_are(expression: str) -> None:
    known = exported() | of_vllm()
    used = set(re.findall(r"ray_(?:leader|vllm)_\w+", expression))
    assert used
    assert used <= set(known)
    tags = set(re.findall(r"(\w+)=~?\"", expression))
    for names in re.findall(r"by \(([^)]*)\)", expression):
        tags |= {name.strip() for name in names.split(",")}
    assert tags - {"le", "job"} <= set().union(*(known[name] for name in used))


def test_every_metric_is_shown() -> None:
    shown = set(re.findall(r"ray_(leader_\w+?)(?:_total|_bucket|_sum|_count)?\b", " ".join(panels())))
    assert shown == {re.sub(r"_(total|bucket|sum|count)$", "", name).removeprefix("ray_") for name in exported()}


def test_alerts_fire_when_they_should() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    done = subprocess.run(
        [promtool, "test", "rules", "leader.test.yml"], cwd=RULES.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
