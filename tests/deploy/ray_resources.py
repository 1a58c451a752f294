"""The parts of KubeRay's resources that deploy/kuberay uses, as strict models: a field that is not
here is a typing error in a manifest, or needs a look at KubeRay's reference first."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

PodSpec = dict[str, Any]
"""Checked by Kubernetes's own schema instead."""
Text = Annotated[str, Field(strict=True, min_length=1)]
Count = Annotated[int, Field(strict=True, ge=0)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel)


class Metadata(Strict):
    name: Text
    labels: dict[Literal["app.kubernetes.io/name", "kueue.x-k8s.io/queue-name"], Text]
    annotations: dict[Literal["kueue.x-k8s.io/elastic-job"], Literal["true"]] = {}


class PodTemplate(Strict):
    spec: PodSpec


class AuthOptions(Strict):
    mode: Literal["token"]


class AutoscalerOptions(Strict):
    version: Literal["v2"]
    idle_timeout_seconds: Count


class HeadGroup(Strict):
    ray_start_params: dict[Text, Text]
    """Flags of `ray start` without the dashes; KubeRay takes only strings."""
    template: PodTemplate


class WorkerGroup(HeadGroup):
    group_name: Text
    replicas: Count
    min_replicas: Count
    max_replicas: Count

    @model_validator(mode="after")
    def _counts_are_ordered(self) -> WorkerGroup:
        assert self.min_replicas <= self.replicas <= self.max_replicas
        return self


class ClusterSpec(Strict):
    ray_version: Text
    auth_options: AuthOptions
    enable_in_tree_autoscaling: Literal[True]
    autoscaler_options: AutoscalerOptions
    head_group_spec: HeadGroup
    worker_group_specs: Annotated[tuple[WorkerGroup, ...], Field(min_length=1)]


class RayCluster(Strict):
    api_version: Literal["ray.io/v1"]
    kind: Literal["RayCluster"]
    metadata: Metadata
    spec: ClusterSpec

    @property
    def cluster(self) -> ClusterSpec:
        return self.spec


class JobSpec(Strict):
    entrypoint: Text
    submission_mode: Literal["K8sJobMode"]
    runtime_env_yaml: Annotated[Text, Field(alias="runtimeEnvYAML")]
    backoff_limit: Count
    shutdown_after_job_finishes: Literal[True]
    ttl_seconds_after_finished: Count
    ray_cluster_spec: ClusterSpec


class RayJob(Strict):
    api_version: Literal["ray.io/v1"]
    kind: Literal["RayJob"]
    metadata: Metadata
    spec: JobSpec

    @property
    def cluster(self) -> ClusterSpec:
        return self.spec.ray_cluster_spec
