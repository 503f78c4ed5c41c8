"""Tokens per second of the features stage with vLLM beside transformers, on the same prompts.

Usage: python benchmarks/features.py [--data DIR] [--prompts 512] [--repeats 2] [--num-cpus 2]

vLLM runs through the stage's own Ray Data pipeline with its default settings, on a Ray of its own. Starting Ray, the
pipeline and the engine takes a minute, whatever the number of prompts, and is left out: a quarter of the prompts are
read first and then all of them, and the rate is that of the difference. Transformers reads batches of eight of about
equal length, after a warm-up. Both compute in the precision that `dtype: auto` chooses here, in processes of their own,
in turn; the ratio is that of medians.
Without `--data` the prompts are those of a synthetic cohort. Where there is a GPU, both use it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from leader_platform.machine import usable_cores

BATCH = 8


def write_prompts(data_uri: str | None, num_prompts: int, num_cpus: int, path: Path) -> None:
    """Tokens of the prompts of a prepared data set, or of a synthetic one made here, as JSON."""
    from leader_jobs.prepare import PrepareArguments, prepare
    from leader_jobs.tokens import SAMPLE_COLUMNS, Tokenise
    from leader_platform.config import LeaderConfig
    from leader_platform.data.dataset import PreparedData
    from leader_platform.data.samples import SPLITS
    from leader_platform.data.synthetic import write_raw
    from leader_platform.progress import SILENT
    from leader_platform.ray_session import ray_session

    config = LeaderConfig()
    with tempfile.TemporaryDirectory() as folder:
        if data_uri is None:
            raw, data_uri = Path(folder, "raw"), str(Path(folder, "data"))
            write_raw("mimic4", raw, num_prompts, seed=1)
            with ray_session(num_cpus=num_cpus):
                prepare(PrepareArguments("mimic4", str(raw), data_uri), config, SILENT)
        data = PreparedData(data_uri)
        tokenise = Tokenise(data_uri, config.teacher.backbone, config.prompt)
        rows: list[list[int]] = []
        for split in SPLITS:
            if len(rows) < num_prompts:
                samples = data.samples(split, SAMPLE_COLUMNS).slice(0, num_prompts - len(rows))
                rows += tokenise(samples)["token_ids"].to_pylist()
    path.write_text(json.dumps(rows))


def run_transformers(prompts: list[list[int]], num_cpus: int) -> float:
    """Tokens per second of transformers as it is commonly used: padded batches, an attention mask, the last states."""
    import torch

    from leader_platform.models.backbone import load_causal_lm, load_tokenizer
    from leader_platform.models.precision import choose, this_device
    from leader_platform.models.teacher import pad_tokens

    torch.set_num_threads(num_cpus)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = getattr(torch, choose("auto", this_device(), "inference"))
    decoder = load_causal_lm("smollm2", dtype).get_decoder().eval().to(device)
    padding_id = load_tokenizer("smollm2").pad_token_id
    ordered = sorted(prompts, key=len)
    batches = [ordered[start : start + BATCH] for start in range(0, len(ordered), BATCH)]

    def read(batch: list[list[int]]) -> None:
        tokens, mask = (part.to(device) for part in pad_tokens(batch, padding_id))
        states = decoder(input_ids=tokens, attention_mask=mask, use_cache=False).last_hidden_state
        states[torch.arange(len(batch)), mask.sum(dim=1) - 1].float().cpu().numpy()

    with torch.inference_mode():
        for batch in batches[:: max(1, len(batches) // 4)]:
            read(batch)
        began = time.perf_counter()
        for batch in batches:
            read(batch)
    return sum(map(len, prompts)) / (time.perf_counter() - began)


def run_vllm(prompts: list[list[int]], num_cpus: int) -> float:
    """Tokens per second of the stage's pipeline: of all prompts over a quarter of them."""
    part = prompts[::4]
    seconds = {len(some): seconds_of_stage(some, num_cpus) for some in (part, prompts)}
    rest = sum(map(len, prompts)) - sum(map(len, part))
    return rest / (seconds[len(prompts)] - seconds[len(part)])


