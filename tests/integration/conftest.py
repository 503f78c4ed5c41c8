"""What the integration tests share: synthetic patients, a tiny language model, one Ray."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from support.folders import odd_folder

from leader_jobs.prepare import PrepareArguments, prepare
from leader_platform.config import LeaderConfig
from leader_platform.data.dataset import PreparedData
from leader_platform.data.synthetic import write_raw
from leader_platform.progress import LineProgress
from leader_platform.recipes import quickstart
from leader_platform.settings import load_config


@pytest.fixture(scope="package")
def s3_server() -> Iterator[str]:
    """The address of a real S3 server on loopback; this process, and Ray after it, finds it by AWS's variables."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    variables = {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        env=os.environ | variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with pytest.MonkeyPatch.context() as environment:
            for name, value in variables.items():
                environment.setenv(name, value)
            with httpx.Client(transport=httpx.HTTPTransport(retries=10)) as client:
                client.get(address).raise_for_status()
            yield address
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def object_store(s3_server: str) -> str:
    """The URI of an empty bucket of this test's own."""
    bucket = f"leader-{uuid.uuid4().hex[:12]}"
    httpx.put(f"{s3_server}/{bucket}").raise_for_status()
    return f"s3://{bucket}"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 128 KB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("a file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.fixture(scope="package")
def ray_local(s3_server: str) -> Iterator[None]:
    """One Ray for all integration tests, on two cores and without a home; it ends with them."""
    from leader_platform.ray_session import ray_session
    from leader_platform.surroundings import cache_folder

    with ExitStack() as session:
        with pytest.MonkeyPatch.context() as environment:  # of Ray and its workers, and of no test after these
            environment.setenv("XDG_CACHE_HOME", str(cache_folder()))  # the embedded model is converted once a machine
            environment.setenv("HOME", "/dev/null")  # which root cannot make either
            session.enter_context(ray_session(num_cpus=2))
        yield


@pytest.fixture(scope="package")
def tiny_backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaMA of two narrow layers with random weights and the embedded model's tokenizer, as a Hugging Face folder."""
    from support.small_llama import small_llama
    from transformers import LlamaForCausalLM

    from leader_platform.models.backbone import load_tokenizer

    folder = odd_folder(tmp_path_factory.mktemp("backbone"))
    tokenizer = load_tokenizer("smollm2")
    LlamaForCausalLM(small_llama(len(tokenizer), pad_token_id=tokenizer.pad_token_id)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="package")
def config(tiny_backbone: Path) -> LeaderConfig:
    settings = [
        f"teacher.backbone={json.dumps(str(tiny_backbone))}",
        "teacher.dtype=float32",
        "teacher.pooling=last",  # of one random layer, whose mean learns little in twelve steps
        "teacher.max_steps=12",
        # A head that begins at nothing learns how frequent medications are; random weights tell no more than that.
        "teacher.head_prior_bias=false",
        "teacher.head_warm_start=false",
        "teacher.head_learning_rate=0.01",
        "teacher.max_epochs=3",
        "teacher.checkpoint_steps=4",
        "teacher.log_steps=1",
        "features.engine=transformers",
        "features.dtype=float32",
        "features.batch_size=8",
        "student.max_epochs=6",
        "resources.cpus_per_worker=1",
    ]
    return load_config(quickstart(), None, settings)


@pytest.fixture(scope="package")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = odd_folder(tmp_path_factory.mktemp("raw")) / "synthetic"
    write_raw("mimic4", folder, 40, seed=1)
    return folder


@pytest.fixture(scope="package")
def data(ray_local: None, raw: Path, config: LeaderConfig, tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    out = str(odd_folder(tmp_path_factory.mktemp("prepared")) / "data")
    prepare(PrepareArguments("mimic4", str(raw), out), config, LineProgress(print))
    return PreparedData(out)
