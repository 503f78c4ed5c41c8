"""What would fail late and is known from settings and the backbone's configuration: checked before any work starts."""

from __future__ import annotations

from collections.abc import Sequence

from leader_platform import storage
from leader_platform.artifacts import TEACHER, Run
from leader_platform.config import LeaderConfig
from leader_platform.errors import UserError


def check_stages(names: Sequence[str], run: Run, config: LeaderConfig) -> None:
    """Whether stages that are to run can run to their end. `UserError` for a backbone that cannot be the teacher or
    reads fewer tokens than prompts have, and for GPUs among which work cannot be divided."""
    _check_workers(names, config)
    if not {"teacher", "titles", "features"} & set(names):
        return
    from leader_platform.models.backbone_checks import check_backbone, require_adapter

    if "teacher" in names:
        backbone = check_backbone(config.teacher.backbone, config.prompt.max_tokens)
        require_adapter(backbone, config.teacher)
    elif "titles" in names:
        check_backbone(config.teacher.backbone)  # titles are short
    if "features" in names and config.features.engine == "vllm":
        _check_engine(names, run, config)


def _check_engine(names: Sequence[str], run: Run, config: LeaderConfig) -> None:
    """Whether vLLM can read with the teacher: the one that is to be tuned, or the one that the run has."""
    from leader_platform.models.backbone_checks import backbone_config, require_context, require_tensor_parallel
    from leader_platform.models.teacher import MERGED

    model = config.teacher.backbone if "teacher" in names else run.path(TEACHER, MERGED)
    if storage.is_remote(model):
        return  # libraries read a configuration from local files alone
    found = backbone_config(model)
    require_context(model, found, config.prompt.max_tokens)
    require_tensor_parallel(model, found, config.resources.gpus_per_worker)


def _check_workers(names: Sequence[str], config: LeaderConfig) -> None:
    """NCCL, through which workers average gradients, refuses two of them on one GPU."""
    gpus = config.resources.gpus_per_worker
    models = {"teacher": "teacher", "distill": "student", "student": "student"}
    for model in (models[name] for name in names if name in models):
        num_workers = getattr(config, model).num_workers
        if 0 < gpus < 1 and num_workers > 1:
            raise UserError(
                f"Each of {model}.num_workers={num_workers} needs a GPU of its own, and resources.gpus_per_worker="
                f"{gpus:g} may put two on one; set resources.gpus_per_worker=1 or {model}.num_workers=1."
            )
