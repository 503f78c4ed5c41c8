"""The manifests for Kubernetes: only fields that exist, nothing that runs as root or without limits, no open door."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client
from ray.serve.schema import ServeDeploySchema
from typer.testing import CliRunner

from leader_cli.main import app
from leader_jobs.pipeline import STAGES
from leader_jobs.requests import Request
from leader_platform.errors import UserError
from leader_platform.ray_environment import ray_environment

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = ROOT / "deploy" / "kuberay"

# ray.io/v1 as of KubeRay 1.6, as far as we use or might: a dict holds an object's fields, `[...]` a list of such, a
# class of the Kubernetes client a core type, `str` and the like a value, `{}` a map.
GROUP: dict[str, Any] = {"rayStartParams": {}, "template": client.V1PodTemplateSpec, "resources": {}, "labels": {}}
AUTOSCALER: dict[str, Any] = {
    "version": str, "resources": client.V1ResourceRequirements, "image": str, "imagePullPolicy": str, "env": list,
    "envFrom": list, "volumeMounts": list, "securityContext": client.V1SecurityContext, "idleTimeoutSeconds": int,
    "upscalingMode": str,
}  # fmt: skip
CREDENTIAL: dict[str, Any] = {"value": str, "valueFrom": client.V1EnvVarSource}
CLUSTER: dict[str, Any] = {
    "upgradeStrategy": {"type": str}, "authOptions": {"mode": str, "secretName": str, "enableK8sTokenAuth": bool},
    "suspend": bool, "managedBy": str, "autoscalerOptions": AUTOSCALER, "headServiceAnnotations": {},
    "enableInTreeAutoscaling": bool, "rayVersion": str,
    "gcsFaultToleranceOptions": {
        "redisUsername": CREDENTIAL, "redisPassword": CREDENTIAL, "externalStorageNamespace": str, "redisAddress": str,
    },
    "headGroupSpec": {**GROUP, "headService": client.V1Service, "enableIngress": bool, "serviceType": str},
    "workerGroupSpecs": [{
        **GROUP, "groupName": str, "replicas": int, "minReplicas": int, "maxReplicas": int, "idleTimeoutSeconds": int,
        "suspend": bool, "numOfHosts": int, "scaleStrategy": {"workersToDelete": list},
    }],
}  # fmt: skip
KINDS: dict[str, Any] = {
    "RayCluster": CLUSTER,
    "RayJob": {
        "activeDeadlineSeconds": int, "waitingTTLSeconds": int, "backoffLimit": int, "rayClusterSpec": CLUSTER,
        "submitterPodTemplate": client.V1PodTemplateSpec, "metadata": {}, "clusterSelector": {},
        "submitterConfig": {"backoffLimit": int}, "managedBy": str, "deletionStrategy": {}, "entrypoint": str,
        "runtimeEnvYAML": str, "jobId": str, "submissionMode": str, "entrypointResources": str,
        "entrypointNumCpus": float, "entrypointNumGpus": float, "ttlSecondsAfterFinished": int,
        "shutdownAfterJobFinishes": bool, "suspend": bool,
    },
    "RayService": {
        "rayClusterDeletionDelaySeconds": int, "serveService": client.V1Service, "upgradeStrategy": {"type": str},
        "serveConfigV2": str, "rayClusterConfig": CLUSTER, "excludeHeadPodFromServeSvc": bool,
    },
    "Namespace": client.V1NamespaceSpec,
    "ConfigMap": client.V1ConfigMap,
    "NetworkPolicy": client.V1NetworkPolicySpec,
}  # fmt: skip
REQUIRED = {
    "RayCluster": ("headGroupSpec",),
    "RayJob": ("entrypoint", "rayClusterSpec"),
    "RayService": ("serveConfigV2", "rayClusterConfig"),
}


def problems(value: Any, schema: Any, where: str) -> Iterator[str]:
    """What the API would not know, or would not take for a value's type."""
    if isinstance(schema, type) and hasattr(schema, "openapi_types"):
        names = {name: schema.openapi_types[attribute] for attribute, name in schema.attribute_map.items()}
        schema = {name: _core(kind) for name, kind in names.items()}
    if isinstance(schema, dict):
        if not isinstance(value, dict):
            yield f"{where} is no object"
        elif schema:
            for name, part in value.items():
                if name in schema:
                    yield from problems(part, schema[name], f"{where}.{name}")
                else:
                    yield f"{where}.{name} does not exist"
    elif isinstance(schema, list):
        for index, part in enumerate(value):
            yield from problems(part, schema[0], f"{where}[{index}]")
    elif schema is not object and not isinstance(value, (int, float) if schema is float else schema):
        yield f"{where} is {type(value).__name__}, not {schema.__name__}"


