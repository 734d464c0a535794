"""The backbone to evaluate: a run's, a foreign checkpoint's, one with random weights, or plain pixels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn

from paramcrop.errors import CheckpointError
from paramcrop.models.foreign import ORIGINS, OTHERS, Origin, Renormalised, recognise, set_eps
from paramcrop.settings.config import Config
from paramcrop.settings.identity import recorded
from paramcrop.settings.presets import make_config
from paramcrop.storage.checkpoint import load_checkpoint, newest_checkpoint
from paramcrop.storage.foreign import fitting_prefix, foreign_state, rename
from paramcrop.storage.mirror import mirror_at
from paramcrop.training.build import build_backbone, features_of, make_backbone

SHOWN = 3  # maximum number of names in an error
COUNTER = "num_batches_tracked"  # of batch norm; checkpoints of old versions of PyTorch lack it
UNCHANGED = {"": ""}  # prefixes that leave all names as they are
PREFIX = "method.backbone."  # prefix of the backbone's tensors in a run's checkpoint


class Pixels(nn.Module):
    """A baseline without a network: a clip's colours, averaged in ``grid`` cells of time, height and width."""

    def __init__(self, grid: tuple[int, int, int] = (4, 8, 8)) -> None:
        super().__init__()
        self.grid = grid
        self.features = 3 * grid[0] * grid[1] * grid[2]

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, features)."""
        return F.adaptive_avg_pool3d(x, self.grid).flatten(1)


def read_config(run: Path) -> Config:
    """The resolved settings a run began with.

    Raises:
        CheckpointError: the folder is not a run's.
    """
    try:
        return make_config(recorded(yaml.safe_load((run / "config.yaml").read_text())))
    except (OSError, AttributeError, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it does not contain settings"
        raise CheckpointError(f"a run's folder must have a config.yaml, but {run} does not: {reason}") from None


def pick_checkpoint(run: Path, epoch: int | None = None) -> tuple[Path, int]:
    """The folder and the epoch of a run's newest intact checkpoint, or of that of ``epoch``.

    Raises:
        CheckpointError: there is no such checkpoint.
    """
    if epoch is None:
        newest, passed_over = newest_checkpoint(run, mirror_at(run).fetch)
        if newest is None:
            reason = "; ".join(passed_over) or "there are no checkpoints"
            raise CheckpointError(f"a run must have an intact checkpoint, but {run} has none: {reason}")
        return newest, int(json.loads((newest / "meta.json").read_text())["epoch"])
    folder = run / "checkpoints" / f"epoch={epoch:04d}"
    if not (folder / "meta.json").exists():
        kept = ", ".join(str(int(p.name.partition("=")[2])) for p in sorted(folder.parent.glob("epoch=????")))
        raise CheckpointError(f"--epoch must be that of a checkpoint of {run} ({kept or 'none'}), but is {epoch}")
    return folder, epoch


def load_backbone(config: Config, checkpoint: Path) -> nn.Module:
    """The backbone from a run's checkpoint.

    Raises:
        CheckpointError: names or shapes differ; the message gives the first ones.
    """
    backbone = build_backbone(config)
    state, _ = load_checkpoint(checkpoint)
    load_strictly(backbone, rename(state["model"], {PREFIX: ""}), str(checkpoint))
    return backbone


def trained_classifier(config: Config, checkpoint: Path, network: str, classes: Sequence[str]) -> nn.Module:
    """The "student" or "teacher" classifier of a semi-supervised run: clips -> logits, in the order of ``classes``.

    Raises:
        CheckpointError: the run has no classifier, or one for other classes.
    """
    if config.method != "mean_teacher":
        raise CheckpointError(
            f"only a run with method=mean_teacher has a classifier to test, but this run has method={config.method}"
        )
    state, _ = load_checkpoint(checkpoint)
    learned = state["model"]["method._extra_state"]["classes"]
    if sorted(learned) != sorted(classes):
        missing, other = sorted(set(classes) - set(learned))[:SHOWN], sorted(set(learned) - set(classes))[:SHOWN]
        raise CheckpointError(f"the run must have learned the videos' classes, but it lacks {missing} and has {other}")
    backbone = build_backbone(config)
    head = nn.Linear(features_of(backbone), len(classes))
    which = "teacher_" if network == "teacher" else ""
    load_strictly(backbone, rename(state["model"], {f"method.{which}backbone.": ""}), str(checkpoint))
    rows = [learned.index(name) for name in classes]
    named = rename(state["model"], {f"method.{which}head.": ""})
    load_strictly(head, {name: value[rows] for name, value in named.items()}, str(checkpoint))
    return nn.Sequential(backbone, head)


def random_backbone(config: Config, seed: int) -> nn.Module:
    """The run's architecture with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_backbone(config)


def load_foreign(module: nn.Module, file: Path, prefixes: Mapping[str, str]) -> list[str]:
    """Load another program's checkpoint into ``module`` -> notes for the reader, one line each.

    Args:
        prefixes: of its names, as (old, new). Where they are ``UNCHANGED``, the names that torchvision and CoCLR give
            to our architecture become ours, and a prefix that all names have is left out.

    Raises:
        CheckpointError: see ``foreign_state`` and ``load_strictly``.
    """
    return load_weights(module, file, prefixes)[0]


