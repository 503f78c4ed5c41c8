"""Tokens per second of reading and of a LoRA step by precision and depth, beside what `dtype: auto` chooses here.

Usage: python benchmarks/precision.py [--repeats 3] [--rounds 2] [--threads 2] [--gpu]

Each cell is a process of its own, in the environment that training gives its workers. The cells are measured in turn,
`--rounds` times; a cell's figure is the best of its rounds, for a machine that others share. The last line is JSON:
`auto_over_best` is the speed of the chosen precision over that of the fastest, at full depth, the smaller of reading's
and training's.
"""

from __future__ import annotations

import argparse
import json

from leader_jobs.speed import SpeedRequest, measure_speed
from leader_platform.config import TeacherConfig
from leader_platform.models.precision import choose, this_device

DTYPES = ("float32", "bfloat16")
DEPTHS = {"1": 1.0, "2/3": 2 / 3, "1/3": 1 / 3}
Rates = dict[str, float]  # by precision, with the depth behind it where that is less than 1


def measure(arguments: argparse.Namespace) -> tuple[Rates, Rates]:
    """Tokens per second of reading and of training."""
    read: Rates = {}
    train: Rates = {}
    dtypes = (*DTYPES, "float16") if arguments.gpu else DTYPES
    for _ in range(arguments.rounds):
        for dtype in dtypes:
            for name, depth in DEPTHS.items():
                request = SpeedRequest(
                    teacher=TeacherConfig.model_validate({"dtype": dtype, "depth": depth}),
                    num_threads=arguments.threads,
                    use_gpu=arguments.gpu,
                    repeats=arguments.repeats,
                )
                speed = measure_speed(request)
                cell = dtype if depth == 1 else f"{dtype} depth {name}"
                read[cell] = max(read.get(cell, 0.0), round(speed.read_tokens_per_s, 1))
                train[cell] = max(train.get(cell, 0.0), round(speed.train_tokens_per_s, 1))
    return read, train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--gpu", action="store_true")
    arguments = parser.parse_args()
    device = this_device(arguments.gpu)
    chosen = {"read": choose("auto", device, "inference"), "train": choose("auto", device, "training")}
    print(f"auto on {device}: reads in {chosen['read']}, trains in {chosen['train']}\n")
    print(f"{'precision':<20}  read, tokens/s  LoRA step, tokens/s")
    read, train = measure(arguments)
    for cell, rate in read.items():
        print(f"{cell:<20}  {rate:14.0f}  {train[cell]:19.0f}")
    ratios = (
        rates[chosen[work]] / max(rates[dtype] for dtype in rates if "depth" not in dtype)
        for work, rates in (("read", read), ("train", train))
    )
    print(
        json.dumps(
            {
                "auto": chosen["read"],
                "read_tokens_per_s": read,
                "train_tokens_per_s": train,
                "auto_over_best": round(min(ratios), 3),
            }
        )
    )


if __name__ == "__main__":
    main()
