"""Convert a Job to the JSON document that the store keeps, and back.

Readers of the store then need neither the job file nor its data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, JsonValue, ValidationError

from orchestrator.artifact import Ref, Value, canonical_json
from orchestrator.contract import Kind
from orchestrator.errors import Fault, SpecError
from orchestrator.spec.job import ExpectationText, Job, Notify, Resources, Stage, StoreOptions
from orchestrator.spec.kinds.evaluate import evaluation_of
from orchestrator.spec.kinds.tune import TUNE


class _StageDocument(Value):
    kind: str
    task: str | None = None
    """In an evaluation: the kind whose models are measured. `params` are of this kind."""
    params: dict[str, JsonValue]
    seed: int
    resources: Resources
    expect: dict[str, ExpectationText]
    params_from: str | None
    inputs: dict[str, str]
    files: dict[str, str] = Field(default_factory=dict)
    data_fingerprint: str | None = None
    published: str | None = None
    """Absent from documents that older versions wrote, before published rows existed."""


class _JobDocument(Value):
    name: str
    store: str
    seed: int
    stages: dict[str, _StageDocument]
    notify: Notify | None = None
    """Absent from documents that older versions wrote."""
    store_options: StoreOptions | None = None


def job_document(job: Job) -> dict[str, JsonValue]:
    """Return the resolved job as JSON: defaults filled in, paths absolute."""
    stages = {name: _stage_document(stage) for name, stage in job.stages.items()}
    document = _JobDocument(
        name=job.name,
        store=job.store,
        seed=job.seed,
        stages=stages,
        notify=job.notify,
        store_options=job.store_options,
    )
    return document.model_dump(mode="json")


def job_from_document(document: Mapping[str, Any], *, kinds: Mapping[str, Kind], where: str) -> Job:
    """Return the job that `job_document` was given.

    Raises SpecError, naming `where`, if the document does not fit this version's kinds.
    """
    known = {**kinds, TUNE.name: TUNE}
    try:
        parsed = _JobDocument.model_validate_json(canonical_json(document))
        stages = {name: _stage(name, stage, known) for name, stage in parsed.stages.items()}
    except (ValidationError, KeyError) as err:
        message = f"is not a job of this version; run the job again: {str(err).splitlines()[0]}"
        raise SpecError([Fault(where, None, None, "", message)]) from err
    return Job(parsed.name, parsed.store, parsed.seed, stages, parsed.notify, parsed.store_options)


def _stage_document(stage: Stage) -> _StageDocument:
    return _StageDocument(
        kind=stage.kind.name,
        task=stage.kind.evaluates.name if stage.kind.evaluates else None,
        params=stage.params.model_dump(mode="json"),
        seed=stage.seed,
        resources=stage.resources,
        expect=dict(stage.expect),
        params_from=str(stage.params_from) if stage.params_from else None,
        inputs={field: str(ref) for field, ref in stage.inputs.items()},
        files=dict(stage.files),
        data_fingerprint=stage.data_fingerprint,
        published=stage.published,
    )


def _stage(name: str, document: _StageDocument, kinds: Mapping[str, Kind]) -> Stage:
    kind = evaluation_of(kinds[document.task]) if document.task else kinds[document.kind]
    return Stage(
        name=name,
        kind=kind,
        params=kind.params.model_validate_json(canonical_json(document.params)),
        seed=document.seed,
        resources=document.resources,
        expect=document.expect,
        params_from=_ref(document.params_from) if document.params_from else None,
        inputs={field: _ref(text) for field, text in document.inputs.items()},
        files=document.files,
        data_fingerprint=document.data_fingerprint,
        published=document.published,
    )


def _ref(text: str) -> Ref:
    stage, _, output = text.rpartition(".")
    return Ref(stage, output)
