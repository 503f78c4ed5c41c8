"""Which run answers, which one answered before, and which one is tried beside it: the applications' arguments.

They travel in Serve's configuration, so that a cluster itself knows what a rollback returns to, whoever asks for it.
Serve restarts every replica of an application whose arguments changed. So each teacher, whose engine takes half a
minute to start, is an application of its own, and the ingress's may change without it.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field

from leader_platform.artifacts import STUDENT, TEACHER, Run
from leader_platform.config import Dtype, ResourcesConfig, ServeConfig, fingerprint
from leader_platform.errors import UserError
from leader_serve.schemas import ModelName, ReleaseName

APPLICATION = "leader"
TEACHER_APPLICATIONS: Mapping[ReleaseName, str] = {"stable": "leader-teacher", "canary": "leader-teacher-canary"}


class _Argument(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Replicas(_Argument):
    """How many replicas a deployment has: always `least`, or up to `most` as the load asks."""

    least: int
    most: int | None
    target_ongoing_requests: int

    @classmethod
    def of(cls, model: ModelName, config: ServeConfig) -> Replicas:
        least, most = {
            "student": (config.student_replicas, config.max_student_replicas),
            "teacher": (config.teacher_replicas, config.max_teacher_replicas),
        }[model]
        return cls(least=least, most=most, target_ongoing_requests=config.target_ongoing_requests)


class Release(_Argument):
    """A run's models as they were when it was deployed."""

    run: str
    teacher: bool = True
    revision: str = ""
    """Digest of the run's models, so that a retrained run is another argument."""

    @classmethod
    def of(cls, run: str, teacher: bool) -> Release:
        """A run as it is now. `UserError` where one of its models cannot be read."""
        products = (STUDENT, TEACHER) if teacher else (STUDENT,)
        manifests = map(Run(run).manifest, products)
        return cls(
            run=run,
            teacher=teacher,
            revision=fingerprint(*((manifest["key"], manifest["finished_at"]) for manifest in manifests)),
        )


class IngressArguments(_Argument):
    """Of the application that answers HTTP; Serve's config file carries them as `args`."""

    stable: Release
    canary: Release | None = None
    canary_share: float = Field(0.0, ge=0, le=1)
    previous: Release | None = None  # what `stable` replaced
    serve: ServeConfig


class TeacherArguments(_Argument):
    """Of a release's teacher. Settings of the ingress are none of them: they may change without its restart."""

    run: str
    revision: str
    engine: str
    dtype: Dtype = "auto"
    replicas: Replicas
    max_ongoing_requests: int
    max_queued_requests: int
    resources: ResourcesConfig
    kv_cache_gb: float


def replace(new: IngressArguments, running: IngressArguments | None) -> IngressArguments:
    """`new` in the place of what runs, which a rollback returns to. Deployed again as it is, or with other settings,
    nothing was replaced; nor was a canary, which was never all there was."""
    if running is None:
        return new
    previous = running.previous if new.stable == running.stable else running.stable
    return new.model_copy(update={"previous": previous})


def try_beside(new: IngressArguments, running: IngressArguments | None, share: float) -> IngressArguments:
    """What runs goes on, and `new` gets a share of its requests. `UserError` where nothing runs."""
    if running is None:
        raise UserError("Nothing is deployed that a canary could stand beside; deploy without --canary.")
    if new.stable == running.stable:
        raise UserError(f"The run {new.stable.run} is what answers already; a canary must be another run or revision.")
    return running.model_copy(update={"canary": new.stable, "canary_share": share})


def roll_back(running: IngressArguments | None) -> IngressArguments:
    """Without the canary where there is one, else what answered before. `UserError` where there is neither, and where
    the run of before was trained again since."""
    if running is None:
        raise UserError("Nothing is deployed, so there is nothing to roll back.")
    if running.canary is not None:
        return running.model_copy(update={"canary": None, "canary_share": 0.0})
    previous = running.previous
    if previous is None:
        raise UserError("Nothing answered before this run, so there is nothing to return to.")
    if Release.of(previous.run, previous.teacher) != previous:
        raise UserError(
            f"The run {previous.run} was trained again since it answered, so its former models are gone; train into "
            "another --run to be able to return."
        )
    return running.model_copy(update={"stable": previous, "previous": running.stable})
