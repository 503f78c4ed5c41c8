"""A prepared data set on disk: where its parts lie, and how they are read back. `jobs/prepare` writes it."""

from __future__ import annotations

from functools import cached_property

import pyarrow as pa

from leader_platform import storage
from leader_platform.artifacts import require_object
from leader_platform.data.samples import SPLITS
from leader_platform.data.vocabulary import Vocabulary
from leader_platform.errors import UserError

FORMAT_VERSION = 2

INTERACTION_SCHEMA = pa.schema([(name, pa.string()) for name in ("code_a", "code_b", "severity", "reason", "source")])
TITLE_SCHEMA = pa.schema([("code", pa.string()), ("title", pa.string())])


def is_data_set(uri: str) -> bool:
    """Whether a manifest at `uri` is that of a data set, of any format; a run's has no flow of admissions."""
    manifest = storage.join(uri, "manifest.json")
    try:
        described = storage.read_json(manifest) if storage.exists(manifest) else None
    except ValueError:
        return False
    return isinstance(described, dict) and {"format_version", "flow"} <= set(described)


class PreparedData:
    """A prepared data set at a path or URI; opening it reads its manifest, the rest is read when asked for."""

    def __init__(self, uri: str) -> None:
        self.uri = storage.absolute(uri)
        manifest = storage.join(self.uri, "manifest.json")
        if not storage.exists(manifest):
            raise UserError(
                f"{uri} is not a prepared data set (no manifest.json); "
                "make one with `leader data prepare --raw RAW --out DIR`."
            )
        try:
            self.manifest = require_object(storage.read_json(manifest))
        except (OSError, ValueError) as error:
            raise UserError(f"{manifest} cannot be read ({error}); prepare the data set again.") from None
        if self.manifest.get("format_version") != FORMAT_VERSION:
            raise UserError(
                f"{uri} has data format {self.manifest.get('format_version')} and this version reads {FORMAT_VERSION}; "
                "prepare the data set again."
            )

    @property
    def fingerprint(self) -> str:
        """Equal for data sets of equal content, wherever they lie."""
        return str(self.manifest["fingerprint"])

    def sample_parts(self, split: str) -> list[str]:
        """The sample files of a split, in the order in which every stage reads them."""
        assert split in SPLITS
        return storage.list_files(storage.join(self.uri, "samples", split), ".parquet")

    def visit_parts(self) -> list[str]:
        """The files of all visits, whole patients in each."""
        # A fold's visits are those of the data set that it is a fold of.
        uri = self.manifest.get("fold", {}).get("visits", self.uri)
        return storage.list_files(storage.join(uri, "visits"), ".parquet")

    def samples(self, split: str, columns: list[str] | None = None) -> pa.Table:
        """All samples of a split in memory; for sets that are small by nature (validation, test) and for reports."""
        parts = [storage.read_parquet(part, columns) for part in self.sample_parts(split)]
        if not parts:
            raise UserError(f"{self.uri} has no {split} samples; prepare it from more patients.")
        return pa.concat_tables(parts)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary.model_validate(storage.read_json(storage.join(self.uri, "vocabulary.json")))

    @cached_property
    def titles(self) -> dict[str, str]:
        """Code -> title, of every code in the visits and every medication class."""
        table = storage.read_parquet(storage.join(self.uri, "titles.parquet"))
        return dict(zip(table["code"].to_pylist(), table["title"].to_pylist(), strict=True))

    @cached_property
    def interactions(self) -> pa.Table:
        """Interacting pairs, `INTERACTION_SCHEMA`."""
        return storage.read_parquet(storage.join(self.uri, "interactions.parquet"))
