"""The parts of a search space: what varies, how trials are evaluated, what is optimised, and when to stop."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from paramcrop.sweeps.layout import STRICT


def field(default: Any, text: str, **limits: Any) -> Any:
    return Field(default=default, description=text, **limits)


class Swept(BaseModel):
    """One swept setting: a list of values for a grid or a choice, or a range to sample from."""

    model_config = STRICT | ConfigDict(serialize_by_alias=True)

    values: tuple[Any, ...] | None = field(None, "these values, in this order", min_length=1)
    uniform: tuple[float, float] | None = field(None, "low and high")
    loguniform: tuple[float, float] | None = field(None, "low and high, uniform in the logarithm")
    integers: tuple[int, int] | None = field(None, "low and high, integers", alias="int")
    choice: tuple[Any, ...] | None = field(None, "one of these values", min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _from_list(cls, value: Any) -> Any:
        return {"values": value} if isinstance(value, list) else value

    @model_validator(mode="after")
    def _check(self) -> Swept:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"a swept setting must be a list or one of {', '.join(RANGES)}, but has {given}")
        low, high = self.bounds or (0, 1)
        if low >= high or (self.loguniform and low <= 0):
            raise ValueError(
                f"{given[0]} must have low < high{', both above 0' * (given[0] == 'loguniform')}, but is {[low, high]}"
            )
        return self

    @property
    def bounds(self) -> tuple[float, float] | None:
        return self.uniform or self.loguniform or self.integers

    @property
    def listed(self) -> tuple[Any, ...] | None:
        """The values of a list or a choice; None for a range."""
        return self.values or self.choice


RANGES = ("uniform", "loguniform", "int", "choice")


class Variant(BaseModel):
    """One row of a table: a set of settings with a label."""

    model_config = STRICT

    label: str = Field(min_length=1)
    set: dict[str, Any] = field({}, "dotted key -> value; epochs is a multiple of the preset's epochs")
    tasks: tuple[str, ...] = field((), "tasks of this variant, instead of the space's evaluate.tasks")
    paper: dict[str, float] = field({}, "'DATASET/PROTOCOL METRIC' -> the paper's value, in %")


class Evaluate(BaseModel):
    """How each pretraining is evaluated: the tasks of `paramcrop evaluate`."""

    model_config = STRICT

    tasks: tuple[str, ...] = field(
        ("validation",), "PROTOCOL (on every given dataset) or DATASET/PROTOCOL; empty: no evaluation"
    )
    set: dict[str, Any] = field({}, "protocol parameters that differ from those of the named protocols")
    splits: tuple[int, ...] = field((), "split numbers, for datasets with several; empty: all")
    seeds: tuple[int, ...] = field((0,), "seeds of the evaluation", min_length=1)
    as_pretrained: bool = field(False, "test on clips with the size, length and frame rate of the run's views")


class Objective(BaseModel):
    """What the search optimises, and what the report shows first."""

    model_config = STRICT

    metric: str = field(
        "", "'TASK METRIC' as in 'validation R@1', gpu_hours or cpu_hours (of the workers); empty: the first task's"
    )
    mode: Literal["max", "min"] = "max"


class Budget(BaseModel):
    """Limits after which a command starts no more trials; running trials are finished."""

    model_config = STRICT

    trials: int | None = field(None, "new trials per command", ge=1)
    hours: float | None = field(None, "duration of one command", gt=0)


class Proxy(BaseModel):
    """How asha compares trials while they train."""

    model_config = STRICT

    task: str = field("validation", "a cheap protocol on training videos")
    every: int = field(5, "epochs between two comparisons", ge=1)
    grace: int = field(5, "epochs before which no trial is stopped", ge=1)
    reduction: float = field(3.0, "of the trials that reach a rung, one in this many continues", gt=1)


class PresetChanges(BaseModel):
    """What a space changes with one preset, for example smaller sizes on a laptop."""

    model_config = STRICT

    set: dict[str, Any] = {}
    evaluate: Evaluate | None = None
    seeds: tuple[int, ...] | None = None
    epochs: float = field(1.0, "multiple of the space's epochs", gt=0)


class Until(BaseModel):
    """Add seeds to the trials of a comparison until a sequential test resolves it."""

    model_config = STRICT

    resolved: tuple[tuple[str, str], ...] = Field(description="labels of two trials, or a list of such pairs")
    metric: str = field("", "'TASK METRIC' as in 'validation R@1'; empty: the objective's")
    most_seeds: int = field(10, "seeds of a trial, at most", ge=2, le=1000)

    @field_validator("resolved", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        """One pair, or several."""
        return (value,) if isinstance(value, list | tuple) and all(isinstance(v, str) for v in value) else value

    @model_validator(mode="after")
    def _check(self) -> Until:
        if not self.resolved or any(a == b for a, b in self.resolved):
            raise ValueError(f"resolved must be pairs of different trials, but is {[list(p) for p in self.resolved]}")
        return self
