from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, model_validator

from paramcrop.errors import ConfigError
from paramcrop.settings.explain import validated


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    low: float = 0.0
    high: float = Field(1.0, alias="most")

    @model_validator(mode="after")
    def _check(self) -> Part:
        if self.low > self.high:
            raise ValueError(f"low must be at most most, but is {self.low}")
        if not self.name:
            raise ValueError("a part must have a name")
        return self


class Whole(BaseModel):
    model_config = ConfigDict(extra="forbid")

    mode: Literal["max", "min"] | None = "max"
    parts: list[Part] = []
    named: dict[str, Part] = {}
    box: tuple[float, float] = (0.5, 1.0)
    count: int = Field(3, ge=1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cuont": 3}, "cuont is not a key; the nearest is count"),
        ({"parts": [{"name": "a", "mst": 3}]}, "parts.0.mst is not a key; the nearest is most"),
        ({"named": {"x.y": {"nam": "a"}}}, "named.x.y.name must be given"),
        ({"named": {"x.y": {"name": "a", "low": 2}}}, "named.x.y.low must be at most most, but is 2.0"),
        ({"parts": [{"name": ""}]}, "parts.0: a part must have a name"),
        ({"parts": [{"name": "a"}, 3]}, "parts.1: must be 'name: value' lines, but is 3"),
        ({"mode": "mx"}, "mode must be one of max | min, but is 'mx' (default: max)"),
        ({"box": [0.5]}, "box: must be 2 values, but is [0.5] (default: [0.5,1.0])"),
        ({"box": [0.5, "x"]}, "box: must be a number, but is 'x' (default:"),
        ({"box": 0.5}, "box: must be a list of values, but is 0.5 (default: [0.5,1.0])"),
        ({"box": [1, 2, 3]}, "box: must be 2 values, but is [1, 2, 3]"),
        ({"parts": [{"name": 3}]}, "parts.0.name: must be text, but is 3"),
        ({"count": 0}, "count: must be greater than or equal to 1, but is 0 (default: 3)"),
        ({"count": "x" * 999}, "count: must be a whole number, but is 'xxx"),
    ],
)
def test_a_mistake_is_one_short_line_that_names_the_key(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validated(Whole, values, "a.yaml")
    text = str(caught.value)
    assert text.startswith(f"a.yaml: {message}") and len(text) < 250 and "\n" not in text