def _core(kind: str) -> Any:
    """The Kubernetes client's own name of a type as a schema; a list is `list[...]` or `List[...]` by its version."""
    outer, bracket, inner = kind.partition("[")
    if bracket and outer.lower() == "list":
        return [_core(inner[:-1])]
    if kind.lower().startswith("dict"):
        return {}
    plain = {"str": str, "int": int, "bool": bool, "float": float, "datetime": str}
    return plain[kind] if kind in plain else getattr(client, kind, object)


@pytest.fixture(scope="module", params=["cpu", "gpu"])
def manifests(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    out = tmp_path_factory.mktemp("kubernetes")
    settings = {"cpu": [], "gpu": ["--recipe=paper-mimic4"]}[request.param]
    result = CliRunner().invoke(app, [*settings, "deploy", "render", "kubernetes", "--out", str(out)])
    assert result.exit_code == 0, result.exception
    return [manifest for file in sorted(out.iterdir()) for manifest in yaml.safe_load_all(file.read_text())]


@pytest.mark.parametrize(("gpus", "in_pod"), [("0.5", "1"), ("1", "1"), ("2", "2")])
def test_a_pod_has_the_gpus_of_its_worker(tmp_path: Path, gpus: str, in_pod: str) -> None:
    settings = ["--recipe=paper-mimic4", f"--set=resources.gpus_per_worker={gpus}"]
    result = CliRunner().invoke(app, [*settings, "deploy", "render", "kubernetes", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.exception
    job = yaml.safe_load((tmp_path / "rayjob-features.yaml").read_text())
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == in_pod


def of_kind(manifests: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def walk(value: Any) -> Iterator[dict[str, Any]]:
    """Every object in a manifest, it too."""
    if isinstance(value, dict):
        yield value
        for part in value.values():
            yield from walk(part)
    elif isinstance(value, list):
        for part in value:
            yield from walk(part)


def pods(value: Any) -> Iterator[dict[str, Any]]:
    """Every pod's spec in a manifest."""
    return (part for part in walk(value) if "containers" in part)


def test_every_field_exists(manifests: list[dict[str, Any]]) -> None:
    found = [
        problem
        for manifest in manifests
        if "spec" in manifest
        for problem in problems(manifest["spec"], KINDS[manifest["kind"]], manifest["metadata"]["name"])
    ]
    assert found == []
    for manifest in manifests:
        assert list(problems(manifest["metadata"], client.V1ObjectMeta, "metadata")) == []
        assert set(REQUIRED.get(manifest["kind"], ())) <= set(manifest.get("spec", {}))


def test_the_check_finds_what_does_not_exist() -> None:
    wrong = {"headGroupSpec": {"template": {"spec": {"contaners": []}}}, "rayVersion": 2}
    assert list(problems(wrong, CLUSTER, "x")) == [
        "x.headGroupSpec.template.spec.contaners does not exist",
        "x.rayVersion is int, not str",
    ]


def test_no_pod_is_root_or_unbounded(manifests: list[dict[str, Any]]) -> None:
    found = list(pods(manifests))
    assert len(found) > 10
    for pod in found:
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            limits = container["resources"]["limits"]
            assert limits == container["resources"]["requests"]
            assert {"cpu", "memory"} <= set(limits)
            environment = {variable["name"]: variable["value"] for variable in container["env"]}
            assert environment == {k: v for k, v in ray_environment(haproxy=True).items() if k != "RAY_AUTH_MODE"}


def test_every_cluster_asks_for_a_token_and_keeps_its_head_idle(manifests: list[dict[str, Any]]) -> None:
    clusters = [manifest["spec"] for manifest in of_kind(manifests, "RayCluster")]
    clusters += [manifest["spec"]["rayClusterSpec"] for manifest in of_kind(manifests, "RayJob")]
    clusters += [manifest["spec"]["rayClusterConfig"] for manifest in of_kind(manifests, "RayService")]
    for cluster in clusters:
        assert cluster["authOptions"] == {"mode": "token"}
        assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_each_stage_is_a_job_that_runs_its_request(manifests: list[dict[str, Any]]) -> None:
    jobs = {job["metadata"]["name"].removeprefix("leader-"): job["spec"] for job in of_kind(manifests, "RayJob")}
    assert jobs.keys() == {"prepare", *STAGES, "evaluate"}
    (files,) = of_kind(manifests, "ConfigMap")
    for stage, job in jobs.items():
        assert job["entrypoint"] == f"python -m leader_jobs /etc/leader/requests/{stage}.json"
        request = Request.model_validate_json(files["data"][f"{stage}.json"])
        assert request.stage == (stage if stage in STAGES else "all")
        (group,) = job["rayClusterSpec"]["workerGroupSpecs"]
        on_gpu = request.config.resources.gpus_per_worker > 0 and stage in ("teacher", "features", "titles")
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert ("nvidia.com/gpu" in limits) == on_gpu
        if stage == "teacher":
            assert group["replicas"] == request.config.teacher.num_workers


def test_serving_survives_a_pod(manifests: list[dict[str, Any]]) -> None:
    (service,) = of_kind(manifests, "RayService")
    cluster = service["spec"]["rayClusterConfig"]
    assert cluster["gcsFaultToleranceOptions"]["redisAddress"] == "redis.leader.svc:6379"
    serving = cluster["workerGroupSpecs"][0]
    assert serving["minReplicas"] >= 2
    plan = ServeDeploySchema.model_validate(yaml.safe_load(service["spec"]["serveConfigV2"]))
    arguments = plan.applications[0].args
    assert arguments["serve"]["student_replicas"] >= 2
    assert plan.http_options.host == "0.0.0.0"
    (mount,) = [m for m in next(pods(serving))["containers"][0]["volumeMounts"] if m["name"] == "keys"]
    assert arguments["serve"]["keys_file"].startswith(mount["mountPath"])
    assert "LD_PRELOAD" not in service["spec"]["serveConfigV2"], "a path of the machine that rendered it"


def test_nobody_gets_in_without_a_rule(manifests: list[dict[str, Any]]) -> None:
    policies = {policy["metadata"]["name"]: policy["spec"] for policy in of_kind(manifests, "NetworkPolicy")}
    assert {kind for spec in policies.values() for kind in spec["policyTypes"]} == {"Ingress", "Egress"}
    chosen = {"app.kubernetes.io/part-of": "leader"}
    assert policies["leader-pods"]["podSelector"]["matchLabels"] == chosen
    for manifest in manifests:
        for template in [part for part in walk(manifest) if "spec" in part and "containers" in part["spec"]]:
            assert chosen.items() <= template["metadata"]["labels"].items()


def test_the_files_in_the_repository_are_the_defaults(tmp_path: Path) -> None:
    """`leader deploy render kubernetes --out deploy/kuberay` makes them."""
    result = CliRunner().invoke(app, ["deploy", "render", "kubernetes", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.exception
    rendered = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert rendered == {file.name: file.read_text() for file in COMMITTED.glob("*.yaml")}


def test_what_pods_do_not_see_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["deploy", "render", "kubernetes", "--out", str(tmp_path), "--run", "/runs/a"])
    assert isinstance(result.exception, UserError)
    assert "--run /runs/a is a path of this machine" in str(result.exception)
    site = tmp_path / "site.yaml"
    site.write_text(json.dumps({"namespace": "No Such Name"}))
    command = ["deploy", "render", "kubernetes", "--out", str(tmp_path / "out"), "--site", str(site)]
    assert "namespace is not valid" in str(CliRunner().invoke(app, command).exception)
    assert not (tmp_path / "out").exists()
