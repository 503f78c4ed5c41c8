"""Stage `features`: the tuned teacher's states and logits for every sample, by vLLM (or transformers).

    samples --Ray Data: fit, tokenise--> tokens --engine--> states --head--> chunks --in sample order--> features/

A chunk file is whole or not there, and names the sample ids it holds: a run that was killed goes on with the samples
that no chunk holds. At the end each sample file gets its feature file, row for row: `features/train/part-00003.parquet`
answers to `samples/train/part-00003.parquet`, so distillation reads the two side by side and never joins.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from leader_jobs.engine_log import out_of_memory_lines
from leader_jobs.metrics import FeatureMetrics
from leader_jobs.placement import MAX_RESTARTS, bundle_of, largest_node_cores, on_every_node, require_room
from leader_jobs.precision import resolve_precision
from leader_jobs.tokens import SAMPLE_COLUMNS, Tokenise
from leader_platform import storage
from leader_platform.artifacts import FEATURES, TEACHER, Run
from leader_platform.config import LeaderConfig, fingerprint
from leader_platform.data.dataset import PreparedData
from leader_platform.data.samples import SPLITS
from leader_platform.errors import RunError
from leader_platform.evaluation import metrics
from leader_platform.features import feature_table, label_matrix, matrix, probabilities
from leader_platform.machine import Machine
from leader_platform.models.memory import explain_out_of_memory, features_advice
from leader_platform.models.teacher import MERGED, load_head
from leader_platform.models.vllm_engine import POOLING_PARAMS, engine_arguments, engine_environment
from leader_platform.preload import preload_environment
from leader_platform.progress import Progress, Task

if TYPE_CHECKING:
    from ray.data import Dataset

BATCHES_A_BLOCK = 16  # so much of an engine's work is lost at most when a run is killed
_BLOCKS_TO_SHOW = 20  # at least, where there is work for as many: rows are seen here when their block is done
# What an engine asks Ray for. It computes on more, but were it a core, an engine a core would leave none for the stages
# that feed it, and they would wait for each other for ever.
ENGINE_CPUS = 0.5
LIGHT = 0.1  # CPUs that a stage asks for which only moves data to or from the engine


@dataclass(frozen=True)
class _Reading:
    """The samples that are left to read, and where their features go."""

    data: PreparedData
    run: Run
    config: LeaderConfig  # its precision is a torch dtype's name
    bundle: dict[str, float]  # what an engine asks Ray for
    parts: dict[str, str]  # by sample file: the feature file that answers to it, below `chunks`
    done: set[str]  # samples whose features are in `chunks`
    total: int
    chunks: str


def generate_features(data: PreparedData, run: Run, config: LeaderConfig, key: str, progress: Progress) -> None:
    """Write `features/` for all splits, going on from the chunks of an interrupted run with the same `key`."""
    # Another teacher's chunks are no use, even one's of the same settings.
    chunks = run.scratch(FEATURES, fingerprint(key, run.manifest(TEACHER)["id"]))
    parts = {part: f"{split}/{part.rsplit('/', 1)[-1]}" for split in SPLITS for part in data.sample_parts(split)}
    done = _done(chunks)
    total = sum(data.manifest["splits"][split]["samples"] for split in SPLITS)
    resumed = f" ({len(done)} of them already there)" if done else ""
    progress.log(f"Reading {total} samples with the teacher on {config.features.engine}{resumed}")
    resources = config.resources
    gpus = resources.gpus_per_worker if config.features.engine == "vllm" else resources.gpus_of_one_process
    bundle = bundle_of(ENGINE_CPUS, gpus)
    require_room(bundle, config.features.concurrency, "Reading with the teacher", resources.wait_for_nodes_s, progress)
    dtype = resolve_precision(config.features.dtype, "inference", bundle, progress)
    # What is stored beside the features is what was asked, so that `auto` means its own on another machine.
    resolved = config.model_copy(update={"features": config.features.model_copy(update={"dtype": dtype})})
    reading = _Reading(data, run, resolved, bundle, parts, done, total, chunks)
    seconds = None
    with progress.task("Features", total, "samples", len(done)) as task:
        if len(done) < total:
            read_log = partial(out_of_memory_lines, since=time.time())
            with explain_out_of_memory("Reading with the teacher", *features_advice(config), read_log):
                seconds = _generate(reading, progress, task)
    about: dict[str, Any] = {
        "seconds_per_sample": seconds,
        "engine": config.features.engine,
        "dtype": dtype,
        "samples": total,
        "data": data.fingerprint,
    }
    with run.product(FEATURES, key, config, about, made_from=(TEACHER,)) as directory:
        with progress.task("Features in the samples' order", len(parts), "files") as task:
            for part, name in parts.items():
                _align(part, storage.join(chunks, name), storage.join(directory, name))
                task.advance()
        with progress.task("Threshold"):
            about["threshold"] = _threshold(data, directory, config)
    storage.remove(chunks)


def _done(chunks: str) -> set[str]:
    """The samples that a former attempt finished."""
    files = storage.list_files(chunks, ".parquet", recursive=True)
    return {sample for file in files for sample in storage.read_parquet(file, ["sample_id"])["sample_id"].to_pylist()}


def _generate(reading: _Reading, progress: Progress, task: Task) -> float:
    """Run the pipeline over the samples that are not `done`, saying how far it has come; returns the seconds that a
    sample takes once the engine is warm."""
    import ray

    started = time.time()
    run, config, bundle = reading.run, reading.config, reading.bundle
    version = run.manifest(TEACHER)["id"]
    with on_every_node(run.path(TEACHER, MERGED), version, bundle, config.features.concurrency) as merged:
        engine = _vllm if config.features.engine == "vllm" else _transformers
        written = engine(_tokens(reading, merged), merged, bundle, config).map_batches(
            _WriteChunks,
            fn_constructor_args=(run.path(TEACHER), reading.chunks),
            batch_size=config.features.batch_size,
            batch_format="pyarrow",
            num_cpus=LIGHT,
            compute=ray.data.ActorPoolStrategy(size=1),
        )
        times: list[tuple[float, int]] = []
        counter = FeatureMetrics(reading.total - len(reading.done))
        for row in _after_start(iter(written.iter_rows()), progress):
            counter.written(row["written"])
            task.advance(row["written"])
            times.append((row["at"], row["written"]))
    return seconds_per_sample(started, times)


def _after_start(rows: Iterator[Any], progress: Progress) -> Iterator[Any]:
    """The same rows; the first is long in coming."""
    with progress.task("Starting the engine and reading the first samples"):
        first = next(rows, None)
    if first is not None:
        yield first
        yield from rows


def rows_a_block(num_samples: int, batch_size: int) -> int:
    """How many samples an engine is given at once, in whole batches."""
    return batch_size * min(BATCHES_A_BLOCK, max(1, num_samples // (_BLOCKS_TO_SHOW * batch_size)))


def seconds_per_sample(started: float, written: Sequence[tuple[float, int]]) -> float:
    """From the times at which batches were written, and their sizes: from the first one on, which waited for the engine
    to start; of a single batch that is all that is known."""
    (began, first), (ended, _) = min(written), max(written)
    after_first = sum(size for _, size in written) - first
    return (ended - began) / after_first if after_first else (ended - started) / first


def _tokens(reading: _Reading, merged: str) -> Dataset:
    """`sample_id`, `token_ids` and `chunk` (where its feature belongs) of the samples not done.

    These stages ask for next to no CPU: on a small machine the engine holds what there is, and a stage before it that
    waits for a core would wait for ever.
    """
    import ray

    config, finished = reading.config, pa.array(sorted(reading.done), pa.string())
    # What an engine has read of a block reaches the disk when the block is done.
    block = rows_a_block(reading.total - len(reading.done), config.features.batch_size)

    def read(batch: Any) -> pa.Table:
        samples = storage.read_parquet(str(batch["part"][0]), SAMPLE_COLUMNS).slice(int(batch["start"][0]), block)
        samples = samples.filter(pc.invert(pc.is_in(samples["sample_id"], finished)))
        return samples.append_column("chunk", pa.array([str(batch["chunk"][0])] * len(samples), pa.string()))

    rows = [
        {"part": part, "chunk": name, "start": start}
        for part, name in reading.parts.items()
        for start in range(0, storage.num_rows(part), block)
    ]
    return (
        ray.data.from_items(rows, override_num_blocks=len(rows))
        .map_batches(read, batch_size=1, num_cpus=LIGHT)
        .map_batches(
            Tokenise,
            fn_constructor_args=(reading.data.uri, merged, config.prompt),
            batch_format="pyarrow",
            batch_size=config.features.batch_size,
            num_cpus=LIGHT,
            compute=ray.data.ActorPoolStrategy(size=1),
        )
    )


def _vllm(tokens: Dataset, merged: str, bundle: dict[str, float], config: LeaderConfig) -> Dataset:
    """States by vLLM's pooling engine through `ray.data.llm`."""
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    on_gpu = "GPU" in bundle
    threads = _engine_threads(config)
    processor = build_processor(
        vLLMEngineProcessorConfig(
            model_source=merged,
            task_type="embed",
            engine_kwargs=engine_arguments(
                config.features.dtype, config.prompt.max_tokens, config.teacher.pooling, bundle.get("GPU", 0.0)
            ),
            placement_group_config={"bundles": [bundle]},
            runtime_env={"env_vars": engine_environment(config.features.kv_cache_gb, on_gpu, threads)},
            batch_size=config.features.batch_size,
            concurrency=config.features.concurrency,
            chat_template_stage={"enabled": False},
            tokenize_stage={"enabled": False},
            detokenize_stage={"enabled": False},
            log_engine_metrics=True,
        ),
        preprocess=lambda row: {"tokenized_prompt": row["token_ids"], "pooling_params": POOLING_PARAMS},
        postprocess=lambda row: {
            "sample_id": row["sample_id"],
            "chunk": row["chunk"],
            "previous_indices": row["previous_indices"],
            "hidden_state": np.asarray(row["embeddings"], dtype=np.float32),
        },
        preprocess_map_kwargs={"num_cpus": LIGHT},
        postprocess_map_kwargs={"num_cpus": LIGHT},
    )
    # An engine that dies ends its actor, which Ray Data would start again without end.
    limits = {"max_restarts": MAX_RESTARTS, "max_task_retries": MAX_RESTARTS}
    processor.get_stage_by_name("vLLMEngineStage").map_batches_kwargs.update(limits)
    return processor(tokens)