def seconds_of_stage(prompts: list[list[int]], num_cpus: int) -> float:
    """Seconds from tokens in Ray's store to the last state, the engine's start included."""
    import torch

    from leader_jobs.features import BATCHES_A_BLOCK, ENGINE_CPUS, _vllm
    from leader_jobs.placement import bundle_of
    from leader_platform.config import FeaturesConfig, LeaderConfig, ResourcesConfig
    from leader_platform.models.backbone import EMBEDDED, model_folder
    from leader_platform.models.precision import choose, this_device
    from leader_platform.ray_session import ray_session

    on_gpu = torch.cuda.is_available()
    dtype: Any = choose("auto", this_device(), "inference")
    resources = ResourcesConfig(gpus_per_worker=1.0 if on_gpu else 0.0)
    config = LeaderConfig(features=FeaturesConfig(dtype=dtype), resources=resources)
    beside = {"chunk": "one", "previous_indices": [0]}  # what the stage carries along
    rows = [{"sample_id": str(index), "token_ids": ids, **beside} for index, ids in enumerate(prompts)]
    with ray_session(num_cpus=num_cpus):
        import ray  # reads its environment when it is imported

        num_blocks = math.ceil(len(rows) / (BATCHES_A_BLOCK * config.features.batch_size))  # as in the stage
        tokens = ray.data.from_items(rows, override_num_blocks=num_blocks).materialize()
        began = time.perf_counter()
        states = _vllm(tokens, model_folder(EMBEDDED), bundle_of(ENGINE_CPUS, resources.gpus_per_worker), config)
        number = sum(len(batch["sample_id"]) for batch in states.iter_batches(batch_size=None))
        seconds = time.perf_counter() - began
    assert number == len(prompts)
    return seconds


SIDES = {"transformers": run_transformers, "vllm": run_vllm}


def measure(side: str, prompts: Path, num_cpus: int) -> float:
    """One side in a process of its own."""
    command = [sys.executable, __file__, "--side", side, str(prompts), "--num-cpus", str(num_cpus)]
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    answer = subprocess.run(command, env=environment, capture_output=True, text=True)
    if answer.returncode:
        sys.exit(f"{side} failed:\n{answer.stderr[-3000:]}")
    return float(answer.stdout.splitlines()[-1])


def compare(arguments: argparse.Namespace) -> None:
    """Measure both in turn and print a table; its last line is JSON."""
    with tempfile.TemporaryDirectory() as folder:
        prompts = Path(folder, "prompts.json")
        write_prompts(arguments.data, arguments.prompts, arguments.num_cpus, prompts)
        lengths = sorted(len(ids) for ids in json.loads(prompts.read_text()))
        print(
            f"{len(lengths)} prompts, {sum(lengths)} tokens; median {lengths[len(lengths) // 2]}, longest {lengths[-1]}"
        )
        print("\n  repeat  transformers, tokens/s  vLLM, tokens/s   ratio", flush=True)
        rates: dict[str, list[float]] = {side: [] for side in SIDES}
        for repeat in range(1, arguments.repeats + 1):
            for side, found in rates.items():
                found.append(measure(side, prompts, arguments.num_cpus))
            plain, ours = rates["transformers"][-1], rates["vllm"][-1]
            print(f"{repeat:>8}  {plain:>22.0f}  {ours:>14.0f}  {ours / plain:>6.2f}", flush=True)
    plain, ours = (statistics.median(rates[side]) for side in ("transformers", "vllm"))
    print(json.dumps({"ratio_to_transformers": round(ours / plain, 3), "tokens_per_s": round(ours, 1)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="A prepared data set [a synthetic cohort is made].")
    parser.add_argument("--prompts", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--num-cpus", type=int, default=min(2, usable_cores()))
    parser.add_argument("--side", nargs=2, metavar=("NAME", "PROMPTS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        side, prompts = arguments.side
        print(SIDES[side](json.loads(Path(prompts).read_text()), arguments.num_cpus))
    else:
        compare(arguments)


if __name__ == "__main__":
    main()
