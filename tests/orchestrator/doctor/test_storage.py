"""Verdicts on a store and on the credentials for it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.doctor.check import DRIVER, Check, Verdict
from orchestrator.doctor.facts import CredentialFacts, StoreFacts, Transfer
from orchestrator.doctor.storage import judge_credentials, judge_store

URI = "s3://bucket/cat"
MIB = 2**20
GOOD = StoreFacts(
    URI,
    clock_skew_s=0.2,
    keeps_checksums=True,
    upload=Transfer(32 * MIB, 0.5),
    download=Transfer(32 * MIB, 0.25),
)
RENEWED = CredentialFacts("iam-role", is_temporary=True, is_renewed=True, ends_at_s=1000.0)


def _judged(facts: StoreFacts) -> dict[str, Check]:
    return {check.name: check for check in judge_store(facts, DRIVER, hours=12, now_s=0)}


def test_a_good_store_is_ok() -> None:
    checks = _judged(GOOD)
    assert {check.verdict for check in checks.values()} == {Verdict.OK}
    assert checks["upload speed"].detail == "64 MiB/s"


def test_an_unreachable_store_is_one_fault() -> None:
    facts = StoreFacts(URI, error=f"store {URI}: no such bucket; create the bucket")
    (check,) = _judged(facts).values()
    assert (check.verdict, check.todo) == (Verdict.FAULT, "create the bucket")
    assert check.detail == f"store {URI}: no such bucket"


def test_a_store_that_is_not_the_drivers_is_a_fault() -> None:
    (check,) = _judged(replace(GOOD, is_drivers=False)).values()
    assert check.verdict is Verdict.FAULT
    assert "not the store of the driver" in check.detail


@pytest.mark.parametrize(
    ("facts", "name"),
    [
        (replace(GOOD, is_for_one_run=True), "conditional writes"),
        (replace(GOOD, keeps_checksums=False), "checksums"),
        (replace(GOOD, upload=Transfer(32 * MIB, 32.0)), "upload speed"),
        (replace(GOOD, warnings=("only 20 MiB are free",)), "store"),
    ],
)
def test_what_a_run_survives_is_a_warning(facts: StoreFacts, name: str) -> None:
    check = _judged(facts)[name]
    assert check.verdict is Verdict.WARNING
    assert check.todo


def test_a_store_with_another_clock_is_a_fault() -> None:
    check = _judged(replace(GOOD, clock_skew_s=3600.0))["clock against the store's"]
    assert (check.verdict, check.detail) == (
        Verdict.FAULT,
        "3600 s ahead",
    )


@pytest.mark.parametrize(
    ("facts", "verdict"),
    [
        (RENEWED, Verdict.OK),
        (replace(RENEWED, is_renewed=False), Verdict.WARNING),  # in 1000 s
        (replace(RENEWED, is_renewed=False, ends_at_s=13 * 3600.0), Verdict.OK),
        (replace(RENEWED, is_renewed=False, ends_at_s=-1.0), Verdict.FAULT),
        (replace(RENEWED, is_renewed=False, ends_at_s=None), Verdict.WARNING),
        (CredentialFacts("env", is_temporary=False, is_renewed=False, ends_at_s=None), Verdict.OK),
    ],
)
def test_credentials_must_last(facts: CredentialFacts, verdict: Verdict) -> None:
    assert judge_credentials(facts, DRIVER, hours=12, now_s=0).verdict is verdict
