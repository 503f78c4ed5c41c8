"""Serve's config of a run, the checks before it, and what replaces what."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ray.serve.schema import ServeDeploySchema
from support.served import CONFIG, trained

from leader_platform.config import LeaderConfig
from leader_platform.errors import UserError
from leader_platform.progress import LineProgress
from leader_platform.settings import load_config
from leader_serve.app import build, build_teacher
from leader_serve.keys import add_key, remove_key
from leader_serve.plans import Running, prepare, prepare_rollback
from leader_serve.releases import IngressArguments, TeacherArguments


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return trained(tmp_path / "run")


def arguments(plan: dict[str, Any], name: str = "leader") -> dict[str, Any]:
    (application,) = (application for application in plan["applications"] if application["name"] == name)
    found: dict[str, Any] = application["args"]
    return found


def ingress(plan: dict[str, Any]) -> Any:
    return build(IngressArguments.model_validate(arguments(plan)))._bound_deployment


def running(plan: dict[str, Any]) -> Running:
    """The cluster on which the plan was deployed."""
    applications = {application["name"]: application for application in json.loads(json.dumps(plan))["applications"]}
    return Running(IngressArguments.model_validate(applications["leader"]["args"]), applications)


def runs(plan: dict[str, Any]) -> dict[str, str | None]:
    """The names of the runs that the plan's ingress knows."""
    releases = {name: arguments(plan)[name] for name in ("stable", "canary", "previous")}
    return {name: None if release is None else Path(release["run"]).name for name, release in releases.items()}


# --- one run ---------------------------------------------------------------------------------------------------------


def test_the_config_is_what_serve_accepts_and_builds(run: Path) -> None:
    plan = prepare(str(run), CONFIG)
    schema = ServeDeploySchema.model_validate(plan)
    assert (schema.http_options.host, schema.http_options.port) == ("127.0.0.1", 18231)
    assert schema.logging_config is not None
    assert not schema.logging_config.enable_access_log
    assert [(one.name, one.route_prefix) for one in schema.applications] == [("leader", "/"), ("leader-teacher", None)]
    bound = ingress(plan)
    assert bound.name == "Ingress"
    assert bound.max_queued_requests == CONFIG.serve.max_queued_requests
    assert bound.backpressure_config.retry_after_s == 1


def test_the_teacher_leaves_room_and_keeps_its_threads(run: Path) -> None:
    given = TeacherArguments.model_validate(arguments(prepare(str(run), CONFIG), "leader-teacher"))
    options = build_teacher(given)._bound_deployment.ray_actor_options
    assert options["num_cpus"] == 1.0
    assert options["runtime_env"]["env_vars"]["OMP_NUM_THREADS"] == "2"
    assert options["runtime_env"]["env_vars"]["VLLM_CPU_NUM_OF_RESERVED_CPU"] == "0"


@pytest.mark.parametrize(
    ("cores", "settings", "reserved", "threads"),
    [
        (1.0, [], 0.0, "1"),
        (2.0, [], 1.0, "2"),
        (8.0, [], 1.0, "2"),
        (8.0, ["resources.cpus_per_worker=4"], 3.0, "4"),
        (8.0, ["resources.cpus_per_worker=1"], 1.0, "1"),
        (1.0, ["resources.cpus_per_worker=2"], 1.0, "2"),  # what was asked for and does not fit is not made to
    ],
)
def test_the_application_fits_on_the_cores_that_there_are(
    run: Path, monkeypatch: pytest.MonkeyPatch, cores: float, settings: list[str], reserved: float, threads: str
) -> None:
    monkeypatch.setattr("leader_serve.app._nodes", lambda: [{"CPU": cores}])
    plan = prepare(str(run), load_config(CONFIG, None, settings))
    options = build_teacher(TeacherArguments.model_validate(arguments(plan, "leader-teacher")))
    teacher = options._bound_deployment.ray_actor_options
    assert teacher["num_cpus"] == reserved
    assert teacher["runtime_env"]["env_vars"]["OMP_NUM_THREADS"] == threads
    ingress_cpus = ingress(plan).ray_actor_options["num_cpus"] * CONFIG.serve.student_replicas
    if not settings:
        assert reserved + 2 * ingress_cpus <= cores, "an update needs room for new replicas beside the old ones"


