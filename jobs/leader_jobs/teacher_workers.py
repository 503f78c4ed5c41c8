"""What the workers of one teacher's training do together: share the frozen backbone, agree on a step, average it.

Only adapter and head are trained, a few megabytes that every worker holds whole. So gradients are averaged in one call
after a step's passes, and checkpoints, the optimiser and the best weights know nothing of how many workers there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from leader_platform.models.teacher import Teacher


def shard_backbone(model: Teacher, device: torch.device) -> None:
    """Move `model` to `device` with an equal share of its frozen weights in every worker (FSDP).

    A decoder layer's weights are gathered when it is reached, in forward and in backward, and given up after it: a
    worker holds its share of the backbone and one layer or two. Every worker must then take the same passes.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    trained = {weight for weight in model.parameters() if weight.requires_grad}
    for weight in (*trained, *model.buffers()):
        weight.data = weight.data.to(device)
    decoder: Any = model.backbone.get_base_model()
    for layer in decoder.layers:
        fully_shard(layer, mesh=mesh, ignored_params=trained & set(layer.parameters()))
    fully_shard(decoder, mesh=mesh, ignored_params=trained)


def most(number: int, device: torch.device) -> int:
    """The largest of the workers' numbers."""
    largest = torch.tensor(number, device=device)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest)


def average_gradients(weights: Sequence[Tensor]) -> None:
    """Give every worker the mean of all workers' gradients; alone, do nothing."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    gradients = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
    together = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(together)
    together /= dist.get_world_size()
    for weight, mean in zip(weights, together.split([weight.numel() for weight in weights]), strict=True):
        weight.grad = mean.view_as(weight)
