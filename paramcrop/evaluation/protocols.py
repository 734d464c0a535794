"""Evaluation protocols: each fixes a name, a version and all parameters, which shows whether results are comparable.

Raise a version when equal fields no longer mean the same computation. A protocol whose parameters differ from those of
its name shows the difference in its label, as in ``paper-linear[epochs=20,size=32]``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from paramcrop.errors import ConfigError
from paramcrop.settings.digest import short_hash
from paramcrop.settings.explain import nearest, validated
from paramcrop.settings.presets import parse_override


def _field(default: Any, text: str, **limits: Any) -> Any:
    return Field(default=default, description=text, **limits)


class Protocol(BaseModel):
    """One protocol. ``kind`` decides which of the parameters are used: see ``USED``."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    version: int = 1  # 2: held-out videos share no group of near-duplicates with the others
    kind: Literal["finetune", "heads", "retrieval", "knn", "validation", "classifier"]
    frames: int = _field(32, "frames per clip; those of retrieval are not in the paper", ge=1)
    stride: int = _field(2, "source frames from one clip frame to the next (not in the paper)", ge=1)
    size: int = _field(224, "side of a clip, pixels; that of retrieval is not in the paper", ge=8)
    box: float = _field(
        0.875,
        "side of the centre square from which test clips are cut, share of the short side (not in the paper)",
        gt=0,
        le=1,
    )
    test_clips: int | None = _field(
        10,
        "uniform clips per video, averaged; none: as many as overlap by half; fine-tuning's are not in the paper",
        ge=1,
    )
    train: Literal["all", "head"] = _field("all", "which part is trained")
    bn: Literal["train", "frozen"] = _field("train", "the backbone's batch norm; frozen: fixed running statistics")
    epochs: int = _field(100, "passes over the training videos (not in the paper)", ge=1)
    warmup: float = _field(5, "epochs of linear warm-up, then a cosine to 0 (not in the paper)", ge=0)
    batch: int = _field(128, "videos per step", ge=2)
    lr: float = _field(2e-4, "learning rate of Adam", gt=0)
    weight_decay: float = _field(1e-3, "weight decay of Adam", ge=0)
    dropout: float = _field(0.0, "dropout before the head (not in the paper)", ge=0, lt=1)
    train_box: tuple[float, float] = _field(
        (0.65625, 0.875), "side of a training clip's random square, share of the short side (not in the paper)"
    )
    jitter: float = _field(
        0.8, "probability of colour jitter of .5/.5/.5/.25 in training (not in the paper)", ge=0, le=1
    )
    labels: float = _field(1.0, "share of each class's training videos that is used (Table 14)", gt=0, le=1)
    centre: bool = _field(False, "subtract their own mean from the queries' features and from the gallery's")
    ranks: tuple[int, ...] = _field((1, 5, 10, 20, 50), "k of R@k")
    neighbours: int = _field(20, "k of k-NN", ge=1)
    temperature: float = _field(0.07, "temperature of k-NN's votes, exp(cosine / temperature)", gt=0)
    lrs: tuple[float, ...] = _field((0.03, 0.1, 0.3, 1.0, 3.0, 10.0), "learning rates to try")
    weight_decays: tuple[float, ...] = _field((0.0, 1e-5, 1e-4, 1e-3), "weight decays to try")
    held_out: float = _field(0.2, "share of the training videos held out to choose on", gt=0, lt=1)
    network: Literal["student", "teacher"] = _field("teacher", "which of a run's two networks to test")
    videos: int = _field(2000, "minimum of training videos in a validation, rounded up to complete shards", ge=2)

    @property
    def label(self) -> str:
        """The name, with the parameters that differ from the named protocol's in brackets."""
        changed = {k: v for k, v in self.model_dump().items() if v != getattr(PROTOCOLS[self.name], k)}
        inside = ",".join(f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in sorted(changed.items()))
        return f"{self.name}[{inside}]" if inside else self.name

    @property
    def digest(self) -> str:
        """12 hex digits over the name, the version and the parameters that its kind uses."""
        used = {k: v for k, v in self.model_dump(mode="json").items() if k in parameters(self)}
        return short_hash([self.name, self.version, self.kind, used])


