"""The resume state of a stage as one owner of the stage writes it."""

from __future__ import annotations

from typing import NamedTuple


class Training(NamedTuple):
    """The resume state of a stage, or of a trial of a search, for the owner with `token`.

    The names of checkpoints and logs end in the token of their writer. So an earlier owner that was
    paused and wakes up cannot change what a later one wrote, and readers prefer the later one's.
    """

    folder: str
    """`train/<key>`, or `train/<key>/trials/<id>` for a trial."""
    token: int
    """The token of the owner's lease."""


def token_suffix(token: int) -> str:
    """The end of a name that tells its writer. Empty for the first owner, and for versions without
    leases."""
    return f"-{token}" if token > 1 else ""
