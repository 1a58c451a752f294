"""What the stages of a job read from outside it, as questions that a machine can answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

from orchestrator.artifact import digest_of
from orchestrator.capacity import Machine
from orchestrator.contract import Kind, Params, Role
from orchestrator.errors import DataError
from orchestrator.fleet import place
from orchestrator.spec import Job, Stage, template_params
from orchestrator.store.outside import digest_outside


@dataclass(frozen=True)
class DataQuestion:
    """Data that some stages read."""

    location: str
    """A path, `s3://BUCKET/PREFIX`, or the name of a sample."""
    stages: tuple[str, ...]
    fingerprint: Callable[[], str]
    """Reads the data as a worker does before it begins. Raises DataError."""
    stated: str | None = None
    """The fingerprint that the job states; the driver then does not need the data."""

    def answer(self) -> str:
        """Return the fingerprint. Raises DataError if the data cannot be read, or differ from what
        the job states."""
        found = self.fingerprint()
        if self.stated not in (None, found):
            raise DataError(
                f"{self.location}: the job's data_fingerprint is {self.stated}, but the data have "
                f"{found}; correct the field or the data"
            )
        return found


class _Read(NamedTuple):
    key: str
    """Equal for stages that read the same data in the same way."""
    question: DataQuestion


def questions_of_driver(job: Job) -> tuple[DataQuestion, ...]:
    """Return the data that the driver reads to plan the job."""
    found = questions_of_stages(job, job.stages.values())
    return tuple(question for question in found if question.stated is None)


def questions_of_machine(job: Job, machine: Machine) -> tuple[DataQuestion, ...]:
    """Return the data of the stages whose workers fit on a machine."""
    stages = [
        stage
        for stage in job.stages.values()
        if place(stage.resources, (machine,), num_workers=1) is not None
    ]
    return questions_of_stages(job, stages)


def questions_of_stages(job: Job, stages: Iterable[Stage]) -> tuple[DataQuestion, ...]:
    """Return what these stages read. What several of them read is one question."""
    found: dict[str, DataQuestion] = {}
    for read in (read for stage in stages for read in _reads_of(job, stage)):
        known = found.get(read.key)
        stages_of_both = (*(known.stages if known else ()), *read.question.stages)
        found[read.key] = replace(read.question, stages=stages_of_both)
    return tuple(found.values())


def _reads_of(job: Job, stage: Stage) -> Iterator[_Read]:
    search = stage.search
    template = job.stages[search.of] if search else stage
    params = template_params(job, stage) if search else stage.params
    stated = stage.data_fingerprint or (template.data_fingerprint if search else None)
    fields = {name: getattr(params, name) for name in params.fields_with(Role.DATA)}
    locations = [str(value) for value in fields.values() if value is not None]
    if locations:
        read = partial(_fingerprint, template.kind, params)
        question = DataQuestion(locations[0], (stage.name,), read, stated)
        also = params.model_dump(mode="json", include=set(params.fingerprinted))
        name = f"{template.kind.fingerprint.__module__}.{template.kind.fingerprint.__qualname__}"
        yield _Read(digest_of([name, *locations, also, stated]), question)
    for location in stage.files.values():
        file = DataQuestion(location, (stage.name,), partial(digest_outside, location))
        yield _Read(location, file)


def _fingerprint(kind: Kind, params: Params) -> str:
    """The digest of the data, and of other files that the params name."""
    digest, files = kind.fingerprint(params), kind.reads(params)
    return digest_of([digest, dict(files)]) if files else digest
