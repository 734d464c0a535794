from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from paramcrop.errors import CheckpointError
from paramcrop.evaluation.weights import (
    PREFIX,
    Pixels,
    foreign_backbone,
    load_backbone,
    load_foreign,
    load_strictly,
    named_backbone,
    pick_checkpoint,
    random_backbone,
    read_config,
)
from paramcrop.models.foreign import set_eps
from paramcrop.models.s3d import S3D
from paramcrop.storage.checkpoint import load_checkpoint, save_checkpoint
from paramcrop.storage.foreign import foreign_state
from tests.memory import tiny_config
from tests.models.test_foreign import coclr_state


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


def saved(file: Path, content: Any) -> Path:
    torch.save(content, file)
    return file


def theirs() -> dict[str, Tensor]:
    return dict(random_backbone(tiny_config(), 1).state_dict())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_the_error_names_the_first_weight_that_is_not_finite(tmp_path: Path, value: float) -> None:
    state = theirs()
    first, second = [name for name, tensor in state.items() if tensor.ndim == 5][1:3]
    for name in (first, second):
        state[name] = state[name].clone()
        state[name].view(-1)[3] = value
    file = saved(tmp_path / "nan.pt", state)
    with pytest.raises(CheckpointError) as caught:
        load_foreign(random_backbone(tiny_config(), 2), file, {"": ""})
    count = state[first].numel()
    assert str(caught.value) == f"weights must be finite, but 1 of the {count} values of {first} in {file} are not"


def test_a_runs_own_weights_must_be_finite(tiny_run: Path, tmp_path: Path) -> None:
    state, meta = load_checkpoint(tiny_run / "checkpoints" / "epoch=0002")
    name = next(name for name in state["model"] if name.startswith(PREFIX))
    state["model"][name].view(-1)[0] = torch.nan
    save_checkpoint(tmp_path / "epoch=0002", state, {"epoch": 2, "step": meta["step"]})
    with pytest.raises(CheckpointError, match=f"values of {name.removeprefix(PREFIX)} in .* are not"):
        load_backbone(read_config(tiny_run), tmp_path / "epoch=0002")


def test_a_checkpoint_without_counters_loads_with_a_note(tmp_path: Path) -> None:
    state = theirs()
    old = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    ours = random_backbone(tiny_config(), 2)
    file = saved(tmp_path / "old.pt", old)
    counters = len(state) - len(old)
    (note,) = load_foreign(ours, file, {"": ""})
    assert note == f"note: {file} has no num_batches_tracked, so the {counters} counters start at 0" and counters > 3
    assert all(torch.equal(value, ours.state_dict()[name]) for name, value in old.items())
    assert load_foreign(ours, saved(tmp_path / "new.pt", state), {"": ""}) == []
    del old[next(iter(old))]
    with pytest.raises(CheckpointError, match=r"lacks stem\.0\.weight$"):  # only counters may be missing
        load_foreign(ours, saved(tmp_path / "less.pt", old), {"": ""})


@pytest.mark.parametrize("keys", [("model_state",), ("encoder",), ("target_network",), ("ema", "model"), ("x", "y")])
def test_a_network_is_found_wherever_a_file_has_it(tmp_path: Path, keys: tuple[str, ...]) -> None:
    state: Any = theirs()
    for key in reversed(keys):
        state = {key: state, "epoch": 3, "cfg": "x", "optimizer": {"state": {0: {"step": torch.ones(1)}}}}
    ours = random_backbone(tiny_config(), 2)
    assert load_foreign(ours, saved(tmp_path / "theirs.pt", state), {"": ""}) == []
    assert torch.equal(ours.state_dict()["stem.0.weight"], theirs()["stem.0.weight"])


def test_one_of_several_networks_is_chosen_by_its_prefix(tmp_path: Path) -> None:
    student, teacher = theirs(), {f"module.{name}": value for name, value in theirs().items()}
    file = saved(tmp_path / "dino.pt", {"student": student, "teacher": teacher, "epoch": 3})
    with pytest.raises(CheckpointError) as caught:
        foreign_state(file, {"": ""})
    n = len(student)
    assert str(caught.value) == (
        f"weights must be those of one network, but {file} has several: student ({n} tensors), teacher ({n} tensors); "
        "choose one, as in --prefix student.="
    )
    ours = random_backbone(tiny_config(), 2)
    assert load_foreign(ours, file, {"teacher.module.": ""}) == []


def test_a_prefix_of_all_names_is_left_out_with_a_note(tmp_path: Path) -> None:
    """What SlowFast (model_state) and V-JEPA (encoder) keep, of an architecture that is ours."""
    state = {f"module.backbone.{name}": value for name, value in theirs().items()}
    ours = random_backbone(tiny_config(), 2)
    file = saved(tmp_path / "vjepa.pt", {"encoder": state, "opt": {}, "scaler": None})
    (note,) = load_foreign(ours, file, {"": ""})
    assert note == f"note: all names in {file} begin with module.backbone., which is left out"
    assert all(torch.equal(value, theirs()[name]) for name, value in ours.state_dict().items())
    assert load_foreign(ours, file, {"module.backbone.": ""}) == []