@pytest.mark.parametrize(
    ("engine", "gpus", "actor"),
    [("vllm", 0.5, 0.5), ("vllm", 2.0, 2.0), ("transformers", 0.5, 0.5), ("transformers", 2.0, 1.0)],
)
def test_the_teacher_knows_the_gpus_that_its_replica_holds(run: Path, engine: str, gpus: float, actor: float) -> None:
    write_merged(run, heads=4)
    on_gpus = load_config(CONFIG, None, [f"resources.gpus_per_worker={gpus}", f"serve.teacher_engine={engine}"])
    bound = build_teacher(
        TeacherArguments.model_validate(arguments(prepare(str(run), on_gpus), "leader-teacher"))
    )._bound_deployment
    assert bound.ray_actor_options["num_gpus"] == actor
    assert bound.init_args == (str(run), engine, "auto", gpus, CONFIG.features.kv_cache_gb)


def test_gpus_that_do_not_divide_the_teacher_are_refused_before_deploying(run: Path) -> None:
    write_merged(run, heads=9)
    two = load_config(CONFIG, None, ["resources.gpus_per_worker=2"])
    with pytest.raises(UserError, match=r"9 attention heads .*gpus_per_worker=2 GPUs; set it to one of 1, 3, 9"):
        prepare(str(run), two)
    prepare(str(run), two, with_teacher=False)
    prepare(str(run), load_config(two, None, ["serve.teacher_engine=transformers"]))


def write_merged(run: Path, heads: int) -> None:
    """The configuration of a merged teacher."""
    config = {
        "model_type": "llama",
        "hidden_size": 8 * heads,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
    }
    (run / "teacher" / "merged").mkdir()
    (run / "teacher" / "merged" / "config.json").write_text(json.dumps(config))


def test_where_the_student_computes_is_a_setting(run: Path) -> None:
    inside = load_config(CONFIG, None, ["serve.student_replicas=3"])
    bound = ingress(prepare(str(run), inside))
    assert (bound.num_replicas, bound.init_args[1].student) == (3, None)
    bound = ingress(prepare(str(run), load_config(inside, None, ["serve.student=deployment"])))
    student = bound.init_args[1].student._bound_deployment
    assert (bound.num_replicas, student.name, student.num_replicas) == (1, "Student", 3)


def test_replicas_grow_with_the_load_where_they_may(run: Path) -> None:
    growing = load_config(CONFIG, None, ["serve.max_student_replicas=4", "serve.max_teacher_replicas=2"])
    plan = prepare(str(run), growing)
    student = ingress(plan)._deployment_config.autoscaling_config
    assert (student.min_replicas, student.max_replicas, student.target_ongoing_requests) == (2, 4, 16)
    given = TeacherArguments.model_validate(arguments(plan, "leader-teacher"))
    assert build_teacher(given)._bound_deployment._deployment_config.autoscaling_config.max_replicas == 2
    with pytest.raises(UserError, match=r"max_student_replicas=1 is less than serve\.student_replicas=2"):
        load_config(CONFIG, None, ["serve.max_student_replicas=1"])


def test_others_reach_the_port_with_keys_alone(run: Path) -> None:
    public = load_config(CONFIG, None, ["serve.host=0.0.0.0"])
    with pytest.raises(UserError, match=r"0\.0\.0\.0 is reachable .*`leader serve keys add NAME`"):
        prepare(str(run), public)
    path = run / "keys.json"
    with_keys = load_config(public, None, [f"serve.keys_file={path}"])
    with pytest.raises(UserError, match="There is no key file"):
        prepare(str(run), with_keys)
    add_key(str(path), "ward-7")
    assert arguments(prepare(str(run), with_keys))["serve"]["keys_file"] == str(path)
    remove_key(str(path), "ward-7")
    with pytest.raises(UserError, match="holds no key"):
        prepare(str(run), with_keys)


def test_a_run_without_a_student_names_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"leader train --stage distill --run {tmp_path}"):
        prepare(str(tmp_path), CONFIG)


