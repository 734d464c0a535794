"""The schema of a sweep's question: what is varied, what stays as it is, how it is judged. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from paramcrop.errors import ConfigError
from paramcrop.settings.presets import nearest, preset_names, shipped

STRICT = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Cell(BaseModel):
    """One number.

    Attributes:
        variant: label of the trial that fills it; none: nothing of ours does. task: DATASET/PROTOCOL. metric: of it.
        paper: what the paper prints, in %; none: nothing.
    """

    model_config = STRICT

    variant: str | None = None
    task: str
    metric: str
    paper: float | None = None


class Line(BaseModel):
    """One row, a cell a column."""

    model_config = STRICT

    label: str
    cells: tuple[Cell, ...] = ()


class Layout(BaseModel):
    """A table of the paper.

    Attributes:
        name: such as "table1". preset: at which its cells' settings are the paper's own.
        columns: headings. lines: in the paper's order. notes: what is odd about it.
        sizes: line -> the parameters and the arithmetic that the paper prints for it (Table 7).
        stand_ins: the paper's set -> the set that stands in for it here.
    """

    model_config = STRICT

    name: str
    preset: str
    columns: tuple[str, ...] = ()
    lines: tuple[Line, ...] = ()
    notes: tuple[str, ...] = ()
    sizes: dict[str, tuple[str, str]] = Field(default_factory=dict)
    stand_ins: dict[str, str] = Field(default_factory=dict)


SCALAR = (str, int, float, bool, type(None))
DERIVED = re.compile(r"(?:(?P<number>[\d.]+) *- *)?(?P<key>[A-Za-z_][\w.]*(?:\[\d\])?)")


def _field(default: Any, text: str, **limits: Any) -> Any:
    return Field(default=default, description=text, **limits)


class Swept(BaseModel):
    """One swept setting: a list (of a grid, or of choices), or one range that is sampled from."""

    model_config = STRICT | ConfigDict(serialize_by_alias=True)

    values: tuple[Any, ...] | None = _field(None, "these, in this order", min_length=1)
    uniform: tuple[float, float] | None = _field(None, "low and high")
    loguniform: tuple[float, float] | None = _field(None, "low and high, even in the logarithm")
    whole: tuple[int, int] | None = _field(None, "whole numbers, low and high", alias="int")
    choice: tuple[Any, ...] | None = _field(None, "one of these", min_length=1)

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
                f"{given[0]} must be low < high{', both above 0' * (given[0] == 'loguniform')}, but is {[low, high]}"
            )
        return self

    @property
    def bounds(self) -> tuple[float, float] | None:
        return self.uniform or self.loguniform or self.whole

    @property
    def listed(self) -> tuple[Any, ...] | None:
        """The values of a list or a choice; None of a range."""
        return self.values or self.choice


RANGES = ("uniform", "loguniform", "int", "choice")


class Variant(BaseModel):
    """One row of a table: settings that belong together."""

    model_config = STRICT

    label: str = Field(min_length=1)
    set: dict[str, Any] = _field({}, "dotted key -> value; epochs: times the preset's")
    tasks: tuple[str, ...] = _field((), "instead of the space's evaluate.tasks")
    paper: dict[str, float] = _field({}, "'DATASET/PROTOCOL METRIC' -> the paper's value, in %")


class Evaluate(BaseModel):
    """What each pretraining is worth: evaluate.py's tasks."""

    model_config = STRICT

    tasks: tuple[str, ...] = _field(
        ("validation",), "PROTOCOL (on every set given) or DATASET/PROTOCOL; none: nothing is evaluated"
    )
    set: dict[str, Any] = _field({}, "numbers of the protocols that differ from the named ones'")
    splits: tuple[int, ...] = _field((), "of sets that have several; none: all")
    seeds: tuple[int, ...] = _field((0,), "of the evaluation", min_length=1)
    as_pretrained: bool = _field(False, "clips of the size, length and pace of the run's views")


class Objective(BaseModel):
    """What the search looks at, and what the page shows first."""

    model_config = STRICT

    metric: str = _field("", "'TASK METRIC' as in 'validation R@1'; none: the first task's main metric")
    mode: Literal["max", "min"] = "max"


class Budget(BaseModel):
    """When a command starts no more trials; those at work are brought to their end."""

    model_config = STRICT

    trials: int | None = _field(None, "new ones in one command", ge=1)
    hours: float | None = _field(None, "of one command", gt=0)


class Proxy(BaseModel):
    """What asha compares trials by while they train."""

    model_config = STRICT

    task: str = _field("validation", "a cheap protocol on training videos")
    every: int = _field(5, "epochs", ge=1)
    grace: int = _field(5, "epochs before which no trial is stopped", ge=1)
    reduction: float = _field(3.0, "of those that reach a rung, one in so many goes on", gt=1)


class Differs(BaseModel):
    """What is different with one preset: laptop sizes, say."""

    model_config = STRICT

    set: dict[str, Any] = {}
    evaluate: Evaluate | None = None
    seeds: tuple[int, ...] | None = None
    epochs: float = _field(1.0, "times the space's", gt=0)


