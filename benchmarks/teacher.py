"""Tokens per second of the teacher's LoRA step beside peft's plain use at the paper's settings, on the same prompts.

Usage: python benchmarks/teacher.py [--prompts 4] [--tokens 512] [--steps 3] [--repeats 3] [--threads 2]

Plain: peft's layers with dropout 0.1, padded batches with an attention mask, nothing preloaded, under bfloat16 autocast
where `dtype: auto` chooses that here for both, else in float32.
Ours: what the stage `teacher` does with its default settings, in the environment that it gives its workers. Each
measurement is a process of its own, the two in turn; the ratio is that of the medians, each of the best step of a
process, for a machine that others share. Before it, losses and gradients of both are compared at dropout 0.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from leader_platform.machine import usable_cores

NUM_MEDICATIONS = 140
LOSS_TOLERANCE = 0.02  # relative, of bfloat16 sums in another order


def make_rows(prompts: int, tokens: int, step: int) -> list[dict[str, Any]]:
    """A step's rows: random tokens, lengths from three quarters of `tokens` up to it, 15 % of the medications."""
    generator = torch.Generator().manual_seed(step)
    rows = []
    for index in range(prompts):
        length = tokens - index * tokens // (4 * prompts)
        labels = torch.rand(NUM_MEDICATIONS, generator=generator) < 0.15
        ids = torch.randint(1000, 40000, (length,), generator=generator).tolist()
        rows.append(
            {
                "sample_id": str(index),
                "token_ids": ids,
                "label_indices": labels.nonzero().flatten().tolist(),
                "previous_indices": [],
            }
        )
    return rows


def training_dtype() -> torch.dtype:
    """What `dtype: auto` means on this CPU."""
    from leader_platform.models.precision import choose, this_device

    dtype: torch.dtype = getattr(torch, choose("auto", this_device(use_gpu=False), "training"))
    return dtype


def plain_step(dropout: float) -> Callable[[list[dict[str, Any]]], float]:
    """peft as its documentation uses it, around the same backbone and head."""
    from peft import LoraConfig, TaskType, get_peft_model

    from leader_platform.config import TeacherConfig
    from leader_platform.models.backbone import load_causal_lm
    from leader_platform.models.teacher import MedicationHead, multi_hot, pad_tokens

    config = TeacherConfig()
    torch.manual_seed(0)
    dtype = training_dtype()
    decoder = load_causal_lm(config.backbone, dtype).get_decoder()
    lora = LoraConfig(
        task_type=TaskType.FEATURE_EXTRACTION,
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=dropout,
        target_modules=list(config.lora_targets),
    )
    backbone = get_peft_model(decoder, lora).train()
    head = MedicationHead.with_prior(decoder.config.hidden_size, torch.full((NUM_MEDICATIONS,), 0.15))
    trained = [weight for weight in (*backbone.parameters(), *head.parameters()) if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=0.0)

    def step(rows: list[dict[str, Any]]) -> float:
        tokens, mask = pad_tokens([row["token_ids"] for row in rows], 0)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            states = backbone(input_ids=tokens, attention_mask=mask, use_cache=False).last_hidden_state
        logits = head(states[torch.arange(len(rows)), mask.sum(dim=1) - 1].float())
        labels = multi_hot([row["label_indices"] for row in rows], NUM_MEDICATIONS)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def our_step(dropout: float) -> Callable[[list[dict[str, Any]]], float]:
    """The stage's own step, with the backbone, adapter, optimiser and cut into micro-batches that it has by default."""
    from leader_jobs.teacher_steps import optimizer_and_schedule, train_step
    from leader_platform.config import TeacherConfig
    from leader_platform.models.backbone import load_causal_lm
    from leader_platform.models.teacher import MedicationHead, Teacher, with_adapter

    config = TeacherConfig(lora_dropout=dropout, head_learning_rate=2e-4, warmup_fraction=0.0, max_gradient_norm=None)
    torch.manual_seed(0)
    causal_lm = load_causal_lm(config.backbone, training_dtype())
    head = MedicationHead.with_prior(causal_lm.config.hidden_size, torch.full((NUM_MEDICATIONS,), 0.15))
    model = Teacher(with_adapter(causal_lm, config), head).train()
    optimizer, _ = optimizer_and_schedule(model, config, total_steps=1000)
    return lambda rows: train_step(model, rows, 0, optimizer, None, config)[0]


SIDES = {"plain": (plain_step, 0.1), "ours": (our_step, 0.0)}


def measure(side: str, arguments: argparse.Namespace, dropout: float | None = None) -> dict[str, Any]:
    """Run one side in a process of its own, in the environment that it is used in."""
    from leader_platform.preload import preload_environment

    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    if side == "ours":
        environment |= preload_environment()
    command = [sys.executable, __file__, "--side", side]
    command += ["--dropout", str(SIDES[side][1] if dropout is None else dropout)]
    for name in ("prompts", "tokens", "steps", "threads"):
        command += [f"--{name}", str(getattr(arguments, name))]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True)
    if answer.returncode:
        sys.exit(f"{side} failed:\n{answer.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return found


def run_side(side: str, dropout: float, arguments: argparse.Namespace) -> dict[str, Any]:
    """One warm-up step and `steps` that count; tokens per second of the best and every loss."""
    torch.set_num_threads(arguments.threads)
    step = SIDES[side][0](dropout)
    losses, rates = [], []
    for number in range(arguments.steps + 1):
        rows = make_rows(arguments.prompts, arguments.tokens, number)
        began = time.perf_counter()
        losses.append(step(rows))
        rates.append(sum(len(row["token_ids"]) for row in rows) / (time.perf_counter() - began))
    return {"tokens_per_s": max(rates[1:]), "losses": losses}


def compare(arguments: argparse.Namespace) -> None:
    """Compare losses at dropout 0, then speeds at each side's own settings, and print a table."""
    losses = {side: measure(side, arguments, dropout=0.0)["losses"] for side in SIDES}
    print("loss of each step at dropout 0")
    for side, values in losses.items():
        print(f"{side:>8}  " + "  ".join(f"{value:.5f}" for value in values), flush=True)
    apart = max(abs(ours - plain) / plain for ours, plain in zip(losses["ours"], losses["plain"], strict=True))
    if apart > LOSS_TOLERANCE:
        sys.exit(f"The losses differ by {apart:.2%}, more than {LOSS_TOLERANCE:.0%}.")
    print(f"they differ by at most {apart:.3%}\n\n  repeat  plain, tokens/s  ours, tokens/s   ratio")
    rates: dict[str, list[float]] = {side: [] for side in SIDES}
    for repeat in range(1, arguments.repeats + 1):
        for side, found in rates.items():
            found.append(measure(side, arguments)["tokens_per_s"])
        plain, ours = rates["plain"][-1], rates["ours"][-1]
        print(f"{repeat:>8}  {plain:>15.0f}  {ours:>14.0f}  {ours / plain:>6.2f}", flush=True)
    plain, ours = (statistics.median(rates[side]) for side in ("plain", "ours"))
    print(json.dumps({"ratio_to_plain": round(ours / plain, 3), "tokens_per_s": round(ours, 1)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=min(2, usable_cores()))
    parser.add_argument("--side", choices=list(SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--dropout", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(run_side(arguments.side, arguments.dropout, arguments)))
    else:
        compare(arguments)


if __name__ == "__main__":
    main()