def test_a_run_without_a_teacher_is_deployed_without_and_says_so(run: Path) -> None:
    (run / "teacher" / "manifest.json").unlink()
    said: list[str] = []
    plan = prepare(str(run), CONFIG, progress=LineProgress(said.append))
    assert [application["name"] for application in plan["applications"]] == ["leader"]
    assert ingress(plan).init_args[1].teacher is None
    assert "no teacher" in said[0]
    plan = prepare(str(run), CONFIG, with_teacher=False, progress=LineProgress(said.append))
    assert not arguments(plan)["stable"]["teacher"]
    assert len(said) == 1


# --- one run after another -------------------------------------------------------------------------------------------


def test_a_retrained_run_changes_the_arguments_and_nothing_else_does(run: Path) -> None:
    before = prepare(str(run), CONFIG)
    assert prepare(str(run), CONFIG, running=running(before)) == before
    trained(run, finished_at="2026-01-02")
    after = prepare(str(run), CONFIG, running=running(before))
    for name in ("leader", "leader-teacher"):
        assert arguments(after, name) != arguments(before, name)
    assert runs(after) == {"stable": "run", "canary": None, "previous": "run"}


def test_settings_of_the_ingress_do_not_restart_the_teacher(run: Path) -> None:
    before, after = (
        prepare(str(run), load_config(CONFIG, None, [f"serve.{one}"])) for one in ("port=1", "policy=shadow")
    )
    assert arguments(after) != arguments(before)
    assert arguments(after, "leader-teacher") == arguments(before, "leader-teacher")


def test_a_rollback_returns_to_the_run_of_before_and_back_again(run: Path, tmp_path: Path) -> None:
    first = prepare(str(run), CONFIG)
    second = prepare(str(trained(tmp_path / "new")), CONFIG, running=running(first))
    assert runs(second) == {"stable": "new", "canary": None, "previous": "run"}
    back = prepare_rollback(CONFIG, running(second))
    assert runs(back) == {"stable": "run", "canary": None, "previous": "new"}
    assert arguments(back, "leader-teacher") == arguments(first, "leader-teacher")
    assert runs(prepare_rollback(CONFIG, running(back)))["stable"] == "new"


def test_a_canary_stands_beside_what_answers_and_leaves_its_teacher_alone(run: Path, tmp_path: Path) -> None:
    first = prepare(str(run), CONFIG)
    trained(tmp_path / "new")
    other = load_config(LeaderConfig(), None, ["serve.port=9", "resources.cpus_per_worker=7"])
    tried = prepare(str(tmp_path / "new"), other, running=running(first), canary_percent=10)
    assert runs(tried) == {"stable": "run", "canary": "new", "previous": None}
    assert arguments(tried)["canary_share"] == 0.1
    assert tried["http_options"]["port"] == 18231
    assert arguments(tried, "leader-teacher") == arguments(first, "leader-teacher")
    assert arguments(tried, "leader-teacher-canary")["resources"]["cpus_per_worker"] == 7
    assert ingress(tried).init_args[2].teacher == "leader-teacher-canary"
    assert arguments(prepare_rollback(CONFIG, running(tried))) == arguments(first)
    promoted = prepare(str(tmp_path / "new"), CONFIG, running=running(tried))
    assert runs(promoted) == {"stable": "new", "canary": None, "previous": "run"}


def test_there_must_be_something_to_stand_beside_and_to_return_to(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Nothing is deployed that a canary could stand beside"):
        prepare(str(run), CONFIG, canary_percent=5)
    first = prepare(str(run), CONFIG)
    with pytest.raises(UserError, match="is what answers already"):
        prepare(str(run), CONFIG, running=running(first), canary_percent=5)
    with pytest.raises(UserError, match="nothing to roll back"):
        prepare_rollback(CONFIG, None)
    with pytest.raises(UserError, match="nothing to return to"):
        prepare_rollback(CONFIG, running(first))
    second = prepare(str(trained(tmp_path / "new")), CONFIG, running=running(first))
    trained(run, finished_at="2026-01-02")
    with pytest.raises(UserError, match=r"run was trained again since .* another --run"):
        prepare_rollback(CONFIG, running(second))
