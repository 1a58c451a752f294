"""Verdicts on a store: reachable, safe for several runs, right bytes, speed, and credentials."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from orchestrator.doctor.check import Check, Verdict
from orchestrator.doctor.facts import CredentialFacts, StoreFacts, Transfer
from orchestrator.doctor.machine import judge_clock

SLOW_MIB_PER_S = 5.0
"""A checkpoint of cat_base, 0.6 GB, then takes two minutes."""

_RENEW = "use a profile or a role, whose credentials are renewed automatically, or get new ones"
_SHARE = (
    "share one folder at the same path on all machines, or use s3://BUCKET/PREFIX with the same "
    "AWS_ENDPOINT_URL"
)


def judge_store(facts: StoreFacts, node: str, *, hours: float, now_s: float) -> Iterator[Check]:
    """`hours`: for how long credentials must still be valid at `now_s`."""
    if facts.error is not None:
        # The message of the store ends with what to do.
        what, _, todo = facts.error.partition("; ")
        yield Check("store", node, Verdict.FAULT, what, todo or "correct the store's location")
        return
    if not facts.is_drivers:
        detail = f"{facts.uri} is not the store of the driver: it lacks what the driver wrote"
        yield Check("store", node, Verdict.FAULT, detail, _SHARE)
        return
    yield Check("store", node, Verdict.OK, f"{facts.uri}: can be read and written")
    for warning in facts.warnings:
        yield Check("store", node, Verdict.WARNING, warning, "choose another store with --store")
    yield _judge_conditions(facts, node)
    if facts.keeps_checksums is not None:
        yield _judge_checksums(node, is_kept=facts.keeps_checksums)
    for what, transfer in (("upload", facts.upload), ("download", facts.download)):
        if transfer is not None:
            yield judge_speed(f"{what} speed", transfer, node, slow_mib_per_s=SLOW_MIB_PER_S)
    if facts.clock_skew_s is not None:
        yield judge_clock(facts.clock_skew_s, node, other="store")
    if facts.credentials is not None:
        yield judge_credentials(facts.credentials, node, hours=hours, now_s=now_s)


def _judge_conditions(facts: StoreFacts, node: str) -> Check:
    name = "conditional writes"
    if not facts.is_for_one_run:
        return Check(name, node, Verdict.OK, "of two writers, one wins")
    detail = (
        "the server does not support conditional puts (If-None-Match), so two runs could not agree "
        "who works on a stage"
    )
    todo = "let only one run at a time use this store, or use a server that supports them"
    return Check(name, node, Verdict.WARNING, detail, todo)


def _judge_checksums(node: str, *, is_kept: bool) -> Check:
    if is_kept:
        return Check("checksums", node, Verdict.OK, "the store reports them for whole files")
    detail = "the server reports none of what it keeps, so files are uploaded again to be sure"
    todo = "use a server, or a newer version, that supports S3's checksums"
    return Check("checksums", node, Verdict.WARNING, detail, todo)


def judge_speed(name: str, transfer: Transfer, node: str, *, slow_mib_per_s: float) -> Check:
    speed = transfer.mib_per_s
    is_slow = speed < slow_mib_per_s
    detail = f"{speed:.0f} MiB/s" if speed >= 10 else f"{speed:.1f} MiB/s"  # noqa: PLR2004  digits
    todo = f"check the network and the disk; below {slow_mib_per_s:g} MiB/s workers wait for it"
    return Check(
        name,
        node,
        Verdict.WARNING if is_slow else Verdict.OK,
        detail,
        todo if is_slow else None,
    )


def judge_credentials(facts: CredentialFacts, node: str, *, hours: float, now_s: float) -> Check:
    name = "credentials"
    if facts.is_renewed:
        return Check(name, node, Verdict.OK, f"from {facts.source}, renewed automatically")
    if facts.ends_at_s is None and not facts.is_temporary:
        return Check(name, node, Verdict.OK, f"from {facts.source}, without an end")
    if facts.ends_at_s is None:
        detail = f"temporary, from {facts.source}; when they expire is unknown"
        return Check(name, node, Verdict.WARNING, detail, _RENEW)
    left_h = (facts.ends_at_s - now_s) / 3600
    end = datetime.fromtimestamp(facts.ends_at_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
    detail = f"from {facts.source}, expire in {left_h:.1f} hours, at {end}"
    if left_h >= hours:
        return Check(name, node, Verdict.OK, detail)
    verdict = Verdict.FAULT if left_h <= 0 else Verdict.WARNING
    return Check(name, node, verdict, detail, _RENEW)
