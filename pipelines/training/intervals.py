"""The interval between checkpoints, as a job states it. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from orchestrator.contract import Params


class CheckpointEvery(Params):
    """One interval; the last epoch, and a stage that is stopped, always write a checkpoint."""

    # Its own JSON Schema hides the fields from `spec.schema`
    model_config = ConfigDict(use_attribute_docstrings=True)

    epochs: Annotated[int, Field(ge=1)] | None = None
    """Passes over the training images."""
    steps: Annotated[int, Field(ge=1)] | None = None
    """Updates, counted from the start of the training."""
    minutes: Annotated[float, Field(gt=0)] | None = None
    """Minutes on rank 0's clock."""

    @model_validator(mode="before")
    @classmethod
    def _number_of_epochs(cls, value: Any) -> Any:
        is_number = isinstance(value, int) and not isinstance(value, bool)
        return {"epochs": value} if is_number else value

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"anyOf": [handler(core_schema), {"type": "integer", "minimum": 1}]}

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        given = [name for name, value in self if value is not None]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one of epochs, steps and minutes, got {', '.join(given) or 'none'}"
            )
        return self


class CheckpointEverySteps(CheckpointEvery):
    """One interval of a training that is counted in steps, not epochs."""

    epochs: None = None

    @model_validator(mode="before")
    @classmethod
    def _number_of_epochs(cls, value: Any) -> Any:
        is_number = isinstance(value, int) and not isinstance(value, bool)
        return {"steps": value} if is_number else value