def foreign_backbone(config: Config, file: Path, prefixes: Mapping[str, str]) -> nn.Module:
    """The run's architecture with another program's weights, for pixels normalised as the run's.

    Raises:
        CheckpointError: see ``load_foreign``.
    """
    backbone = build_backbone(config)
    origin = load_weights(backbone, file, prefixes)[1]
    return _renormalised(backbone, origin, config) if origin else backbone


def baseline_backbone(name: str, config: Config, file: Path) -> nn.Module:
    """The network ``name`` of ``ORIGINS`` with the weights in ``file``, for pixels normalised as the run's.

    Raises:
        CheckpointError: the file's weights are not that network's.
    """
    origin, backbone = named_backbone(file)
    if origin.name != name:
        raise CheckpointError(f"the file of {name} must have its weights, but {file} has those of {origin.name}")
    return _renormalised(backbone, origin, config)


def named_backbone(file: Path) -> tuple[Origin, nn.Module]:
    """The network that a file's names are those of, with its weights.

    Raises:
        CheckpointError: it is none that is known; the message has the first names.
    """
    state = foreign_state(file, UNCHANGED)
    origin = recognise(state)
    if origin is None:
        known = f"{', '.join(ORIGINS)}, coclr-s3d, coclr-s3dg"
        raise CheckpointError(
            f"weights must be those of {known}, but {file} has {', '.join(list(state)[:SHOWN])}{_more(list(state))}"
        )
    backbone = make_backbone(origin.backbone, {})
    set_eps(backbone, origin.eps)
    load_strictly(backbone, with_counters(backbone, origin.renamed(state))[0], str(file))
    return origin, backbone


def _renormalised(backbone: nn.Module, origin: Origin, config: Config) -> nn.Module:
    a = config.augment
    return Renormalised(backbone, (a.mean, a.std), (origin.mean, origin.std))


def load_weights(module: nn.Module, file: Path, prefixes: Mapping[str, str]) -> tuple[list[str], Origin | None]:
    """``load_foreign`` -> its notes, and whose weights they are, if their names tell."""
    own = [name for name in module.state_dict() if not name.endswith(COUNTER)]
    state, notes, origin, fix = foreign_state(file, prefixes, own), list[str](), None, ""
    prefix = fitting_prefix(state, own)
    if prefixes == UNCHANGED and (origin := recognise(state)) is not None:
        state, fix = origin.renamed(state), f"; it is {origin.name}, which {_use_of(origin, file)}"
        set_eps(module, origin.eps)
        notes.append(f"note: {file} is {origin.name}: its names, its normalisation of pixels and its eps are used")
    elif prefixes == UNCHANGED and all(PREFIX + name in state for name in own):
        state = rename(state, {PREFIX: ""})  # a checkpoint of this program
    elif prefixes == UNCHANGED and prefix and all(name.startswith(prefix) for name in state):
        state = rename(state, {prefix: ""})
        notes.append(f"note: all names in {file} begin with {prefix}, which is left out")
    elif prefixes == UNCHANGED and prefix:
        fix = f"; --prefix {prefix}= would make them fit"
    state, started = with_counters(module, state)
    load_strictly(module, state, str(file), fix)
    if started:
        notes.append(f"note: {file} has no {COUNTER}, so the {started} counters start at 0")
    return notes, origin


def _use_of(origin: Origin, file: Path) -> str:
    if origin.backbone in OTHERS:  # no backbone of ours
        return f"--baseline {origin.name}={file} evaluates"
    return f"fits backbone.name={origin.backbone}"


def with_counters(module: nn.Module, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], int]:
    """The same tensors, with 0 for each counter of ``module`` that they lack, and how many these are."""
    own = module.state_dict()
    absent = {name: torch.zeros_like(own[name]) for name in own if name.endswith(COUNTER) and name not in state}
    return {**state, **absent}, len(absent)


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], source: str, fix: str = "") -> None:
    """Load ``state`` into ``module``; names and shapes must match exactly, and all values must be finite.

    Args:
        source, fix: for the error, where ``state`` comes from and what would make it fit.

    Raises:
        CheckpointError: see ``load_backbone``.
    """
    own = module.state_dict()
    problems = {
        "lacks": [name for name in own if name not in state],
        "also has": [name for name in state if name not in own],
        "has the wrong shape for": [
            f"{name}, {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
            for name in own
            if name in state and state[name].shape != own[name].shape
        ],
    }
    found = [f"{what} {', '.join(names[:SHOWN])}{_more(names)}" for what, names in problems.items() if names]
    if found:
        raise CheckpointError(f"the weights must fit the backbone, but {source} {'; '.join(found)}{fix}")
    module.load_state_dict(dict(state))
    for name, value in module.state_dict().items():
        if bad := int((~value.isfinite()).sum()):
            raise CheckpointError(
                f"weights must be finite, but {bad} of the {value.numel()} values of {name} in {source} are not"
            )


def _more(names: list[str]) -> str:
    return f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
