"""How long an interrupted run may wait, which depends on who sent the signal."""

from __future__ import annotations

import pytest

from orchestrator.submission import stop_grace_s


@pytest.mark.parametrize(
    ("environment", "grace_s"),
    [
        ({}, 60),
        ({"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}"}, 2),
        ({"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}", "RAY_JOB_STOP_WAIT_TIME_S": "120"}, 119),
        ({"RAY_JOB_STOP_WAIT_TIME_S": "0"}, 0),
        ({"RAY_JOB_STOP_WAIT_TIME_S": "soon"}, 60),
    ],
)
def test_a_run_waits_a_second_less_than_ray_does(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], grace_s: float
) -> None:
    for name in ("RAY_JOB_CONFIG_JSON_ENV_VAR", "RAY_JOB_STOP_WAIT_TIME_S"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert stop_grace_s() == grace_s