INPUT = ("frames", "stride", "size", "box", "test_clips")
USED = {
    "finetune": (
        *("train", "bn", "epochs", "warmup", "batch", "lr", "weight_decay", "dropout", "train_box", "jitter", "labels"),
    ),
    "heads": ("epochs", "lrs", "weight_decays", "held_out", "labels"),
    "retrieval": ("centre", "ranks"),
    "knn": ("neighbours", "temperature"),
    "validation": ("held_out", "videos", "ranks"),
    "classifier": ("network",),
}
# The classifier that a semi-supervised run has learned, without further training, on clips like its views.
_TRAINED: dict[str, Any] = {"kind": "classifier", "frames": 16, "size": 112, "stride": 3}
_VALIDATION: dict[str, Any] = {"frames": 16, "size": 112, "stride": 4, "test_clips": 2, "ranks": (1, 5, 10, 20)}
_LINEAR: dict[str, Any] = {"kind": "finetune", "train": "head", "lr": 2e-3}  # the paper's linear fine-tune, "LFT"
PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(name="paper-finetune", kind="finetune"),
        Protocol(name="paper-finetune-64f", kind="finetune", frames=64, stride=1),  # Table 9's starred row
        # The paper does not say what batch norm does here. HiCo, by the same first author, keeps it in training mode.
        Protocol(name="paper-linear", bn="frozen", **_LINEAR),
        Protocol(name="paper-linear-bn-train", bn="train", **_LINEAR),
        *(Protocol(name=f"paper-fewshot-{p}", kind="finetune", labels=p / 100) for p in (10, 30, 50)),  # Table 14
        Protocol(name="paper-retrieval-10clip", kind="retrieval"),  # Tables 11 and 12
        Protocol(name="coclr-retrieval-centred", kind="retrieval", size=128, stride=1, test_clips=None, centre=True),
        Protocol(name="frozen-linear-eval", version=2, kind="heads"),
        Protocol(name="knn", kind="knn"),
        Protocol(name="semi-supervised-teacher", network="teacher", **_TRAINED),  # Table 6
        Protocol(name="semi-supervised-student", network="student", **_TRAINED),
        # For choosing settings: retrieval among training videos only, cheap enough to run while a run trains.
        Protocol(name="validation-retrieval", version=2, kind="validation", **_VALIDATION),
    )
}
SHORT = {
    "finetune": "paper-finetune",
    "linear": "paper-linear",
    "retrieval": "paper-retrieval-10clip",
    "heads": "frozen-linear-eval",
    "validation": "validation-retrieval",
    "teacher": "semi-supervised-teacher",
    "student": "semi-supervised-student",
}


def find_protocol(name: str, overrides: Iterable[str] = ()) -> Protocol:
    """The protocol with this name (or short name, see ``SHORT``), with ``key=value`` texts applied to its parameters.

    Raises:
        ConfigError: one line; there is no such protocol or parameter.
    """
    full = SHORT.get(name, name)
    if full not in PROTOCOLS:
        known = [*PROTOCOLS, *SHORT]
        raise ConfigError(f"a protocol must be one of {', '.join(known)}, but is {name!r}{nearest(name, known)}")
    values = PROTOCOLS[full].model_dump()
    known = parameters(PROTOCOLS[full])
    for key, value in (parse_override(text, known) for text in overrides):
        if key not in known:
            raise ConfigError(f"{full} has the parameters {', '.join(known)}, but not {key!r}{nearest(key, known)}")
        values[key] = value
    return validated(Protocol, values, full)


def parameters(protocol: Protocol) -> list[str]:
    """The names of the fields that the protocol's kind uses."""
    return [*INPUT, *USED[protocol.kind]]
