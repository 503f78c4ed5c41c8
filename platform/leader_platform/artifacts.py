"""A run directory: where each stage's product lies, and whether it is still what the configuration would make."""

from __future__ import annotations

import datetime
import platform
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

from leader_platform import storage
from leader_platform.config import LeaderConfig, to_yaml
from leader_platform.errors import UserError

# Each stage's product: a directory of the run.
TITLES, TEACHER, FEATURES = "titles", "teacher", "features"
STUDENT, STUDENT_ALONE, EVALUATION = "student", "student_alone", "evaluation"
STAGES = (TITLES, TEACHER, FEATURES, STUDENT, STUDENT_ALONE, EVALUATION)
MODELS = (TEACHER, STUDENT, STUDENT_ALONE)  # what is loaded to answer patients
_MADE_BY = {STUDENT: "distill", STUDENT_ALONE: "student"}
_PACKAGES = ("leader-platform", "ray", "torch", "transformers", "peft")


class Run:
    """A run at a path or URI. Every product directory holds its own `manifest.json`: the stage's key, the configuration
    used, when and with which versions, so that it explains itself wherever it is copied."""

    def __init__(self, uri: str) -> None:
        self.uri = storage.absolute(uri)

    def path(self, *parts: str) -> str:
        return storage.join(self.uri, *parts)

    def scratch(self, stage: str, key: str) -> str:
        """Where an unfinished stage keeps what it can go on from; another key, other settings, another place."""
        return self.path("training", f"{stage}-{key}")

    def has(self, stage: str) -> bool:
        return storage.exists(self.path(stage, "manifest.json"))

    def manifest(self, stage: str) -> dict[str, Any]:
        """What a stage wrote about its product. `UserError` when it is missing or unreadable."""
        path = self.path(stage, "manifest.json")
        if not storage.exists(path):
            raise UserError(
                f"The run {self.uri} has no {stage}; make it with `leader train --stage {_MADE_BY.get(stage, stage)}`."
            )
        try:
            return require_object(storage.read_json(path))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read ({error}); run the stage again with --force.") from None

    def is_current(self, stage: str, key: str) -> bool:
        """Whether the product is there, was made with the settings of which `key` is the digest, and from the very
        products that the run has now: a teacher tuned again makes features stale, whatever its settings."""
        if not self.has(stage):
            return False
        manifest = self.manifest(stage)
        made_from = manifest.get("made_from", {})
        return manifest.get("key") == key and made_from == self._ids(made_from)

    def _ids(self, stages: Iterable[str]) -> dict[str, str | None]:
        """Each product's own id, None for one that is not there."""
        return {stage: self.manifest(stage).get("id") if self.has(stage) else None for stage in stages}

    @contextmanager
    def product(
        self, stage: str, key: str, config: LeaderConfig, about: dict[str, Any], made_from: Sequence[str] = ()
    ) -> Iterator[str]:
        """A fresh directory to fill; at the end of the block its manifest is added and it becomes the stage's product.

        `about` may be filled inside the block; it goes into the manifest, and so into whatever reads the product.
        `made_from` names the products of this run that it is made from.
        """
        identity = {"stage": stage, "key": key, "id": uuid.uuid4().hex, "made_from": self._ids(made_from)}
        with storage.staged_directory(self.path(stage)) as staging:
            yield staging
            storage.write_bytes(storage.join(staging, "configuration.yaml"), to_yaml(config).encode())
            manifest = {**identity, "finished_at": _now(), "versions": _versions(), **about}
            if stage in MODELS:
                manifest["sha256"] = _checksums(staging)
            storage.write_json(storage.join(staging, "manifest.json"), manifest)
        self._update_overview()

    def verify(self, stage: str) -> None:
        """Read a model's files and hold them against the checksums in its manifest; one that was written before there
        were any passes. `UserError` for a file that is missing, damaged or changed."""
        expected = self.manifest(stage).get("sha256", {})
        found = _checksums(self.path(stage)) if expected else {}
        for name, checksum in expected.items():
            if found.get(name) != checksum:
                fault = "is not what the stage wrote" if name in found else "is missing"
                raise UserError(f"{self.path(stage, name)} {fault}; train it again, or copy the run again.")

    def _update_overview(self) -> None:
        """`manifest.json` of the run: one entry a product, taken from the products themselves."""
        stages = {stage: self.manifest(stage) for stage in STAGES if self.has(stage)}
        storage.write_json(self.path("manifest.json"), {"format_version": 1, "stages": stages})


def _checksums(directory: str) -> dict[str, str]:
    """SHA-256 of a product's files by their path in it, but for the manifest, which holds them."""
    files = {file[len(directory) :].strip("/"): file for file in storage.list_files(directory, recursive=True)}
    return {name: storage.sha256(file) for name, file in files.items() if name != "manifest.json"}


def require_object(value: Any) -> dict[str, Any]:
    """`value` if JSON calls it an object, else a `ValueError`."""
    if not isinstance(value, dict):
        raise ValueError(f"it holds {type(value).__name__}, not a JSON object")
    return value


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}
