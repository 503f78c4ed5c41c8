"""Which precision a stage computes in: its setting, resolved on the nodes where the work will run."""

from __future__ import annotations

from typing import Any

from leader_jobs.placement import Bundle, nodes_with_room, on_node
from leader_platform.models.precision import Device, Purpose, agreed, cost, this_device
from leader_platform.progress import Progress

_PROBE_GPUS = 0.01  # enough for Ray to show the task a GPU, and room beside what else computes there
_PROBE_TIMEOUT_S = 20.0


def resolve_precision(requested: str, purpose: Purpose, bundle: Bundle, progress: Progress) -> str:
    """The torch dtype's name that all workers of a stage compute in. A worker is one `bundle`.

    Every node with room for a bundle is asked, since any of them may get the work. Logs the cost of a format that is
    emulated there, and the choice where nodes differ.
    """
    devices = _devices(bundle)
    dtype = agreed(requested, devices, purpose)
    costs = {line for device in devices if (line := cost(dtype, device))}
    for line in sorted(costs):
        progress.log(line)
    if len(set(devices)) > 1 and requested == "auto":
        progress.log(f"The cluster's nodes differ in what they compute natively; all of them use {dtype}.")
    return dtype


def _devices(bundle: Bundle) -> list[Device]:
    """What the nodes compute on: of those that answer in time, and of one at least, since one will do the work."""
    import ray

    use_gpu = bundle.get("GPU", 0) > 0
    probe: Any = ray.remote(num_cpus=0, num_gpus=_PROBE_GPUS if use_gpu else 0)(this_device)
    asked = [probe.options(**on_node(node)).remote(use_gpu) for node in nodes_with_room(bundle)]
    answered, _ = ray.wait(asked, num_returns=len(asked), timeout=_PROBE_TIMEOUT_S)
    return ray.get(answered or asked[:1])
