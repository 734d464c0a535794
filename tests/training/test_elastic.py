"""A run whose number of ranks changes learns what a run on one rank learns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from paramcrop import dist
from paramcrop.data.batch import shard_batch
from paramcrop.storage.checkpoint import newest_checkpoint
from paramcrop.storage.jsonl import read_lines
from paramcrop.storage.runs import read_metrics
from paramcrop.training.pretrain import pretrain
from paramcrop.training.recorder import Recorder
from paramcrop.training.two_views import build_model, distribute
from tests.memory import on_two_ranks, tiny_config
from tests.training.made_runs import SETTINGS, STEPS, batches, run

ALL_NORMS = ("projector.batch_norm=true", "projector.final_batch_norm=true", "train.workers=1..2")
SLOW = ("run.log_every=1", "optim.lr=0.001", "cropper.lr=0.0001")  # large steps would blow up rounding
CPU = torch.device("cpu")


def gradients() -> tuple[float, dict[str, Tensor]]:
    """The loss over all ranks, and the gradients of this rank's share of the first batch."""
    config = tiny_config(*ALL_NORMS, "augment.jitter=1")
    mine = shard_batch(next(batches(config)(0)), dist.rank(), dist.world_size())
    model = build_model(config, CPU)
    wrapped = distribute(model, CPU, config.elastic)  # the reference keeps DDP alive; otherwise nothing is reduced
    loss, _ = wrapped(mine, 0.0)
    loss.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return dist.mean_over_ranks(loss).item(), found


def test_two_ranks_equal_one_in_loss_and_in_every_gradient_with_batch_norms_everywhere(tmp_path: Path) -> None:
    loss, expected = gradients()
    scale = max(float(grad.abs().max()) for grad in expected.values())
    for rank_loss, named in on_two_ranks(gradients, tmp_path):
        assert rank_loss == pytest.approx(loss, abs=1e-4)
        for name, grad in named.items():
            torch.testing.assert_close(grad, expected[name], rtol=1e-3, atol=1e-5 * scale, msg=name)


def _on_two(folder: str, cut_at: int | None) -> None:
    run(Path(folder), tiny_config(*SETTINGS, *ALL_NORMS, *SLOW), cut_at)


def test_two_ranks_then_one_then_two_equal_one(tmp_path: Path) -> None:
    """In every metric of every step, up to rounding; the videos of each step are the same."""
    config = tiny_config(*SETTINGS, *ALL_NORMS, *SLOW)
    whole, moved = tmp_path / "whole", tmp_path / "moved"
    run(whole, config)
    on_two_ranks(_on_two, tmp_path, str(moved), 3)
    run(moved, config, 5)
    (tmp_path / "store").unlink()
    on_two_ranks(_on_two, tmp_path, str(moved), None)
    assert read_lines(moved / "samples.jsonl") == read_lines(whole / "samples.jsonl")
    for ours, theirs in zip(read_metrics(moved), read_metrics(whole), strict=True):
        for name in ("loss", "similarity_gap", "grad_norm", "crop_distance"):
            assert ours[name] == pytest.approx(theirs[name], rel=0.02, abs=1e-3), (name, ours["step"])


def test_each_reason_for_a_checkpoint_gives_one(tmp_path: Path) -> None:
    """A machine that comes, goes and comes again is asked for twice; every request is repeated with each line."""
    config, reports, calls = tiny_config(*SETTINGS, "run.log_every=1"), list[dict[str, float]](), list[int]()
    asked = ["", "request 1", "request 1", "request 1", "", "request 2", "request 2", "request 2"]

    def preempted() -> str:
        calls.append(1)
        return asked[len(calls) - 1]

    pretrain(config, batches(config), STEPS, Recorder(tmp_path), reports.append, preempted=preempted)
    within = [report["step"] for report in reports if "loss" not in report]
    assert within == [2, 6] and len(calls) == len(asked)
    assert newest_checkpoint(tmp_path)[0] is not None
