"""Shared libraries that make matrix work on a CPU faster, where the machine has them.

A library can only be preloaded before its process starts, so these variables go into the environment of the Ray
workers that compute: training's, the features' and serving's.
"""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from pathlib import Path

from leader_platform.config import fingerprint
from leader_platform.surroundings import private_folder

_TCMALLOC = ("libtcmalloc_minimal.so.4", "libtcmalloc.so.4")
# The loader splits LD_PRELOAD at blanks and colons and replaces what follows a dollar sign; nothing is quoted in it.
_SPECIAL = re.compile(r"[\s:;$]")


def preload_environment() -> dict[str, str]:
    """LD_PRELOAD with tcmalloc (memory of large tensors is kept, not given back and faulted in anew) and Intel's OpenMP
    (installed beside vLLM; threads that work together begin sooner); empty where neither is there."""
    openmp = Path(sys.prefix, "lib", "libiomp5.so")
    folders = (Path("/usr/lib/x86_64-linux-gnu"), Path("/usr/lib/aarch64-linux-gnu"), Path("/usr/lib64"))
    tcmalloc = [folder / name for folder in folders for name in _TCMALLOC if (folder / name).exists()]
    libraries = [_named(library) for library in (*tcmalloc[:1], openmp) if library.exists()]
    kept = [str(library) for library in libraries if not _SPECIAL.search(str(library))]
    return {"LD_PRELOAD": ":".join(kept)} if kept else {}


def _named(library: Path) -> Path:
    """The library, by a link in the private folder where the loader could not read its own path."""
    if not _SPECIAL.search(str(library)):
        return library
    folder = private_folder() / f"preload-{fingerprint(str(library))}"
    folder.mkdir(exist_ok=True)
    with suppress(FileExistsError):
        (folder / library.name).symlink_to(library)
    return folder / library.name