class Space(BaseModel):
    """A question, and all that is needed to answer it."""

    model_config = STRICT

    question: str = Field(description="one sentence", min_length=1)
    preset: str = _field("demo", "pretrain.py's")
    set: dict[str, Any] = _field({}, "dotted key -> value, for every trial")
    epochs: float = _field(1.0, "times the preset's epochs", gt=0)
    params: dict[str, Swept] = _field({}, "dotted key (or epochs: times the preset's) -> list or range")
    derived: dict[str, str] = _field({}, "dotted key -> KEY or NUMBER - KEY of a swept one")
    variants: tuple[Variant, ...] = _field((), "instead of params: the rows of a table")
    seeds: tuple[int, ...] = _field((0, 1, 2), "of the pretraining, each trial's", min_length=1)
    evaluate: Evaluate = Evaluate()
    objective: Objective = Objective()
    show: Literal["table", "curve", "crops"] = _field("table", "what the page shows of it")
    frame: Literal["crop", "video"] = _field(
        "crop", "where centre distance and IoU are drawn: the croppers' clip, or the video that R1, R2 cut it from"
    )
    videos: tuple[int, ...] = _field((0,), "which of a run's four kept clips crops are drawn on", min_length=1)
    pretrained_on: str = _field("", "one of the sets evaluated on, instead of data.shards")
    layout: Layout | None = _field(None, "a table of the paper, of which each cell is filled")
    search: Literal["grid", "random", "tpe"] = _field("grid", "how values are chosen")
    samples: int | None = _field(None, "trials of random and tpe", ge=1)
    sampler_seed: int = _field(0, "of random and tpe", ge=0)
    budget: Budget = Budget()
    scheduler: Literal["none", "asha"] = _field("none", "asha: stop early what does not look good")
    proxy: Proxy = Proxy()
    with_preset: dict[str, Differs] = _field({}, "preset -> what differs with it")

    @property
    def tasks(self) -> tuple[str, ...]:
        """All that some trial is evaluated by, each once."""
        return tuple(dict.fromkeys((*self.evaluate.tasks, *(task for v in self.variants for task in v.tasks))))

    @model_validator(mode="after")
    def _check(self) -> Space:
        if bool(self.params) == bool(self.variants):
            raise ValueError("a space must have either params or variants")
        ranges = [key for key, swept in self.params.items() if swept.listed is None]
        if self.search == "grid" and ranges:
            raise ValueError(f"search=grid must have lists alone, but {ranges[0]} is a range; search=random or tpe")
        if self.search != "grid" and (self.variants or self.samples is None):
            raise ValueError(f"search={self.search} must have params and a number of samples")
        labels = [variant.label for variant in self.variants]
        if len(set(labels)) < len(labels):
            raise ValueError(f"labels must differ, but are {labels}")
        for key, text in self.derived.items():
            match = DERIVED.fullmatch(text.strip())
            if match is None or match["key"] not in self.params:
                raise ValueError(f"derived.{key} must be KEY or NUMBER - KEY of params, but is {text!r}")
        return self


FOLDER = shipped("search_spaces")


def find_space(name: str, also: Iterable[str] = ()) -> Path:
    """A path, or the name of a shipped one.

    Args:
        also: other names that would have been right, for the error.

    Raises:
        ConfigError: neither.
    """
    for path in (Path(name).expanduser(), FOLDER / f"{name}.yaml"):
        if path.is_file():
            return path.resolve()
    known = sorted({*also, *(path.stem for path in FOLDER.glob("*.yaml"))})
    told = f"a file, or one of {', '.join(known)}" if known else "a file"
    raise ConfigError(f"--space must be {told}, but is {name!r}{nearest(name, known)}")


def read_space(path: Path) -> Space:
    """Raises:
    ConfigError: one line that names the file and the key.
    """
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"a space must be a readable file: {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"a space must be YAML: {path}: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"a space must hold 'key: value' lines, but {path} holds a {type(values).__name__}")
    return _validated(values, path.name)


def space_at(
    space: Space,
    preset: str | None = None,
    changes: dict[str, Any] | None = None,
    tasks: Sequence[str] | None = None,
    **fields: Any,
) -> Space:
    """The same question with a preset (and what differs with it), fixed settings, tasks, fields; None ones stay.

    Raises:
        ConfigError: it no longer fits together.
    """
    preset = preset or space.preset
    differs = space.with_preset.get(preset, Differs())
    evaluate = differs.evaluate or space.evaluate
    values = space.model_dump(exclude_none=True) | {"preset": preset, "with_preset": {}}
    values["set"] = space.set | differs.set | (changes or {})
    values["seeds"] = differs.seeds or space.seeds
    values["epochs"] = space.epochs * differs.epochs
    values["evaluate"] = evaluate.model_dump() | ({"tasks": tasks} if tasks else {})
    if tasks:
        values["variants"] = [variant | {"tasks": ()} for variant in values["variants"]]
    return _validated(values | {k: v for k, v in fields.items() if v is not None}, "the space")


def _validated(values: dict[str, Any], name: str) -> Space:
    try:
        space = Space.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{name}: {_explain(error)}") from None
    for preset in (space.preset, *space.with_preset):
        if preset not in preset_names():
            told = f"one of {', '.join(preset_names())}, but is {preset!r}{nearest(preset, preset_names())}"
            raise ConfigError(f"{name}: preset must be {told}")
    return space


def _explain(error: ValidationError) -> str:
    """The first error in one line."""
    first = error.errors(include_url=False)[0]
    path = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{path} is not a key{nearest(str(first['loc'][-1]), _keys(first['loc'][:-1]))}"
    if first["type"] == "missing":
        return f"{path} must be given"
    message = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "value_error":
        return f"{path}: {message}" if path else message
    return f"{path} {re.sub(r'^[A-Z][a-z]* should ', 'must ', message)}, but is {first['input']!r}"


def _keys(path: Iterable[Any]) -> list[str]:
    """The keys of the model at ``path``."""
    model: Any = Space
    for part in path:
        if not (isinstance(model, type) and issubclass(model, BaseModel)) or part not in model.model_fields:
            continue
        annotation = model.model_fields[part].annotation
        inside = [a for a in (annotation, *get_args(annotation)) if isinstance(a, type) and issubclass(a, BaseModel)]
        model = inside[0] if inside else model
    return list(model.model_fields)
