"""`notify:` in a job: its faults, its document, and that no Key depends on it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.errors import SpecError
from orchestrator.planning import plan_job
from orchestrator.spec import Job, Notify, job_document, job_from_document, load_job
from orchestrator.store import open_store
from tests.orchestrator import counting
from tests.orchestrator.spec.kinds import GOOD, KINDS, load_text

SECRET_URL = "https://hooks.example.com/services/secret"


def _load(notify: str, folder: Path, *overrides: str) -> Job:
    return load_text(GOOD.replace("seed: 7", f"notify: {notify}"), folder, *overrides)


def test_defaults_are_every_occasion_and_slack(tmp_path: Path) -> None:
    notify = _load("{url_env: CHAT_URL}", tmp_path).notify
    assert notify == Notify(url_env="CHAT_URL", on=("failed", "done", "missed"), format="slack")
    assert load_text(GOOD, tmp_path).notify is None


def test_override_removes_the_messages(tmp_path: Path) -> None:
    assert _load("{url_env: CHAT_URL}", tmp_path, "notify=null").notify is None
    changed = _load("{url_env: CHAT_URL}", tmp_path, "notify.on=[done]").notify
    assert changed is not None
    assert changed.on == ("done",)


def test_document_keeps_the_name_of_the_variable(tmp_path: Path) -> None:
    job = _load("{url_env: CHAT_URL, on: [missed], format: teams}", tmp_path)
    document = json.loads(json.dumps(job_document(job)))
    assert document["notify"] == {"url_env": "CHAT_URL", "on": ["missed"], "format": "teams"}
    assert job_from_document(document, kinds=KINDS, where="store") == job


def test_document_of_an_older_version_has_no_messages(tmp_path: Path) -> None:
    document = json.loads(json.dumps(job_document(load_text(GOOD, tmp_path))))
    del document["notify"]
    assert job_from_document(document, kinds=KINDS, where="store").notify is None


def test_every_fault_is_reported_with_its_position(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as raised:
        _load("{url: x, on: [failed, finished], formt: slack}", tmp_path)
    assert [str(fault).partition("job.yaml:")[2] for fault in raised.value.faults] == [
        "4:1: notify.url_env: is required",
        "4:10: notify.url: unknown field, did you mean 'url_env'?",
        "4:31: notify.on.1: must be 'failed', 'done' or 'missed', not 'finished'",
        "4:42: notify.formt: unknown field, did you mean 'format'?",
    ]


@pytest.mark.parametrize(
    ("notify", "fault"),
    [
        ("{url_env: CHAT_URL, on: []}", "4:33: notify.on: must not be empty; remove `notify`"),
        ("{url_env: CHAT_URL, on: done}", "4:33: notify.on: must be a list, not 'done'"),
        ("{url_env: CHAT-URL}", "4:19: notify.url_env: must be the name of an environment"),
        ("{url_env: 3}", "4:19: notify.url_env: must be the name of an environment variable"),
        ("[done]", "4:9: notify: must be a mapping such as {url_env: SLACK_WEBHOOK}"),
    ],
)
def test_wrong_value_is_a_fault(notify: str, fault: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError) as raised:
        _load(notify, tmp_path)
    assert f"job.yaml:{fault}" in str(raised.value)


@pytest.mark.parametrize(
    "notify",
    [SECRET_URL, f"{{url_env: '{SECRET_URL}'}}", f"{{url: '{SECRET_URL}'}}"],
)
def test_url_in_the_job_is_a_fault_that_does_not_show_it(notify: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError) as raised:
        _load(notify, tmp_path)
    assert "secret" not in str(raised.value).replace("is a secret", "")


def test_messages_are_not_part_of_a_key(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "content.txt").write_text("content")
    stages = "name: a\nstore: ./store\nstages: {only: {kind: count, data: data}}\n"
    keys = set()
    for text in (stages, f"notify: {{url_env: CHAT_URL}}\n{stages}"):
        (tmp_path / "job.yaml").write_text(text)
        job = load_job(tmp_path / "job.yaml", kinds=counting.KINDS, base_dir=tmp_path)
        keys.add(plan_job(job, open_store(job.store))["only"].key)
    assert len(keys) == 1
