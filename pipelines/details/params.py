"""The params of an evaluation that choose the content of its output `details`. Does not import
torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from orchestrator.contract import Params, Role


class DetailParams(Params):
    """Fields of every evaluation; they change no metric."""

    num_painted: Annotated[int, Field(ge=0, le=1000), Role.ADDS] = 8
    """Number of val images that `details` shows with truth and prediction next to each other. They
    are evenly spread over val. For evaluations."""
    predictions: Annotated[bool, Role.ADDS] = False
    """Whether `details` holds the predictions for every val image, which takes tens of megabytes
    for COCO or ADE20K. For evaluations."""
