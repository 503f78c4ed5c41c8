"""Libraries to preload, from an environment in any folder."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from leader_platform import preload


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Intel's OpenMP, or any library, in an environment's folder of the test's choice."""
    openmp = Path(sys.prefix, "lib", "libiomp5.so")
    if not openmp.exists():
        pytest.skip("there is no Intel OpenMP here")
    library = tmp_path / request.param / "lib" / "libiomp5.so"
    library.parent.mkdir(parents=True)
    library.symlink_to(openmp)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / request.param))
    return library


@pytest.mark.parametrize("library", ["venv", "Ärzte Daten/venv", "a:b", "$HOME/x", "tab\there"], indirect=True)
def test_the_loader_finds_the_library_wherever_the_environment_is(library: Path) -> None:
    variables = preload.preload_environment()
    # Ray replaces ${NAME} in the variables of its workers.
    assert "$" not in variables["LD_PRELOAD"]
    show = "print([line.split()[-1] for line in open('/proc/self/maps') if 'libiomp5' in line])"
    done = subprocess.run(
        [sys.executable, "-c", show], env=os.environ | variables, capture_output=True, text=True, check=True
    )
    assert "cannot be preloaded" not in done.stderr
    assert "libiomp5.so" in done.stdout


@pytest.mark.parametrize("library", ["a b"], indirect=True)
def test_what_no_path_can_name_is_left_out(library: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "t m p").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "t m p"))
    assert "libiomp5" not in preload.preload_environment().get("LD_PRELOAD", "")
