"""The data sets that can be read, by the name that `--source` takes."""

from __future__ import annotations

from leader_platform.data import mimic3, mimic4

SOURCES = {source.name: source for source in (mimic3.SOURCE, mimic4.SOURCE)}
