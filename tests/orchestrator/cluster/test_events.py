"""Events and stop requests when the actor that carries them is slow or gone."""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator

import pytest
import ray

from orchestrator.cluster.connection import connected
from orchestrator.cluster.events import EventChannel
from orchestrator.contract import Event
from orchestrator.runs.record import StageEvent


@pytest.fixture
def channel(cluster_address: str) -> Iterator[EventChannel]:
    with connected(cluster_address):
        yield EventChannel("tested")


def _event(text: str) -> StageEvent:
    return StageEvent("only", 1, 0.0, Event(text))


def _keep_busy(channel: EventChannel, for_s: float) -> None:
    channel._actor.__ray_call__.remote(lambda _: time.sleep(for_s))


def test_events_of_a_late_answer_arrive_with_the_next_call(channel: EventChannel) -> None:
    channel.send(_event("first"))
    _keep_busy(channel, 5)
    heard = channel.drain(timeout_s=0.1)
    channel.send(_event("second"))
    heard += channel.drain(timeout_s=60)
    assert [event.event.text for event in heard] == ["first", "second"]


def test_channel_pickles_while_an_answer_is_pending(channel: EventChannel) -> None:
    _keep_busy(channel, 5)
    channel.drain(timeout_s=0.1)
    there: EventChannel = pickle.loads(pickle.dumps(channel))
    there.send(_event("from a worker"))
    heard = channel.drain(timeout_s=60)
    heard += channel.drain(timeout_s=60)
    assert [event.event.text for event in heard] == ["from a worker"]


def test_stop_request_reaches_workers_through_the_actor(channel: EventChannel) -> None:
    there: EventChannel = pickle.loads(pickle.dumps(channel))
    assert not there.is_stopping("first", timeout_s=60)
    channel.request_stop()
    assert there.is_stopping("first", timeout_s=60)
    assert there.is_interrupted(timeout_s=60)
    ray.kill(channel._actor)
    assert channel.is_stopping("first")


def test_stop_request_for_a_stage_reaches_only_its_workers(channel: EventChannel) -> None:
    there: EventChannel = pickle.loads(pickle.dumps(channel))
    channel.request_stop("first")
    assert there.is_stopping("first", timeout_s=60)
    assert not there.is_stopping("second", timeout_s=60)
    assert not there.is_interrupted(timeout_s=60)


def test_stage_that_starts_again_is_not_asked_to_stop(channel: EventChannel) -> None:
    there: EventChannel = pickle.loads(pickle.dumps(channel))
    for stage in ("first", "second"):
        channel.request_stop(stage)
    channel.allow("first")
    assert not there.is_stopping("first", timeout_s=60)
    assert there.is_stopping("second", timeout_s=60)


def test_channel_without_its_actor_returns_no_events(channel: EventChannel) -> None:
    ray.kill(channel._actor)
    channel.send(_event("lost"))
    assert channel.drain() == []
