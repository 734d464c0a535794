"""The schema of a search space: what varies, what is fixed, and how trials are evaluated. Imports no torch."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from paramcrop.errors import ConfigError
from paramcrop.settings.explain import nearest, validated
from paramcrop.settings.presets import preset_names, read_mapping, shipped
from paramcrop.sweeps.layout import STRICT, Layout
from paramcrop.sweeps.parts import Budget, Evaluate, Objective, PresetChanges, Proxy, Swept, Until, Variant, field
from paramcrop.sweeps.values import check_values, coerced, is_number, takes_fractions

MOST_CELLS = 1000  # of a grid; each is pretrained once per seed
SCALAR = (str, int, float, bool, type(None))
NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
DERIVED = re.compile(rf"(?:(?P<number>{NUMBER}) *- *)?(?P<key>[A-Za-z_][\w.]*(?:\[\d\])?)")


class Space(BaseModel):
    """A question, and everything needed to answer it."""

    model_config = STRICT

    question: str = Field(description="one sentence", min_length=1)
    preset: str = field("demo", "preset of `paramcrop pretrain`")
    set: dict[str, Any] = field({}, "dotted key -> value, for every trial")
    epochs: float = field(1.0, "multiple of the preset's epochs", gt=0)
    params: dict[str, Swept] = field({}, "dotted key, or epochs (a multiple of the preset's) -> list or range")
    derived: dict[str, str] = field({}, "dotted key -> KEY or NUMBER - KEY, where KEY is one of params")
    variants: tuple[Variant, ...] = field((), "instead of params: the rows of a table")
    seeds: tuple[int, ...] = field((0, 1, 2), "seeds of the pretraining, for each trial", min_length=1)
    evaluate: Evaluate = Evaluate()
    objective: tuple[Objective, ...] = field((Objective(),), "one, or a list of several", min_length=1)
    show: Literal["table", "curve", "crops"] = field("table", "how the report shows the sweep")
    frame: Literal["crop", "video"] = field(
        "crop", "frame of centre distance and IoU: the croppers' clip, or the video from which R1, R2 cut it"
    )
    videos: tuple[int, ...] = field((0,), "which of a run's four kept clips to draw crops on", min_length=1)
    pretrained_on: str = field("", "name of an evaluation dataset to pretrain on, instead of data.shards")
    layout: Layout | None = field(None, "the table of the paper whose cells this space fills")
    search: Literal["grid", "random", "tpe", "gp", "cmaes", "qmc", "nsga2", "auto"] = field(
        "grid", "how values are chosen: all of them, or by a sampler of Optuna"
    )
    samples: int | None = field(None, "number of trials of a search", ge=1)
    sampler_seed: int = field(0, "seed of a search", ge=0, le=2**32 - 1)
    until: Until | None = field(None, "add seeds until a comparison is resolved; for a grid")
    extra_seeds: dict[str, int] = field({}, "trial id -> its number of seeds, if more than seeds; set by the program")
    budget: Budget = Budget()
    scheduler: Literal["none", "asha", "hyperband"] = field(
        "none", "asha: stop unpromising trials early; hyperband: the same with several grace periods"
    )
    proxy: Proxy = Proxy()
    with_preset: dict[str, PresetChanges] = field({}, "preset -> what it changes")

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks of all trials, each once."""
        return tuple(dict.fromkeys((*self.evaluate.tasks, *(task for v in self.variants for task in v.tasks))))

    @field_validator("params", mode="before")
    @classmethod
    def _coerce(cls, params: Any) -> Any:
        """Texts in lists become numbers where the setting is one."""
        return {key: _in_type(key, swept) for key, swept in params.items()} if isinstance(params, dict) else params

    @field_validator("objective", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return value if isinstance(value, list | tuple) else (value,)

    def seeds_of(self, trial: str) -> tuple[int, ...]:
        """The seeds of the trial with this id: ``seeds``, and as many whole numbers after them as ``until`` added."""
        more = max(0, self.extra_seeds.get(trial, 0) - len(self.seeds))
        return (*self.seeds, *range(max(self.seeds) + 1, max(self.seeds) + 1 + more))

    @model_validator(mode="after")
    def _check(self) -> Space:
        if bool(self.params) == bool(self.variants):
            raise ValueError("a space must have either params or variants")
        ranges = [key for key, swept in self.params.items() if swept.listed is None]
        if self.search == "grid" and ranges:
            raise ValueError(f"search=grid needs lists only, but {ranges[0]} is a range; use search=random or tpe")
        if self.search != "grid" and (self.variants or self.samples is None):
            raise ValueError(f"search={self.search} needs params and a number of samples")
        labels = [variant.label for variant in self.variants]
        if len(set(labels)) < len(labels):
            raise ValueError(f"labels must differ, but are {labels}")
        for key, text in self.derived.items():
            match = DERIVED.fullmatch(text.strip())
            if match is None or match["key"] not in self.params:
                raise ValueError(f"derived.{key} must be KEY or NUMBER - KEY, with KEY from params, but is {text!r}")
            if key in self.params:
                raise ValueError(f"a swept setting must not be derived as well, but {key} is")
            wrong = [v for v in self.params[match["key"]].listed or () if not is_number(v)] if match["number"] else []
            if wrong:
                raise ValueError(f"derived.{key} must subtract numbers, but {match['key']} has {wrong[0]!r}")
        return self

    @model_validator(mode="after")
    def _check_values(self) -> Space:
        for key, swept in self.params.items():
            check_values(key, swept.listed or ())
            if (swept.uniform or swept.loguniform) and not takes_fractions(key):
                raise ValueError(f"params.{key} must be int or a list, because the setting takes no fractions")
        for name, listed in (("seeds", self.seeds), ("evaluate.seeds", self.evaluate.seeds)):
            if len(set(listed)) < len(listed):
                raise ValueError(f"{name} must differ, but are {list(listed)}")
        if self.until and (self.search != "grid" or not self.tasks):
            raise ValueError("until needs search=grid and an evaluation, because it compares named trials")
        if len(self.objective) > 1 and (self.search == "grid" or self.scheduler != "none"):
            raise ValueError("several objectives need a search other than grid, and scheduler=none")
        return self

    @model_validator(mode="after")
    def _check_keys(self) -> Space:
        sizes = [len(swept.listed or ()) for swept in self.params.values()]
        if self.search == "grid" and math.prod(sizes) > MOST_CELLS:
            product = " x ".join(map(str, sizes))
            raise ValueError(
                f"a grid must have at most {MOST_CELLS} cells, but params has {product} = {math.prod(sizes)}; shorten "
                "its lists, or use search=random or tpe with samples"
            )
        if fixed := sorted(self.set.keys() & {*self.params, *self.derived}):
            raise ValueError(f"a swept setting must not be fixed as well, but {fixed[0]} is")
        if "train.epochs" in self.set and "epochs" in self.params:
            raise ValueError("a swept setting must not be fixed as well, but train.epochs is, while epochs is swept")
        if "seed" in self.set:
            raise ValueError("seeds lists the seeds of all trials, so seed must not be set")
        return self


def _in_type(key: str, swept: Any) -> Any:
    """A list, or the list below ``values`` or ``choice``, in the type of the setting ``key``."""
    if isinstance(swept, list | tuple):
        return [coerced(key, value) for value in swept]
    if isinstance(swept, dict):
        return {name: _in_type(key, v) if name in ("values", "choice") else v for name, v in swept.items()}
    return swept


FOLDER = shipped("search_spaces")


def find_space(name: str, also: Iterable[str] = ()) -> Path:
    """The file of a space, given by its path or by the name of a shipped one.

    Args:
        also: other names that the caller accepts; the error lists them.

    Raises:
        ConfigError: there is no such file or name.
    """
    for path in (Path(name).expanduser(), FOLDER / f"{name}.yaml"):
        if path.is_file():
            return path.resolve()
    known = sorted({*also, *(path.stem for path in FOLDER.glob("*.yaml"))})
    choices = f"a file, or one of {', '.join(known)}" if known else "a file"
    raise ConfigError(f"--space must be {choices}, but is {name!r}{nearest(name, known)}")


def read_space(path: Path) -> Space:
    """Raises:
    ConfigError: one line that names the file and the key.
    """
    return _checked(read_mapping(path, "a space"), path.name)


def space_at(
    space: Space,
    preset: str | None = None,
    changes: dict[str, Any] | None = None,
    tasks: Sequence[str] | None = None,
    **fields: Any,
) -> Space:
    """The same question with another preset (and its changes), fixed settings, tasks or fields; None keeps a value.

    Raises:
        ConfigError: the result is not a valid space.
    """
    preset = preset or space.preset
    differences = space.with_preset.get(preset, PresetChanges())
    evaluate = differences.evaluate or space.evaluate
    values = space.model_dump(exclude_none=True) | {"preset": preset, "with_preset": {}}
    values["set"] = space.set | differences.set | (changes or {})
    values["seeds"] = differences.seeds or space.seeds
    values["epochs"] = space.epochs * differences.epochs
    values["evaluate"] = evaluate.model_dump() | ({"tasks": tasks} if tasks else {})
    if tasks:
        values["variants"] = [variant | {"tasks": ()} for variant in values["variants"]]
    return _checked(values | {k: v for k, v in fields.items() if v is not None}, "the space")


def _checked(values: dict[str, Any], name: str) -> Space:
    space = validated(Space, values, name)
    for preset in (space.preset, *space.with_preset):
        if preset not in preset_names():
            known = preset_names()
            raise ConfigError(
                f"{name}: preset must be one of {', '.join(known)}, but is {preset!r}{nearest(preset, known)}"
            )
    return space