def _engine_threads(config: LeaderConfig) -> int | None:
    """Threads of one vLLM engine; None: one for each core of the affinity, which it counts by itself.

    Where a quota allows fewer, as in a container, they are the node's as Ray counts them, which reads the quota.
    """
    if config.features.concurrency > 1:
        return config.resources.threads
    return largest_node_cores() if Machine().threads() is not None else None


class _TransformersStage:
    """The same by transformers, as a Ray Data stage."""

    def __init__(self, merged: str, config: LeaderConfig) -> None:
        import torch

        from leader_platform.models.transformers_engine import TransformersEngine

        torch.set_num_threads(config.resources.threads)
        self.engine = TransformersEngine(merged, config.features.dtype, config.teacher.pooling)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        states = self.engine.states([ids.tolist() for ids in batch["token_ids"]])
        kept = {name: batch[name] for name in ("sample_id", "chunk", "previous_indices")}
        return {**kept, "hidden_state": states}


def _transformers(tokens: Dataset, merged: str, bundle: dict[str, float], config: LeaderConfig) -> Dataset:
    import ray

    return tokens.map_batches(
        _TransformersStage,
        fn_constructor_args=(merged, config),
        batch_size=config.features.batch_size,
        batch_format="numpy",
        max_restarts=MAX_RESTARTS,
        max_task_retries=MAX_RESTARTS,
        num_cpus=bundle["CPU"],
        num_gpus=bundle.get("GPU", 0),
        compute=ray.data.ActorPoolStrategy(size=config.features.concurrency),
        runtime_env={"env_vars": preload_environment()},
    )


