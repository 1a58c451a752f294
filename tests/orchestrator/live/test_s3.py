"""The live page of a job whose store is in S3: an outage, and what it asks S3 for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.conftest import make_bucket
from tests.orchestrator.live.serving import WrittenRun, complete_updates, serving, updates
from tests.s3_front import Answer, Front, front, refusal


@pytest.fixture
def away() -> threading.Event:
    """Set while S3 refuses everything."""
    return threading.Event()


@pytest.fixture
def s3(s3_endpoint: str, away: threading.Event, monkeypatch: pytest.MonkeyPatch) -> Iterator[Front]:
    def answer(method: str, path: str, headers: Mapping[str, str]) -> Answer | None:
        return refusal(403, "AccessDenied") if away.is_set() else None

    with front(answer, behind=s3_endpoint) as s3:
        monkeypatch.setenv("AWS_ENDPOINT_URL", s3.url)
        yield s3


@pytest.fixture
def run(s3: Front, tmp_path: Path) -> WrittenRun:
    run = WrittenRun(tmp_path, f"s3://{make_bucket('bucket')}/cat")
    run.begin()
    run.hear(1)
    return run


def await_true(is_reached: Callable[[], object]) -> None:
    deadline = time.monotonic() + 300
    while not is_reached():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_an_outage_of_s3_is_named_until_it_ends(run: WrittenRun, away: threading.Event) -> None:
    with serving(run) as port:
        before = complete_updates(port)
        away.set()
        await_true(lambda: updates(port)["trouble"])
        during = updates(port)
        assert during["trouble"]["what"] == "store unreachable"
        assert "AccessDenied" in during["trouble"]["text"]
        assert during["names"] == before["names"]
        away.clear()
        await_true(lambda: updates(port)["trouble"] is None)


def test_each_batch_of_events_is_read_once(run: WrittenRun, s3: Front) -> None:
    with serving(run) as port:
        complete_updates(port)
        s3.requests.clear()
        run.hear(2)
        run.hear(3)
        await_true(lambda: "(3 points)" in updates(port)["sections"]["stage-1"])
    read = [path for method, path in s3.requests if method == "GET" and "/events/" in path]
    found = {path: read.count(path) for path in read if path.partition("?")[0].endswith("1.jsonl")}
    assert found == {}, "the first batch was known"
    assert {method for method, path in s3.requests if "events" not in path} <= {"GET", "PUT"}
