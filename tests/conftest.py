"""What tests of several families share: where the open data lies, and how property tests run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# A shared machine may be slow at any moment, so no example has a deadline; the same examples every time, so that a
# failure is the change's own. `--hypothesis-profile=default` looks further.
settings.register_profile("leader", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("leader")

ROOT = Path(__file__).parent.parent


def _folder(variable: str, default: Path, what: str) -> Path:
    folder = Path(os.environ.get(variable, default))
    if not folder.is_dir():
        pytest.skip(f"{what} is not at {folder}; point {variable} at it")
    return folder.absolute()


@pytest.fixture(scope="session")
def mimic4_demo() -> Path:
    return _folder("LEADER_MIMIC4_DEMO", ROOT.parent / "shared/data/mimic-iv-demo", "the MIMIC-IV demo")


@pytest.fixture(scope="session")
def terminology() -> Path:
    return _folder("LEADER_TERMINOLOGY", ROOT.parent / "shared/terminology", "the terminology")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For models so small that several threads are slower, many times so when the machine is shared."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
