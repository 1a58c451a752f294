"""deploy/aws.yaml, by Ray's own schema and by the parameters of EC2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import botocore.session
import jsonschema
import pytest
import ray.autoscaler
from botocore.validate import ParamValidator

from tests.deploy.files import DEPLOY, load_yaml

CONFIGURATION = load_yaml((DEPLOY / "aws.yaml").read_text())
NODES = CONFIGURATION["available_node_types"]


def test_ray_accepts_the_configuration() -> None:
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.Draft7Validator(schema).validate(CONFIGURATION)
    assert CONFIGURATION["head_node_type"] in NODES


@pytest.mark.parametrize("node", NODES)
def test_ec2_has_each_parameter_of_a_node(node: str) -> None:
    model = botocore.session.get_session().get_service_model("ec2")
    given = {**NODES[node]["node_config"], "MinCount": 1, "MaxCount": 1}
    report = ParamValidator().validate(given, model.operation_model("RunInstances").input_shape)
    assert report.generate_report() == ""


def test_only_workers_are_spot_instances_and_have_cpus() -> None:
    market: dict[str, Any] = NODES["gpu"]["node_config"]["InstanceMarketOptions"]
    assert market == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in NODES["head"]["node_config"]
    assert NODES["head"]["resources"] == {"CPU": 0}


def test_every_node_asks_for_the_token() -> None:
    commands = [
        *CONFIGURATION["head_start_ray_commands"],
        *CONFIGURATION["worker_start_ray_commands"],
    ]
    starts = [command for command in commands if "ray start" in command]
    assert len(starts) == 2
    assert all(command.startswith("RAY_AUTH_MODE=token ray start ") for command in starts)
    assert CONFIGURATION["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
