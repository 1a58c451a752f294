"""The choice that these verbs share: a job's stages in its store, or one Key of a store."""

from __future__ import annotations

import argparse
import re
import shlex
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.artifact import Manifest
from orchestrator.artifacts.listing import stored_keys
from orchestrator.cli.job import load, store_at
from orchestrator.cli.options import Parsers, add_job_options
from orchestrator.errors import Fault, JobError, SpecError
from orchestrator.runs.last_run import load_last_run
from orchestrator.spec.faults import shown, suggestion
from orchestrator.store import Store, open_store
from orchestrator.store.publish import load_manifest

KEY_LENGTH = 64
SHORT_KEY = 8
_DIGITS = re.compile(r"[0-9a-f]{1,64}")


@dataclass(frozen=True)
class Chosen:
    """A store, and what a command is about in it."""

    store: Store
    job: str | None
    """The name of the job; None with `--key`."""
    keys: Mapping[str, str]
    """The Keys by stage: those of the job's last run, or the one of `--key`."""

    def key(self, stage: str) -> str:
        """Return the Key of a stage. Raises JobError if the stage is unknown."""
        if stage not in self.keys:
            known = suggestion(stage, self.keys)
            raise JobError(f"{self.job or self.store.uri}: unknown stage {stage!r}{known}")
        return self.keys[stage]

    def manifest(self, stage: str) -> Manifest:
        """Return the manifest of a stage. Raises JobError if the stage is unknown or not
        finished."""
        key = self.key(stage)
        manifest = load_manifest(self.store, key)
        if manifest is None:
            what = f"{stage} ({key[:SHORT_KEY]}) is not finished"
            raise JobError(f"store {self.store.uri}: {what}; `orchestrator run` finishes it")
        return manifest


def add_verb(
    parsers: Parsers,
    name: str,
    text: str,
    *,
    has_key: bool,
    needs_job: bool = True,
    has_name: bool = True,
) -> argparse.ArgumentParser:
    """Add a verb with JOB and its options, or with `--key` instead of JOB."""
    verb = parsers.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    if has_key:
        verb.set_defaults(job=None)
    else:
        nargs, more = (None, "") if needs_job else ("?", "; without it, all of --store")
        verb.add_argument(
            "job", metavar="JOB", type=Path, nargs=nargs, help=f"a YAML job file{more}"
        )
    add_job_options(verb, has_name=has_name)
    verb.add_argument(
        "--key", metavar="KEY", help="a Key in --store, or its first digits, instead of JOB"
    )
    verb.add_argument("--json", action="store_true", help="print only JSON on stdout")
    return verb


def add_stage_verb(
    parsers: Parsers, name: str, text: str, *, has_key: bool
) -> argparse.ArgumentParser:
    """Add a verb with JOB and STAGE, or with `--key` instead of both."""
    verb = add_verb(parsers, name, text, has_key=has_key)
    if has_key:
        verb.set_defaults(stage=None)
    else:
        verb.add_argument("stage", metavar="STAGE", help="a stage of the job")
    return verb


def only_stage(arguments: Namespace, chosen: Chosen) -> str:
    """Return STAGE, or the stage of `--key`."""
    stage: str = arguments.stage or next(iter(chosen.keys))
    return stage


def run_command(arguments: Namespace, chosen: Chosen) -> str:
    """Return the command that makes the results of the job again, in the same store."""
    overrides = (word for override in arguments.overrides for word in ("--set", override))
    job = str(arguments.job or "JOB")
    return shlex.join(["orchestrator", "run", job, *overrides, "--store", chosen.store.uri])


def choose(arguments: Namespace) -> Chosen:
    """Return the stages that JOB or `--key` names.

    Raises SpecError for options that do not fit, JobError if the job never ran with this store or
    the Key does not exist.
    """
    if arguments.key is not None:
        return _one_key(chosen_store(arguments, "--key"), arguments.key)
    job = load(arguments)
    store = open_store(job.store)
    last = load_last_run(store, job.name)
    if last is None:
        raise JobError(f"{job.name}: has not run with the store {store.uri}")
    return Chosen(store, job.name, {name: stage.key for name, stage in last.stages.items()})


def chosen_store(arguments: Namespace, needed_by: str) -> Store:
    """Return the store of `--store`. Raises SpecError without it."""
    if arguments.store is None:
        raise _fault(needed_by, "needs --store URI")
    return store_at(arguments.store)


def _one_key(store: Store, start: str) -> Chosen:
    if not _DIGITS.fullmatch(start):
        raise _fault("--key", f"must be hexadecimal digits, not {shown(start)}")
    keys = [start] if len(start) == KEY_LENGTH else _keys_from(store, start)
    if len(keys) > 1:
        raise _fault("--key", f"{start} begins {len(keys)} Keys; give more digits")
    manifest = load_manifest(store, keys[0]) if keys else None
    if manifest is None:
        raise JobError(f"store {store.uri}: has no manifest whose Key begins with {start}")
    return Chosen(store, None, {manifest.stage: manifest.key})


def _keys_from(store: Store, start: str) -> list[str]:
    return [key for key in stored_keys(store) if key.startswith(start)]


def _fault(option: str, message: str) -> SpecError:
    return SpecError([Fault(option, None, None, "", message)])
