"""The machines of deploy/clusters/aws.yaml, started by Ray's own AWS provider on a server that speaks EC2's API."""

from __future__ import annotations

from pathlib import Path

import boto3
import pytest
from ray.autoscaler._private.commands import _bootstrap_config
from ray.autoscaler._private.providers import _get_node_provider

from leader_platform import cluster_file

pytestmark = pytest.mark.slow

FILE = Path(__file__).parents[2] / "deploy/clusters/aws.yaml"


def test_each_type_of_machine_starts_with_an_encrypted_disk_that_ends_with_it(
    s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # Ray writes an SSH key there
    values = cluster_file.read(FILE)
    monkeypatch.setenv("AWS_DEFAULT_REGION", values["provider"]["region"])
    ec2 = boto3.client("ec2")
    for about in values["available_node_types"].values():
        about["node_config"]["ImageId"] = ec2.describe_images()["Images"][0]["ImageId"]
    # Ray would make a role for the head, and wait half a minute for it.
    boto3.client("iam").create_instance_profile(InstanceProfileName="head")
    values["available_node_types"]["head"]["node_config"]["IamInstanceProfile"] = {"Name": "head"}
    values["file_mounts"] = {}

    config = _bootstrap_config(values, no_config_cache=True)
    provider = _get_node_provider(config["provider"], config["cluster_name"])
    for name, about in config["available_node_types"].items():
        kind = "head" if name == config["head_node_type"] else "worker"
        provider.create_node(about["node_config"], {"ray-node-type": kind, "ray-user-node-type": name}, 1)

    resources = {name: about["resources"] for name, about in config["available_node_types"].items()}
    assert resources["head"]["CPU"] == 0
    assert resources["cpu"]["CPU"] == 8
    assert resources["gpu"]["GPU"] == 1
    machines = [one for made in ec2.describe_instances()["Reservations"] for one in made["Instances"]]
    assert sorted(one["InstanceType"] for one in machines) == ["g5.2xlarge", "m6i.2xlarge", "m6i.xlarge"]
    disks = ec2.describe_volumes()["Volumes"]
    assert [(disk["Size"], disk["Encrypted"]) for disk in disks] == [(200, True)] * 3
    assert all(disk["Ebs"]["DeleteOnTermination"] for one in machines for disk in one["BlockDeviceMappings"])
    (group,) = ec2.describe_security_groups(GroupNames=["ray-autoscaler-leader"])["SecurityGroups"]
    open_to_all = [rule["FromPort"] for rule in group["IpPermissions"] if rule["IpRanges"]]
    assert open_to_all == [22], "the rest is for machines of the cluster"
