"""The generated parts of docs/reference. `make docs` runs them through cog."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Mapping
from contextlib import redirect_stdout, suppress
from pathlib import Path
from textwrap import fill
from typing import Any
from unittest.mock import patch

from orchestrator.artifact import unit_of
from orchestrator.cli import VERBS
from orchestrator.cli.arguments import parse_arguments
from orchestrator.cli.artifacts import VERBS as ARTIFACT_VERBS
from orchestrator.contract import Kind, Role
from orchestrator.errors import OrchestratorError
from orchestrator.monitoring.alerts import ALERTS
from orchestrator.monitoring.metrics import METRICS
from orchestrator.spec.kinds.evaluate import EVALUATE
from orchestrator.spec.kinds.tune import TUNE
from orchestrator.spec.resolve.draft import Common
from orchestrator.spec.schema import field_docstrings, job_schema
from pipelines import KINDS
from pipelines.details.params import DetailParams

ROOT = Path(__file__).parents[2]
WIDTH = 100
ALL_KINDS: Mapping[str, Kind] = {**KINDS, TUNE.name: TUNE, EVALUATE.name: EVALUATE}
COMMON_FIELDS = {*Common.model_fields, "kind", "matrix"}


def stage_fields() -> str:
    """A list of the fields that stages of every kind have."""
    properties = _definitions()["stage-pretrain"]["properties"]
    return _list(
        {name: properties[name] for name in properties if name in COMMON_FIELDS - {"kind"}}
    )


def fields_of(definition: str) -> str:
    """A list of the fields of one definition of the schema, such as `Resources`."""
    return _list(_properties(_definitions()[definition]))


def params(kind: str) -> str:
    """A list of the params of a kind."""
    model = ALL_KINDS[kind].params
    properties = _definitions()[f"stage-{kind}"]["properties"]
    outside_key = set(model.fields_with(Role.OUTSIDE_KEY))
    return _list(
        {name: properties[name] for name in properties if name in model.model_fields},
        outside_key,
    )


def evaluation_params() -> str:
    """A list of the params that every evaluation has in addition to its kind's."""
    texts = field_docstrings(DetailParams)
    fields = DetailParams.model_json_schema()["properties"]
    return _list({name: {**fields[name], "description": texts[name]} for name in fields})


def metrics() -> str:
    """A table of every metric: unit, the better direction, the kinds that publish it."""
    kinds: dict[str, list[str]] = {}
    for kind in KINDS.values():
        assert kind.evaluation is not None
        every = {"method": "mask_rcnn", "tta": True}
        trained = kind.metrics(kind.params.model_construct(None, **every))
        evaluated = kind.evaluation.metrics(kind.params.model_construct(None, **every))
        for name in dict.fromkeys([*trained, *evaluated]):
            evaluation = [] if name in trained else ["(evaluate)"]
            kinds.setdefault(name, []).append(" ".join([f"`{kind.name}`", *evaluation]))
    lowest = frozenset().union(*(kind.less_is_better for kind in KINDS.values()))
    rows = (
        f"| `{name}` | {unit_of(name)} | {'less' if name in lowest else 'more'} | {', '.join(of)} |"
        for name, of in kinds.items()
    )
    return _lines(["| metric | unit | better | published by |", "|---|---|---|---|", *rows])


def live_metrics() -> str:
    """A list of the metrics that Prometheus gets."""
    items = []
    for metric in METRICS:
        tags = ", ".join(f"`{tag}`" for tag in metric.tags)
        facts = [metric.type.value, metric.unit, *(["only on GPUs"] if metric.needs_gpu else [])]
        items.append(f"- **`{metric.series}`** ({'; '.join([*facts, tags])}): {metric.help}")
    return _lines(_wrapped(item) for item in items)


def alerts() -> str:
    """A list of the alerts, with what they say about a stage `coco` of the job `cat`."""
    items = []
    for alert in ALERTS:
        summary = re.sub(r"{{ \$value [^}]*}}", "N", alert.summary)
        for tag, name in {"orchestrator_job": "cat", "stage": "coco"}.items():
            summary = summary.replace(f"{{{{ $labels.{tag} }}}}", name)
        after = f", after {alert.for_s} s" if alert.for_s else ""
        items.append(f"- **`{alert.name}`** ({alert.severity}{after}): {summary}. {alert.action}")
    return _lines(_wrapped(item) for item in items)