def test_a_prefix_that_would_make_the_weights_fit_is_named(tmp_path: Path) -> None:
    state = {f"module.backbone.{name}": v for name, v in theirs().items()} | {"head.weight": torch.ones(1)}
    ours = random_backbone(tiny_config(), 2)
    file = saved(tmp_path / "vjepa.pt", {"encoder": state})
    with pytest.raises(CheckpointError, match=r"; --prefix module.backbone.= would make them fit$"):
        load_foreign(ours, file, {"": ""})
    assert load_foreign(ours, file, {"module.backbone.": ""}) == []
    several = saved(tmp_path / "three.pt", {"predictor": {"x": torch.ones(1)}, "target_encoder": state})
    with pytest.raises(CheckpointError, match=r"as in --prefix target_encoder\.module\.backbone\.=$"):
        load_foreign(ours, several, {"": ""})
    assert load_foreign(ours, several, {"target_encoder.module.backbone.": ""}) == []


def test_what_is_there_is_named_where_the_architecture_is_not_ours(tmp_path: Path) -> None:
    vit = {
        "module.backbone.patch_embed.proj.weight": torch.ones(2, 3, 2, 16, 16),
        "module.backbone.norm.bias": torch.ones(2),
    }
    file = saved(tmp_path / "vitl16.pth.tar", {"target_encoder": vit, "epoch": 3})
    with pytest.raises(CheckpointError, match=r"also has module\.backbone\.patch_embed\.proj\.weight"):
        load_foreign(random_backbone(tiny_config(), 2), file, {"": ""})
    with pytest.raises(
        CheckpointError, match=r"must be those of torchvision-s3d, .*, but .* has module.backbone.patch_"
    ):
        named_backbone(file)


def test_coclrs_weights_load_by_name_with_their_eps_and_pixels(tmp_path: Path) -> None:
    small = S3D(width=8)
    file = saved(tmp_path / "epoch.pth.tar", {"epoch": 3, "state_dict": coclr_state(small), "iteration": 9})
    config = tiny_config("backbone.name=s3dg", "backbone.width=8")
    network: Any = foreign_backbone(config, file, {"": ""})
    set_eps(small.eval(), 1e-5)
    clips = torch.rand(1, 3, 8, 32, 32)
    own = (clips - torch.tensor([0.485, 0.456, 0.406])[:, None, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
        :, None, None, None
    ]
    given = (clips - config.augment.mean) / config.augment.std
    torch.testing.assert_close(network.eval()(given), small(own))
    (note,) = load_foreign(random_backbone(config, 2), file, {"": ""})
    assert note.endswith("is coclr-s3dg: its names, its normalisation of pixels and its eps are used")
    with pytest.raises(CheckpointError, match=r"; it is coclr-s3dg, which fits backbone\.name=s3dg$"):
        load_foreign(random_backbone(tiny_config("backbone.name=s3d", "backbone.width=8"), 2), file, {"": ""})


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("key", "value", "kind"),
    [
        ("best_acc", np.float64(3.0), "numpy._core.multiarray.scalar"),
        ("args", argparse.Namespace(lr=1), "argparse.Namespace"),
        ("classes", np.ones(3), "numpy._core.multiarray._reconstruct"),
    ],
)
def test_what_is_no_tensor_is_named_with_what_to_do(
    tmp_path: Path, key: str, value: Any, kind: str, zipped: bool
) -> None:
    file = tmp_path / "theirs.pt"
    torch.save({"state_dict": theirs(), key: value}, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError) as caught:
        foreign_state(file, {"": ""})
    named = f"{key} ({kind})" if zipped else kind
    assert f"but {file} also has {named}; if you trust it, read it with torch.load(" in str(caught.value)
    assert "\n" not in str(caught.value) and str(caught.value).endswith("torch.save its tensors alone")


def test_a_file_without_tensors_says_what_it_has(tmp_path: Path) -> None:
    for content, found in (
        ({"epoch": 3, "cfg": "x"}, "contains only epoch, cfg"),
        ([1, 2], "contains a list"),
        ({}, "contains an empty mapping"),
    ):
        with pytest.raises(CheckpointError, match=found):
            foreign_state(saved(tmp_path / "theirs.pt", content), {"": ""})


def test_a_checkpoint_of_this_program_is_loaded_as_it_is(tiny_run: Path) -> None:
    checkpoint, _ = pick_checkpoint(tiny_run)
    config = read_config(tiny_run)
    theirs, ours = load_backbone(config, checkpoint).state_dict(), random_backbone(config, 9)
    assert load_foreign(ours, checkpoint / "state.pt", {"": ""}) == []
    assert all(torch.equal(theirs[name], value) for name, value in ours.state_dict().items())
