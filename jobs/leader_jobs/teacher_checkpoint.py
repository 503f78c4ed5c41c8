"""The teacher's checkpoints and its export: what is trained, the best of it so far, and where the training stands."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from leader_jobs.teacher_steps import Place
from leader_platform import storage
from leader_platform.config import TeacherConfig
from leader_platform.models.backbone import load_causal_lm, load_tokenizer, num_parameters
from leader_platform.models.teacher import HEAD_FILE, MERGED, Teacher, with_adapter

if TYPE_CHECKING:
    from ray.train import Checkpoint
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

WEIGHTS_FILE, BEST_FILE, PROGRESS_FILE = "trainable.safetensors", "best.safetensors", "progress.pt"
Weights = dict[str, Tensor]
_FLOAT32_BYTES, _LIBRARIES_BYTES = 4, 1_000_000_000


def trainable(model: torch.nn.Module) -> Weights:
    """The weights that are trained, by name; they share their storage with the model."""
    return {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}


def copied(weights: Weights) -> Weights:
    """The same weights, apart from the model and on the CPU."""
    return {name: weight.to("cpu", copy=True) for name, weight in weights.items()}


def set_trainable(model: torch.nn.Module, weights: Weights) -> None:
    """Give the model's trained weights these values."""
    for name, weight in trainable(model).items():
        weight.copy_(weights[name])


_STATEFUL = ("optimizer", "scheduler", "scaler")


@dataclass
class Tuning:
    """All that changes while a teacher is tuned: what a checkpoint holds and a resumed run goes on with."""

    model: Teacher
    optimizer: Optimizer
    scheduler: LRScheduler
    scaler: torch.amp.GradScaler
    place: Place = field(default_factory=Place)
    best: Weights | None = None  # of the best validation; None as long as there was none

    def judge(self, prauc: float) -> None:
        """Keep the weights as they are now if their validation is the best so far."""
        if self.place.judge(prauc):
            self.best = copied(trainable(self.model))

    def save(self, folder: Path) -> None:
        """Write a checkpoint."""
        from safetensors.torch import save_file

        save_file(copied(trainable(self.model)), str(folder / WEIGHTS_FILE))
        if self.best is not None:
            save_file(self.best, str(folder / BEST_FILE))
        parts = {name: getattr(self, name).state_dict() for name in _STATEFUL}
        torch.save({**parts, "place": asdict(self.place)}, folder / PROGRESS_FILE)

    def restore(self, folder: Path) -> None:
        """Go on from a checkpoint."""
        from safetensors.torch import load_file

        set_trainable(self.model, load_file(str(folder / WEIGHTS_FILE)))
        state = torch.load(folder / PROGRESS_FILE, map_location="cpu", weights_only=True)
        for name in _STATEFUL:
            getattr(self, name).load_state_dict(state[name])
        self.place = Place(**state["place"])
        self.best = load_file(str(folder / BEST_FILE)) if (folder / BEST_FILE).exists() else None


def export_memory_bytes(backbone: str, depth: float) -> int:
    """What `export` takes at most: the weights in float32, merged and cast in place, and the libraries (measured: 1.42
    GB for SmolLM2's 135 million weights)."""
    return _FLOAT32_BYTES * num_parameters(backbone, depth) + _LIBRARIES_BYTES


def export(checkpoint: Checkpoint, directory: str, config: TeacherConfig) -> int:
    """Write adapter, head, and the merged model with its tokenizer into a run's `teacher/`: of the best weights if any
    were validated, else of the last. `config.dtype` is a torch dtype's name, in which the merged model is stored.
    Returns the number of the merged model's parameters and the head's."""
    import pyarrow.fs as pafs
    from safetensors.torch import load_file, save_file

    causal_lm = load_causal_lm(config.backbone, torch.float32, config.depth)  # merged in full precision
    adapter = with_adapter(causal_lm, config)
    with tempfile.TemporaryDirectory() as folder, checkpoint.as_directory() as saved:
        best = Path(saved, BEST_FILE)
        weights = load_file(str(best if best.exists() else Path(saved, WEIGHTS_FILE)))
        backbone = {name.removeprefix("backbone."): value for name, value in weights.items()}
        set_trainable(adapter, backbone)
        adapter.save_pretrained(str(Path(folder, "adapter")))
        adapter.merge_and_unload()
        merged = causal_lm.to(getattr(torch, config.dtype))
        merged.save_pretrained(str(Path(folder, MERGED)))
        load_tokenizer(config.backbone).save_pretrained(str(Path(folder, MERGED)))
        head = {name.removeprefix("head."): value for name, value in weights.items() if name.startswith("head.")}
        save_file(head, str(Path(folder, HEAD_FILE)))
        target, path = storage.filesystem(directory)
        pafs.copy_files(folder, path, source_filesystem=pafs.LocalFileSystem(), destination_filesystem=target)
    return sum(weight.numel() for weight in (*merged.get_decoder().parameters(), *head.values()))
