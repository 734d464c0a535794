from __future__ import annotations

from pathlib import Path

import pytest
import torch

from paramcrop.errors import CheckpointError
from paramcrop.evaluation.weights import (
    Pixels,
    foreign_state,
    load_backbone,
    load_strictly,
    pick_checkpoint,
    random_backbone,
    read_config,
)
from paramcrop.storage.checkpoint import load_checkpoint
from tests.memory import tiny_config


def test_a_runs_backbone_is_the_checkpoints(tiny_run: Path) -> None:
    checkpoint, epoch = pick_checkpoint(tiny_run)
    backbone = load_backbone(read_config(tiny_run), checkpoint)
    state, _ = load_checkpoint(checkpoint)
    assert epoch == 2
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, state["model"][f"method.backbone.{name}"])


def test_a_checkpoint_is_picked_by_epoch(tiny_run: Path, tmp_path: Path) -> None:
    assert pick_checkpoint(tiny_run, 1)[1] == 1
    with pytest.raises(CheckpointError, match=r"--epoch must be that of a checkpoint of .* \(1, 2\), but is 7"):
        pick_checkpoint(tiny_run, 7)
    with pytest.raises(CheckpointError, match=r"must have an intact checkpoint, but .*: there are no checkpoints"):
        pick_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=r"must have a config.yaml, but .*: No such file"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("backbone.width=16",), "has the wrong shape for stem.0.weight"),
        (("backbone.name=s3dg",), "lacks "),
        (("backbone.depth=18",), "lacks .* and [0-9]+ more"),
    ],
)
def test_the_error_names_weights_that_do_not_fit(tiny_run: Path, overrides: tuple[str, ...], message: str) -> None:
    checkpoint, _ = pick_checkpoint(tiny_run)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_backbone(tiny_config(*overrides), checkpoint)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_random_weights_follow_from_the_seed_and_leave_torchs_generator_alone() -> None:
    config = tiny_config()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, again, other = (random_backbone(config, seed).state_dict() for seed in (0, 0, 1))
    assert torch.rand(1) == expected
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("wrapped", [None, "state_dict", "model"])
def test_a_foreign_checkpoint_is_loaded_with_its_prefixes(tmp_path: Path, wrapped: str | None) -> None:
    theirs, ours = random_backbone(tiny_config(), 1), random_backbone(tiny_config(), 2)
    state = {f"module.encoder.{name}": value for name, value in theirs.state_dict().items()} | {
        "fc.weight": torch.ones(1)
    }
    torch.save({wrapped: state, "epoch": 3} if wrapped else state, tmp_path / "theirs.pt")
    load_strictly(ours, foreign_state(tmp_path / "theirs.pt", {"module.encoder.": ""}), "theirs.pt")
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())
    with pytest.raises(CheckpointError, match=r"theirs.pt lacks .*; also has module.encoder"):
        load_strictly(ours, foreign_state(tmp_path / "theirs.pt", {"": ""}), "theirs.pt")


def test_the_error_for_a_file_without_weights_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("no weights")
    torch.save([1, 2], tmp_path / "list.pt")
    for name in ("absent.pt", "text.pt", "list.pt"):
        with pytest.raises(CheckpointError, match="weights must be a") as caught:
            foreign_state(tmp_path / name, {"": ""})
        assert "\n" not in str(caught.value)


def test_pixel_features_are_means_over_cells() -> None:
    x = torch.rand(2, 3, 8, 16, 16)
    features = Pixels((2, 4, 4))(x)
    assert features.shape == (2, Pixels((2, 4, 4)).features)
    assert features[1, 0].item() == pytest.approx(x[1, 0, :4, :4, :4].mean().item(), rel=1e-5)
