"""What models are compared with. docs/EVALUATION.md says how to add one."""

from leader_platform.baselines.base import Baseline, Examples
from leader_platform.baselines.registry import BASELINES, load

__all__ = ["BASELINES", "Baseline", "Examples", "load"]
