"""The params of an evaluation that choose what its output `details` holds. Imports no torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from orchestrator.contract import Params, Role


class DetailParams(Params):
    """Fields of every evaluation; they change no metric."""

    num_painted: Annotated[int, Field(ge=0, le=1000), Role.ADDS] = 8
    """Of an evaluation: val images, evenly spread, which `details` shows with what the model says
    beside the truth."""
    predictions: Annotated[bool, Role.ADDS] = False
    """Of an evaluation: whether `details` holds what the model says of every val image, which for
    COCO or ADE20K takes tens of megabytes."""
