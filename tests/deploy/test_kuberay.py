"""deploy/kuberay: our own strict models, Kubernetes's schema of pods, and KubeRay's own schemas
where they are present."""

from __future__ import annotations

import os
import re
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest

from tests.deploy.files import DEPLOY, ROOT, load_yaml
from tests.deploy.ray_resources import ClusterSpec, RayCluster, RayJob

KUBERAY = DEPLOY / "kuberay"
SCHEMAS = Path(os.environ.get("KUBERAY_CRDS", ROOT.parent / "shared" / "kuberay"))
"""KubeRay's CustomResourceDefinitions, which are not a part of this repository."""
MANIFESTS: dict[str, type[RayJob] | type[RayCluster]] = {
    "ray-job.yaml": RayJob,
    "ray-cluster.yaml": RayCluster,
}
PLURAL = {"RayJob": "rayjobs", "RayCluster": "rayclusters"}


def text_of(name: str, *, with_kueue: bool = False) -> str:
    """A manifest; with Kueue, its optional lines are uncommented as a user would."""
    text = (KUBERAY / name).read_text()
    return re.sub(r"# (?= *annotations:| *kueue\.)", "", text) if with_kueue else text


def cluster_of(name: str) -> ClusterSpec:
    return MANIFESTS[name].model_validate(load_yaml(text_of(name))).cluster


@cache
def _kuberays_schema(kind: str) -> Any:
    """KubeRay's schema of a resource, or None where it is not present."""
    path = SCHEMAS / f"ray.io_{PLURAL[kind]}.yaml"
    if not path.exists():
        return None
    versions = load_yaml(path.read_text())["spec"]["versions"]
    (schema,) = (one["schema"]["openAPIV3Schema"] for one in versions if one["name"] == "v1")
    return _closed(schema)


def _closed(schema: Any) -> Any:
    """The schema without Kubernetes's extensions. It refuses unknown fields, as the API server
    does, except where the extensions allow any."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string") is True:
        return {"type": ["integer", "string"]}
    closed = {name: _closed(part) for name, part in schema.items() if not name.startswith("x-")}
    is_object = isinstance(schema.get("properties"), dict) and schema.get("type") == "object"
    return {**closed, "additionalProperties": False} if is_object else closed


@pytest.mark.parametrize("with_kueue", [False, True])
@pytest.mark.parametrize("name", MANIFESTS)
def test_manifest_has_only_known_fields(name: str, with_kueue: bool) -> None:
    manifest = load_yaml(text_of(name, with_kueue=with_kueue))
    checked = MANIFESTS[name].model_validate(manifest)
    assert ("kueue.x-k8s.io/queue-name" in checked.metadata.labels) is with_kueue
    assert bool(checked.metadata.annotations) is with_kueue
    if schema := _kuberays_schema(manifest["kind"]):
        jsonschema.Draft202012Validator(schema).validate(manifest)


def _pod(spec: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": spec}


@pytest.mark.parametrize("name", MANIFESTS)
def test_kubernetes_accepts_each_pod(name: str) -> None:
    cluster = cluster_of(name)
    for group in (cluster.head_group_spec, *cluster.worker_group_specs):
        kubernetes_validate.validate(_pod(group.template.spec), "1.35", strict=True)


def test_a_wrong_field_of_a_pod_is_found() -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "pod"},
        "spec": {"container": []},
    }
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pod, "1.35", strict=True)


@pytest.mark.parametrize("name", MANIFESTS)
def test_pods_are_not_root_and_have_memory_for_shm(name: str) -> None:
    cluster = cluster_of(name)
    for group in (cluster.head_group_spec, *cluster.worker_group_specs):
        spec = group.template.spec
        (container,) = spec["containers"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert container["resources"]["requests"] == container["resources"]["limits"]
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        (shm,) = (volume for volume in spec["volumes"] if volume["name"] == mounts["/dev/shm"])
        assert shm["emptyDir"]["medium"] == "Memory"
        assert not container.get("env"), "secrets come by reference, in envFrom"
    assert cluster.head_group_spec.ray_start_params["num-cpus"] == "0"


def test_job_and_cluster_have_the_same_nodes() -> None:
    job, cluster = cluster_of("ray-job.yaml"), cluster_of("ray-cluster.yaml")
    assert job.worker_group_specs == cluster.worker_group_specs
    assert job.ray_version == cluster.ray_version == version("ray")
    own = _without_the_jobs_file(job.head_group_spec.template.spec)
    assert own == cluster.head_group_spec.template.spec


def _without_the_jobs_file(spec: Any) -> Any:
    """Only a RayJob needs it: `ray job submit` brings the file of its job."""
    (container,) = spec["containers"]
    mounts = [mount for mount in container["volumeMounts"] if mount["name"] != "job"]
    volumes = [volume for volume in spec["volumes"] if volume["name"] != "job"]
    return {**spec, "containers": [{**container, "volumeMounts": mounts}], "volumes": volumes}
