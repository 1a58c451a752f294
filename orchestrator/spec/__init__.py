"""Parse a YAML job file into a Job, or raise one SpecError with every fault and its line.

Only the job file, and the files that it extends, are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from orchestrator.contract import Kind
from orchestrator.credentials import find_credentials
from orchestrator.spec.document import job_document, job_from_document
from orchestrator.spec.faults import Faults, Mark
from orchestrator.spec.job import (
    Expectation,
    Job,
    Notify,
    Resources,
    Source,
    Stage,
    StoreOptions,
    template_params,
    usable_counts,
)
from orchestrator.spec.kinds.evaluate import EVALUATE, EvaluateParams
from orchestrator.spec.kinds.space import Distribution
from orchestrator.spec.kinds.tune import BEST_CHECKPOINT, TUNE, TuneParams
from orchestrator.spec.resolve.job import resolve_job
from orchestrator.spec.resolve.matrix import cells_named
from orchestrator.spec.yaml.loader import (
    apply_overrides,
    credential_fault,
    load_extended_tree,
    parse_overrides,
)

__all__ = [
    "BEST_CHECKPOINT",
    "EVALUATE",
    "TUNE",
    "Distribution",
    "EvaluateParams",
    "Expectation",
    "Job",
    "Notify",
    "Resources",
    "Source",
    "Stage",
    "StoreOptions",
    "TuneParams",
    "cells_named",
    "job_document",
    "job_from_document",
    "load_job",
    "template_params",
    "usable_counts",
]


def load_job(
    path: Path,
    *,
    kinds: Mapping[str, Kind],
    published: Mapping[str, str] = MappingProxyType({}),
    overrides: Sequence[str] = (),
    store: str | None = None,
    base_dir: Path | None,
) -> Job:
    """Return the job of a file. Raises SpecError with all faults of the file, `overrides` and
    `store`.

    `published` maps the ids that a stage's `published` may name to their kinds. `overrides` are
    strings `PATH=VALUE`. `store` takes precedence over the file's. Relative folders are resolved
    against `base_dir`; if it is None, they are faults.
    """
    faults = Faults()
    contents: list[bytes] = []
    tree = load_extended_tree(path, faults, contents)
    parsed = parse_overrides(overrides, faults)
    if credentials := find_credentials(store or ""):
        faults.add(Mark("--store"), "", credential_fault(credentials[0]))
        faults.raise_if_any()
    job = None
    if tree is not None:
        tree = apply_overrides(tree, parsed, faults)
        inside = Faults()
        job = resolve_job(
            tree, kinds=kinds, published=published, store=store, base_dir=base_dir, faults=inside
        )
        faults.extend_elsewhere(inside)
    faults.raise_if_any()
    assert job is not None, "no faults, but no job"
    return replace(job, source=Source(tuple(contents), tuple(overrides)))
