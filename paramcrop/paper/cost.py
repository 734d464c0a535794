"""The cost of a sweep at the paper's scale, computed from multiply-accumulates and measured rates.

GPU-seconds = FLOP / rate. FLOP = 2 x multiply-accumulates of a forward pass, and three times that with a backward pass.
Both rates are of one H200 in bfloat16 with clips of 16 x 112 x 112 in its memory (docs/numbers/gpu.md).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

from paramcrop.evaluation.protocols import Protocol, find_protocol
from paramcrop.settings.config import Config
from paramcrop.settings.identity import run_id
from paramcrop.settings.sections import Backbone
from paramcrop.sweeps.space import Space
from paramcrop.sweeps.trials import config_of, grid, make_trial
from paramcrop.training.build import build_backbone, view_size
from paramcrop.training.model_size import macs

# FLOP/s in training: a step of S3D-G at 2,928 views/s; the parts of one of R-2D3D-18, 3,457 views/s.
TRAINING = {"s3dg": 78.6e12, "s3d": 78.6e12, "r2d3d": 142.3e12}
# FLOP/s of the forward pass alone, launched one by one: 5,321 and 14,591 clips/s.
FEATURES = {"s3dg": 47.6e12, "s3d": 47.6e12, "r2d3d": 200.2e12}
WINDOW_SECONDS = 0.022  # time of one core to decode 64 frames of 170x128 with a keyframe every 16
KINETICS = 240_000
SPLITS = {"ucf101": ((9537, 3783), (9586, 3734), (9624, 3696)), "hmdb51": ((3570, 1530),) * 3}


class Cost(NamedTuple):
    """Hours of GPUs for pretraining and evaluation, and of CPU cores for decoding in pretraining."""

    pretraining: float
    evaluation: float
    decoding: float
    runs: int


def cost_of(spaces: Iterable[Space]) -> Cost:
    """The cost of several spaces together; a run or an evaluation that they share counts once."""
    runs: dict[str, Config] = {}
    evaluations: dict[tuple[str, str], float] = {}
    for space in spaces:
        for values in grid(space):
            trial = make_trial(space, values)
            for seed in space.seeds:
                config = config_of(space, trial, seed)
                run = run_id(config, "")
                runs[run] = config
                evaluations |= {(run, task): _evaluation(config, task) for task in trial.tasks or space.evaluate.tasks}
    videos = {run: videos_of(config) for run, config in runs.items()}
    trained = sum(_pretraining(config, videos[run]) for run, config in runs.items())
    decoded = sum(config.train.epochs * videos[run] * 2 * WINDOW_SECONDS for run, config in runs.items())
    return Cost(trained / 3600, sum(evaluations.values()) / 3600, decoded / 3600, len(runs))


def videos_of(config: Config) -> int:
    return SPLITS["hmdb51"][0][0] if config.method == "mean_teacher" else KINETICS


def _pretraining(config: Config, videos: int) -> float:
    """GPU-seconds of two views of every video, forward and backward."""
    views = 2 * config.train.epochs * videos
    return views * 3 * 2 * _macs(config, view_size(config)) / TRAINING[config.backbone.name]


def _evaluation(config: Config, task: str) -> float:
    """GPU-seconds over all splits."""
    dataset, _, name = task.rpartition("/")
    how, backbone = find_protocol(name), config.backbone.name
    flop = 2 * _macs(config, (how.frames, how.size, how.size))
    forward, update = flop / FEATURES[backbone], 3 * flop / TRAINING[backbone]  # seconds of a clip
    splits = [pair for name, pairs in SPLITS.items() if dataset in ("", name) for pair in pairs]
    return sum(_updates(how, train) * update + _features(how, train, test) * forward for train, test in splits)


def _updates(how: Protocol, train: int) -> float:
    """Clips that the backbone learns from in a split."""
    return how.epochs * how.labels * train if how.kind == "finetune" and how.train == "all" else 0


def _features(how: Protocol, train: int, test: int) -> float:
    """Clips that pass the backbone forward in a split."""
    clips = how.test_clips or 10
    if how.kind == "finetune":
        return (0 if how.train == "all" else how.epochs * how.labels * train) + test * clips
    return ((0 if how.kind == "classifier" else train) + test) * clips


def _macs(config: Config, size: tuple[int, int, int]) -> int:
    return _macs_of(config.backbone.model_dump_json(), size)


@cache
def _macs_of(backbone: str, size: tuple[int, int, int]) -> int:
    """Args:
    backbone: its section as JSON.
    """
    made = Backbone.model_validate_json(backbone)
    return macs(build_backbone(Config(backbone=made)), size)
