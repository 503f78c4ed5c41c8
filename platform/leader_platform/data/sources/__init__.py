"""What can be read: the raw tables of each source (`raw.py`), and how they become the same events (`events.py`).

`SOURCES` has them by the name that `--source` takes.
"""

from __future__ import annotations

from leader_platform.data.sources import mimic3, mimic4

SOURCES = {source.name: source for source in (mimic3.SOURCE, mimic4.SOURCE)}
