"""The platform on Kubernetes, as manifests for the KubeRay operator (1.6 or newer), made from a configuration.

    namespace, network policy        who may reach what
    requests                         what each stage is asked, as files for its pods
    RayCluster                       to work on by hand: `leader --address ... train`
    RayJob, one a stage              a cluster of its own that ends with the stage
    RayService                       serving: two replicas, and a control store that outlives its head

Secrets are named, never made: `object_store` with the object store's variables, `serve_keys` with the digests of
callers' keys, `redis_password`. KubeRay makes each cluster's token.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from leader_platform.config import LeaderConfig
from leader_platform.ray_environment import ray_environment

Manifest = dict[str, Any]

REQUESTS_FOLDER = "/etc/leader/requests"
KEYS_FILE = "/etc/leader/keys/serve_keys.json"
SERVE_PORT = 8000
_USER = 1000
_LABELS = {"app.kubernetes.io/part-of": "leader"}
_METRICS_PORT, _DASHBOARD_PORT, _GCS_PORT = 8080, 8265, 6379
_CONFINED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
_AUTOSCALING: Manifest = {"enableInTreeAutoscaling": True, "autoscalerOptions": {"securityContext": _CONFINED}}


class Size(BaseModel):
    """What a pod asks for and may use; both are the same, so that nothing is evicted for what it was promised."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpus: float = Field(gt=0)
    memory_gb: int = Field(ge=1)
    gpus: int = Field(default=0, ge=0)


