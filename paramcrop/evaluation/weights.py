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
from paramcrop.settings.config import Config
from paramcrop.settings.identity import recorded
from paramcrop.settings.presets import make_config
from paramcrop.storage.checkpoint import load_checkpoint, newest_checkpoint
from paramcrop.storage.foreign import fitting_prefix, foreign_state, rename
from paramcrop.storage.mirror import mirror_at
from paramcrop.training.build import build_backbone, features_of

SHOWN = 3  # maximum number of names in an error
COUNTER = "num_batches_tracked"  # of batch norm; checkpoints of old versions of PyTorch lack it
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

    Raises:
        CheckpointError: see ``foreign_state`` and ``load_strictly``.
    """
    state, own = foreign_state(file, prefixes), module.state_dict()
    if prefixes == {"": ""} and all(PREFIX + name in state for name in own if not name.endswith(COUNTER)):
        state = rename(state, {PREFIX: ""})  # a checkpoint of this program
    absent = {name: torch.zeros_like(own[name]) for name in own if name.endswith(COUNTER) and name not in state}
    prefix = fitting_prefix(state, [name for name in own if not name.endswith(COUNTER)])
    fix = f"; --prefix {prefix}= would make them fit" if prefix and prefixes == {"": ""} else ""
    load_strictly(module, state | absent, str(file), fix)
    return [f"note: {file} has no {COUNTER}, so the {len(absent)} counters start at 0"] if absent else []


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
