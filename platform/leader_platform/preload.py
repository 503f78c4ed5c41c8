"""Shared libraries that make matrix work on a CPU faster, where the machine has them.

A library can only be preloaded before its process starts, so these variables go into the environment of the Ray
workers that compute: training's, the features' and serving's.
"""

from __future__ import annotations

import sys
from pathlib import Path

_TCMALLOC = ("libtcmalloc_minimal.so.4", "libtcmalloc.so.4")


def preload_environment() -> dict[str, str]:
    """LD_PRELOAD with tcmalloc (memory of large tensors is kept, not given back and faulted in anew) and Intel's OpenMP
    (installed beside vLLM; threads that work together begin sooner); empty where neither is there."""
    openmp = Path(sys.prefix, "lib", "libiomp5.so")
    folders = (Path("/usr/lib/x86_64-linux-gnu"), Path("/usr/lib/aarch64-linux-gnu"), Path("/usr/lib64"))
    tcmalloc = [folder / name for folder in folders for name in _TCMALLOC if (folder / name).exists()]
    libraries = [str(library) for library in (*tcmalloc[:1], openmp) if library.exists()]
    return {"LD_PRELOAD": ":".join(libraries)} if libraries else {}
