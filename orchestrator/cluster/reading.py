"""Whether what an attempt reads from outside the store is still that of which its Key was made."""

from __future__ import annotations

import socket
from collections.abc import Iterator

from orchestrator.cluster.attempt import Attempt
from orchestrator.contract import Role
from orchestrator.errors import DataError

_SHOWN = 12
"""Hexadecimal digits of a digest in a message."""


def check_read(attempt: Attempt) -> None:
    """Raises DataError unless data and files here are those of the Key.

    Data in a folder that the plan itself looked at are not read again: that takes minutes for ImageNet on a network
    drive. Data in S3 are, by a listing, and so are the small files that params name.
    """
    if attempt.stated_data is not None:
        _check_stated(attempt, attempt.stated_data)
    elif _names_remote_data(attempt):
        _check_planned(attempt, "its data", str(attempt.recipe["data"]), attempt.fingerprint(attempt.params))
    for field, digest in attempt.reads(attempt.params).items():
        _check_planned(attempt, field, str(attempt.recipe["inputs"][field]["sha256"]), digest)


def _check_stated(attempt: Attempt, stated: str) -> None:
    found = attempt.fingerprint(attempt.params)
    if found != stated:
        raise DataError(
            f"stages.{attempt.stage}.data_fingerprint is {stated}, but the data on {socket.gethostname()} "
            f"have {found}; correct the field, or the data"
        )


def _check_planned(attempt: Attempt, what: str, planned: str, found: str) -> None:
    if found != planned:
        raise DataError(
            f"stages.{attempt.stage}: {what} changed after the run had been planned, from {planned[:_SHOWN]}... to "
            f"{found[:_SHOWN]}..., and its Key would name what it did not read; run the job again, which plans anew"
        )


def _names_remote_data(attempt: Attempt) -> bool:
    return any(str(place).startswith("s3://") for place in _data_places(attempt))


def _data_places(attempt: Attempt) -> Iterator[object]:
    return (getattr(attempt.params, field) for field in attempt.params.fields_with(Role.DATA))