class _WriteChunks:
    """States -> logits -> chunk files, one for each sample file that the batch touches."""

    def __init__(self, teacher_directory: str, chunks: str) -> None:
        self.head, self.chunks = load_head(teacher_directory), chunks

    def __call__(self, batch: pa.Table) -> pa.Table:
        states = np.stack([np.asarray(state, dtype=np.float32) for state in batch["hidden_state"].to_numpy()])
        if not np.isfinite(states).all():
            raise RunError(
                "The teacher's states are not finite: its activations exceed the range of the precision that it was "
                "read in; set features.dtype=float32, or bfloat16 where the device computes it."
            )
        logits = self.head.logits(states, batch["previous_indices"].to_pylist())
        names = batch["chunk"].to_pylist()
        sample_ids = batch["sample_id"].to_pylist()
        for name in set(names):
            rows = [index for index, other in enumerate(names) if other == name]
            table = feature_table([sample_ids[row] for row in rows], states[rows], logits[rows])
            storage.write_parquet(storage.join(self.chunks, name, f"{uuid.uuid4().hex}.parquet"), table)
        # When it was written: rows reach the driver in bursts, a block at a time.
        return pa.table({"written": [len(names)], "at": [time.time()]})


def _align(samples: str, chunks: str, target: str) -> None:
    """The feature file of one sample file: its samples, in its order, each once."""
    sample_ids = storage.read_parquet(samples, ["sample_id"])["sample_id"]
    parts = [storage.read_parquet(file) for file in storage.list_files(chunks, ".parquet")]
    if not parts:
        raise RunError(f"No feature was written for {samples}; run the stage again.")
    features = pa.concat_tables(parts)
    place = pc.index_in(sample_ids, features["sample_id"].combine_chunks())
    if place.null_count:
        raise RunError(f"{place.null_count} samples of {samples} have no feature; run the stage again to add them.")
    storage.write_parquet(target, features.take(place))


def _threshold(data: PreparedData, directory: str, config: LeaderConfig) -> float:
    """The teacher's threshold, tuned on validation samples alone."""
    names = [part.rsplit("/", 1)[-1] for part in data.sample_parts("validation")]
    tables = [storage.read_parquet(storage.join(directory, "validation", name), ["logits"]) for name in names]
    scores = probabilities(matrix(pa.concat_tables(tables)["logits"]))
    return metrics.best_threshold(label_matrix(data, "validation"), scores, config.evaluate.threshold_metric)