def options() -> str:
    """The help text of each verb, as the command prints it in a terminal of 80 columns."""
    below = {"artifacts": [f"artifacts {verb}" for verb in ARTIFACT_VERBS]}
    names = (name for verb in VERBS for name in (verb, *below.get(verb, ())))
    return "\n".join(f"### {name}\n\n```text\n{_help(name)}```\n" for name in names)


def exit_codes() -> str:
    """A table of the exit codes, with the errors that end with each."""
    meanings = {
        0: "done",
        1: "a stage failed, or with `--strict` an expectation was missed",
        2: "the job or its data is wrong",
        3: "the store, the cluster or a machine failed or cannot be reached",
        130: "interrupted by Ctrl-C or SIGTERM",
    }
    errors: dict[int, list[str]] = {code: [] for code in meanings}
    for error in subclasses(OrchestratorError):
        errors[error.exit_code].append(f"`{error.__name__}`")
    rows = (f"| {code} | {meanings[code]} | {', '.join(errors[code])} |" for code in meanings)
    return _lines(["| exit code | meaning | errors |", "|---|---|---|", *rows])


def decisions() -> str:
    """A list of the decision records, with the line on date and status."""
    lines = []
    for page in sorted((ROOT / "docs" / "decisions").glob("0*.md")):
        title, _, status, *_ = page.read_text().splitlines()
        text = f"[{title.removeprefix('# ')}]({page.name}), {status}"
        lines.append(_wrapped(f"- {text}"))
    return _lines(lines)


def _definitions() -> dict[str, Any]:
    definitions: dict[str, Any] = job_schema(KINDS)["$defs"]
    return definitions


def _properties(definition: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a definition, or of the first of its alternatives that has some."""
    if "properties" in definition:
        properties: dict[str, Any] = definition["properties"]
        return properties
    return next(_properties(one) for one in definition["anyOf"] if "properties" in one)


def _list(properties: Mapping[str, Any], outside_key: Iterable[str] = ()) -> str:
    return _lines(
        _item(name, field, is_in_key=name not in outside_key) for name, field in properties.items()
    )


def _item(name: str, field: Mapping[str, Any], *, is_in_key: bool) -> str:
    facts = [
        _type_of(field),
        *([f"default `{_yaml(field['default'])}`"] if _has_default(field) else []),
        *([] if is_in_key else ["not in the Key"]),
    ]
    text = f"- **`{name}`** ({'; '.join(facts)}): {' '.join(field.get('description', '').split())}"
    return _wrapped(text.rstrip(": "))


def _wrapped(item: str) -> str:
    """The item of a list in lines of at most WIDTH columns."""
    return fill(item, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _has_default(field: Mapping[str, Any]) -> bool:
    """Whether the default is worth showing: an empty mapping or a model of defaults is not."""
    return "default" in field and not isinstance(field["default"], dict)


def _yaml(value: object) -> str:
    return json.dumps(value)


def _type_of(field: Mapping[str, Any]) -> str:  # noqa: PLR0911 - one return for each form
    """The values that a field takes, in words."""
    if "anyOf" in field or "oneOf" in field:
        types = [_type_of(one) for one in field.get("anyOf", field.get("oneOf"))]
        return ", or ".join(dict.fromkeys(types))
    if "$ref" in field:
        definition = field["$ref"].rpartition("/")[2]
        return "any value" if definition == "JsonValue" else f"a mapping, `{definition}`"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    if "prefixItems" in field:
        return f"a list of {len(field['prefixItems'])}, each {_type_of(field['prefixItems'][0])}"
    if field.get("type") == "array":
        return f"a list, each {_type_of(field['items'])}"
    names = {
        "object": "a mapping",
        "string": "text",
        "null": "`null`",
        "boolean": "`true`, `false`",
    }
    return " ".join(
        [names.get(str(field.get("type")), field.get("type", "any value")), *_range_of(field)]
    )


def _range_of(field: Mapping[str, Any]) -> list[str]:
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    texts = [f"{sign} {field[bound]}" for bound, sign in bounds.items() if bound in field]
    return [" and ".join(texts)] if texts else []


def _help(verb: str) -> str:
    output = io.StringIO()
    columns = patch.dict("os.environ", COLUMNS="80")
    with columns, redirect_stdout(output), suppress(SystemExit):
        parse_arguments([*verb.split(), "--help"])
    return re.sub(r"^usage: \S+ ", "usage: orchestrator ", output.getvalue())


def subclasses(error: type[OrchestratorError]) -> list[type[OrchestratorError]]:
    return [error, *(one for child in error.__subclasses__() for one in subclasses(child))]


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