class Site(BaseModel):
    """What differs from one Kubernetes cluster to the next."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    namespace: str = Field("leader", pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")
    cpu_image: str = "leader:0.1.0-cpu"
    gpu_image: str = "leader:0.1.0-gpu"
    object_store: str = "leader-object-store"
    serve_keys: str = "leader-serve-keys"
    redis_address: str = "redis.leader.svc:6379"
    redis_password: str = "leader-redis"
    operator_namespace: str = "kuberay"
    monitoring_namespace: str = "monitoring"
    head: Size = Size(cpus=2, memory_gb=8)
    worker: Size = Size(cpus=4, memory_gb=16)
    gpu_worker: Size = Size(cpus=8, memory_gb=64, gpus=1)


def render(
    site: Site, config: LeaderConfig, requests: Mapping[str, str], serve_config: Mapping[str, Any]
) -> dict[str, list[Manifest]]:
    """Manifests by file name. `requests` has each stage's request as JSON; `serve_config` is Serve's own. A pod with
    GPUs has at least as many as `config.resources` gives a worker, which would otherwise never be placed."""
    gpus = max(site.gpu_worker.gpus, math.ceil(config.resources.gpus_per_worker))
    site = site.model_copy(update={"gpu_worker": site.gpu_worker.model_copy(update={"gpus": gpus})})
    files = {
        "namespace.yaml": [_namespace(site)],
        "networkpolicy.yaml": _network_policies(site),
        "requests.yaml": [_requests(site, requests)],
        "raycluster.yaml": [_ray_cluster(site, config)],
        "rayservice.yaml": [_ray_service(site, config, serve_config)],
    }
    return files | {f"rayjob-{stage}.yaml": [_ray_job(site, config, stage)] for stage in requests}


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks, and every value where it stands: no `&id001` for two that are alike."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


def to_yaml(manifests: Sequence[Manifest]) -> str:
    return yaml.dump_all(manifests, Dumper=_Dumper, sort_keys=False, width=120)


def _named(site: Site, kind: str, api: str, name: str) -> Manifest:
    metadata = {"name": name, "labels": dict(_LABELS)}
    if kind != "Namespace":
        metadata["namespace"] = site.namespace
    return {"apiVersion": api, "kind": kind, "metadata": metadata}


def _namespace(site: Site) -> Manifest:
    manifest = _named(site, "Namespace", "v1", site.namespace)
    # The operator adds pods of its own, which cannot be held to more than the baseline.
    manifest["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] = "baseline"
    manifest["metadata"]["labels"]["pod-security.kubernetes.io/warn"] = "restricted"
    return manifest


def _requests(site: Site, requests: Mapping[str, str]) -> Manifest:
    files = {f"{stage}.json": json.dumps(json.loads(request), indent=2) for stage, request in requests.items()}
    return {**_named(site, "ConfigMap", "v1", "leader-requests"), "data": files}


# --- clusters --------------------------------------------------------------------------------------------------------


def _ray_cluster(site: Site, config: LeaderConfig) -> Manifest:
    groups = [_group(site, "cpu", site.worker, 0, 4)]
    if _on_gpu(config):
        groups.append(_group(site, "gpu", site.gpu_worker, 0, max(config.teacher.num_workers, 1)))
    spec = _cluster_spec(site, groups) | _AUTOSCALING
    return {**_named(site, "RayCluster", "ray.io/v1", "leader"), "spec": spec}


def _ray_job(site: Site, config: LeaderConfig, stage: str) -> Manifest:
    spec = {
        "entrypoint": f"python -m leader_jobs {REQUESTS_FOLDER}/{stage}.json",
        "submissionMode": "K8sJobMode",
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": 600,  # long enough to read the logs
        # Stages go on from their checkpoints, so a second attempt repeats little.
        "backoffLimit": 1,
        "rayClusterSpec": _cluster_spec(site, [_group_of_stage(site, config, stage)]),
        "submitterPodTemplate": _submitter(site),
    }
    return {**_named(site, "RayJob", "ray.io/v1", f"leader-{stage}"), "spec": spec}


def _submitter(site: Site) -> Manifest:
    """The pod that hands the job over and prints its log."""
    template = _pod(site.cpu_image, Size(cpus=0.5, memory_gb=1), site, "ray-job-submitter")
    template["spec"]["restartPolicy"] = "Never"
    return template


def _group_of_stage(site: Site, config: LeaderConfig, stage: str) -> Manifest:
    """The workers that a stage computes on: as many as its setting says, and GPUs where it reads the large model."""
    reads_the_large_model = stage in ("teacher", "features", "titles")
    count = {
        "teacher": max(config.teacher.num_workers, 1),
        "features": config.features.concurrency,
        "distill": max(config.student.num_workers, 1),
        "student": max(config.student.num_workers, 1),
    }.get(stage, 1)
    if reads_the_large_model and _on_gpu(config):
        return _group(site, "gpu", site.gpu_worker, count, count)
    return _group(site, "cpu", site.worker, count, count)


def _ray_service(site: Site, config: LeaderConfig, serve_config: Mapping[str, Any]) -> Manifest:
    groups = [_group(site, "serve", site.worker, 2, 4)]
    if config.serve.teacher and _on_gpu(config):
        most = config.serve.max_teacher_replicas or config.serve.teacher_replicas
        groups.append(_group(site, "teacher", site.gpu_worker, config.serve.teacher_replicas, most))
    cluster = _cluster_spec(site, groups, keys=True) | {
        **_AUTOSCALING,
        # With it a new head takes over, and the replicas answer meanwhile.
        "gcsFaultToleranceOptions": {
            "redisAddress": site.redis_address,
            "redisPassword": {"valueFrom": {"secretKeyRef": {"name": site.redis_password, "key": "password"}}},
        },
    }
    spec = {
        "serveConfigV2": to_yaml([dict(serve_config)]),
        "rayClusterConfig": cluster,
        "upgradeStrategy": {"type": "NewCluster"},
        # The head computes nothing, and a new one must not take requests away.
        "excludeHeadPodFromServeSvc": True,
    }
    return {**_named(site, "RayService", "ray.io/v1", "leader"), "spec": spec}


def _cluster_spec(site: Site, groups: Sequence[Manifest], keys: bool = False) -> Manifest:
    head = _pod(site.cpu_image, site.head, site, "ray-head", keys)
    head["spec"]["containers"][0]["ports"] = [
        {"name": "gcs-server", "containerPort": _GCS_PORT},
        {"name": "dashboard", "containerPort": _DASHBOARD_PORT},
        {"name": "metrics", "containerPort": _METRICS_PORT},
    ]
    for group in groups if keys else ():
        _mount_keys(group["template"], site)
        container = group["template"]["spec"]["containers"][0]
        container["ports"] = [
            {"name": "serve", "containerPort": SERVE_PORT},
            {"name": "metrics", "containerPort": _METRICS_PORT},
        ]
        group["template"]["spec"]["topologySpreadConstraints"] = [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": {"leader/group": group["groupName"]}},
            }
        ]
    return {
        "rayVersion": version("ray"),  # what the images are built with, from the same pyproject
        "authOptions": {"mode": "token"},
        "headGroupSpec": {
            # No work on the head: what fills its memory there would take the whole cluster down.
            "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0"},
            "template": head,
        },
        "workerGroupSpecs": list(groups),
    }


def _group(site: Site, name: str, size: Size, least: int, most: int) -> Manifest:
    template = _pod(site.gpu_image if size.gpus else site.cpu_image, size, site, "ray-worker")
    template["metadata"]["labels"]["leader/group"] = name
    return {
        "groupName": name,
        "replicas": least,
        "minReplicas": least,
        "maxReplicas": max(least, most),
        "rayStartParams": {},
        "template": template,
    }


def _pod(image: str, size: Size, site: Site, container: str, keys: bool = False) -> Manifest:
    amounts: dict[str, str] = {"cpu": f"{size.cpus:g}", "memory": f"{size.memory_gb}Gi"}
    if size.gpus:
        amounts["nvidia.com/gpu"] = str(size.gpus)
    template: Manifest = {
        "metadata": {"labels": dict(_LABELS)},
        "spec": {
            # The autoscaler beside the head asks Kubernetes for pods.
            "automountServiceAccountToken": container == "ray-head",
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": _USER,
                "runAsGroup": _USER,
                "fsGroup": _USER,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": container,
                    "image": image,
                    "env": [{"name": name, "value": value} for name, value in _environment().items()],
                    "envFrom": [{"secretRef": {"name": site.object_store}}],
                    "resources": {"requests": dict(amounts), "limits": dict(amounts)},
                    "securityContext": dict(_CONFINED),
                    "volumeMounts": [
                        {"name": "requests", "mountPath": REQUESTS_FOLDER, "readOnly": True},
                        {"name": "memory", "mountPath": "/dev/shm"},
                        {"name": "temporary", "mountPath": "/tmp"},
                    ],
                }
            ],
            "volumes": [
                {"name": "requests", "configMap": {"name": "leader-requests"}},
                # Ray's object store; the default 64 MiB would send every object to disk.
                {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": f"{max(1, size.memory_gb // 3)}Gi"}},
                {"name": "temporary", "emptyDir": {}},
            ],
        },
    }
    if keys:
        _mount_keys(template, site)
    if size.gpus:
        template["spec"]["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    return template


def _mount_keys(template: Manifest, site: Site) -> None:
    """A Secret is a folder, which Kubernetes replaces whole: replicas see new keys without a restart."""
    folder = KEYS_FILE.rpartition("/")[0]
    template["spec"]["containers"][0]["volumeMounts"].append({"name": "keys", "mountPath": folder, "readOnly": True})
    template["spec"]["volumes"].append({"name": "keys", "secret": {"secretName": site.serve_keys}})


def _environment() -> dict[str, str]:
    """As on any node, but that KubeRay sets how Ray authenticates, from `authOptions`."""
    return {name: value for name, value in ray_environment(haproxy=True).items() if name != "RAY_AUTH_MODE"}


def _on_gpu(config: LeaderConfig) -> bool:
    return config.resources.gpus_per_worker > 0


# --- who may reach what ----------------------------------------------------------------------------------------------


def _network_policies(site: Site) -> list[Manifest]:
    """Nothing by default. Ray's pods reach each other, the operator reaches the head, Prometheus the metrics, callers
    with the label `leader/client: "true"` Serve's port."""
    ours = {"podSelector": {"matchLabels": _LABELS}}
    serving = {"ray.io/serve": "true"}
    rules = [
        ("leader-pods", _LABELS, [{"from": [ours]}]),
        (
            "leader-operator",
            {"ray.io/node-type": "head"},
            [{"from": [_all_of(site.operator_namespace)], "ports": [_port(_DASHBOARD_PORT), _port(SERVE_PORT)]}],
        ),
        (
            "leader-monitoring",
            _LABELS,
            [{"from": [_all_of(site.monitoring_namespace)], "ports": [_port(_METRICS_PORT)]}],
        ),
        (
            "leader-callers",
            serving,
            [
                {
                    "from": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"leader/client": "true"}}}],
                    "ports": [_port(SERVE_PORT)],
                }
            ],
        ),
    ]
    policies = [
        {
            **_named(site, "NetworkPolicy", "networking.k8s.io/v1", name),
            "spec": {"podSelector": {"matchLabels": dict(chosen)}, "policyTypes": ["Ingress"], "ingress": ingress},
        }
        for name, chosen, ingress in rules
    ]
    outwards = {
        **_named(site, "NetworkPolicy", "networking.k8s.io/v1", "leader-outwards"),
        "spec": {
            "podSelector": {"matchLabels": dict(_LABELS)},
            "policyTypes": ["Egress"],
            "egress": [
                {"to": [ours]},
                {"ports": [_port(53), {"protocol": "UDP", "port": 53}]},
                # The object store; Kubernetes itself, which the autoscaler asks for pods; Redis.
                {"ports": [_port(443), _port(6443), _port(int(site.redis_address.rpartition(":")[2]))]},
            ],
        },
    }
    return [*policies, outwards]


def _all_of(namespace: str) -> Manifest:
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}


def _port(number: int) -> Manifest:
    return {"protocol": "TCP", "port": number}
