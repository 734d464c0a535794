"""A run's encoder as files, and back."""

from __future__ import annotations

import json
import runpy
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import paramcrop
from paramcrop.data.synthetic import render
from paramcrop.data.video import encode
from paramcrop.errors import CheckpointError, ConfigError, DataError, ParamCropError, VideoError
from paramcrop.evaluation.evaluate import evaluate
from paramcrop.evaluation.features import Forward, Normalise, clip_outputs
from paramcrop.evaluation.videos import open_split, rows
from paramcrop.evaluation.weights import load_backbone, pick_checkpoint, read_config
from paramcrop.export.load import from_run
from tests.labelled import make_job
from tests.wheel import ROOT

CPU = torch.device("cpu")
FORWARD = Forward(Normalise(0.45, 0.225), CPU, torch.float32)
FRAMES = render("circle", 20, 32, 40, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("protocol", "overrides"), [("knn", ()), ("paper-linear", ("epochs=1", "batch=16")), ("paper-retrieval-10clip", ())]
)
def test_the_exported_weights_give_the_runs_own_numbers(
    evaluated: Path, exported: Path, labelled: str, protocol: str, overrides: tuple[str, ...]
) -> None:
    own = make_job(evaluated, labelled, protocol, "test_clips=2", *overrides)
    file = str(exported / "model.safetensors")
    theirs = replace(own, subject="weights", weights=file, prefixes=(("", ""),))
    assert theirs.eval_id != own.eval_id
    first, second = evaluate(own, CPU, map), evaluate(theirs, CPU, map)
    assert first["rows"] == second["rows"] and first["scores"] == second["scores"]


def test_the_same_run_gives_the_same_bytes(evaluated: Path, exported: Path, tmp_path: Path) -> None:
    again = from_run(evaluated, licence="cc-by-4.0").save_pretrained(tmp_path / "again")
    assert sorted(path.name for path in again) == sorted(path.name for path in exported.iterdir())
    for path in again:
        assert path.read_bytes() == (exported / path.name).read_bytes(), path.name
    loaded = paramcrop.load(exported).save_pretrained(tmp_path / "through a load")
    assert [path.read_bytes() for path in loaded] == [path.read_bytes() for path in again]


def test_the_names_are_the_backbones_own(evaluated: Path, exported: Path) -> None:
    from safetensors.torch import load_file

    checkpoint, _ = pick_checkpoint(evaluated)
    state = load_backbone(read_config(evaluated), checkpoint).state_dict()
    stored = load_file(exported / "model.safetensors")
    assert sorted(stored) == sorted(state) and all(torch.equal(stored[name], state[name]) for name in state)


def test_an_encoder_is_loaded_from_its_folder_its_run_and_the_runs_id(
    evaluated: Path, exported: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copytree(evaluated, tmp_path / "runs" / "tiny-0123456789ab")
    monkeypatch.setenv("PARAMCROP_HOME", str(tmp_path))
    sources = (exported, str(exported), evaluated, "tiny-0123456789ab", "0123456789ab")
    encoders = [paramcrop.load(source) for source in sources]
    clips = encoders[0].preprocess(FRAMES, clips=2)
    features = encoders[0](clips)
    assert features.shape == (2, encoders[0].features) and not encoders[0].training
    assert all(torch.equal(encoder(clips), features) for encoder in encoders[1:])
    assert torch.equal(encoders[0].forward_features(clips).mean((2, 3, 4)), features)
    assert not torch.equal(paramcrop.load(exported, pretrained=False)(clips), features)
    shutil.copytree(evaluated, tmp_path / "runs" / "other-0123456789ab")
    with pytest.raises(DataError, match=r"must name one run, but 0123456789ab is the id of other-.* and tiny-"):
        paramcrop.load("0123456789ab")


def test_preprocessing_is_that_of_an_evaluation(exported: Path, labelled: str, tmp_path: Path) -> None:
    encoder, videos = paramcrop.load(exported), open_split(labelled, "test")
    outputs = clip_outputs(encoder, videos, encoder.description.input.clips(10), FORWARD, map)
    row = next(iter(rows(videos)))
    (tmp_path / "video.mp4").write_bytes(row["video"])
    with torch.no_grad():
        for video in (row["video"], tmp_path / "video.mp4", str(tmp_path / "video.mp4")):
            assert torch.equal(encoder(encoder.preprocess(video, clips=10)), outputs.clips[0])


def test_frames_and_their_file_give_clips_alike(exported: Path) -> None:
    encoder = paramcrop.load(exported)
    shown = encoder.description.input
    clips = encoder.preprocess(torch.from_numpy(FRAMES))
    assert clips.shape == (1, 3, shown.frames, shown.size, shown.size) and clips.dtype == torch.float32
    assert torch.equal(clips, encoder.preprocess(FRAMES))
    assert (clips - encoder.preprocess(encode(FRAMES, 12.0).data)).abs().mean() < 0.1  # H.264 loses a little


def test_the_card_has_settings_data_results_and_the_hubs_metadata(evaluated: Path, exported: Path) -> None:
    from huggingface_hub import ModelCard

    text = (exported / "README.md").read_text()
    card = ModelCard.load(exported / "README.md")
    assert card.data.license == "cc-by-4.0" and card.data.library_name == "paramcrop"
    results = {(r.task_type, r.metric_name): r for r in card.data.eval_results or []}
    stored = [json.loads(file.read_text()) for file in (evaluated / "evaluations").glob("*.json")]
    (own,) = [r for r in stored if r["subject"] == "run" and r["protocol"].startswith("knn")]
    value = {row["metric"]: row["value"] for row in own["rows"]}["video@1"]
    found = results["video-classification", "video@1, %"]
    assert found.metric_value == round(100 * value, 2) and found.dataset_split == "test"
    assert found.metric_args["videos"] == 13 and found.metric_args["interval_95"] > 5
    assert ("video-retrieval", "R@1, %") in results and len(results) == 3 + 4  # none of the baseline's
    for part in (
        f"| video@1 | {100 * value:.1f} ± ",
        "| `backbone.width` | 8 |",
        "| `policy` | paramcrop |",
        "2108.10501",
    ):
        assert part in text, part
    assert str(evaluated.parent) not in text and "Licence\n\nOf the weights: cc-by-4.0" in text


def test_a_run_without_results_says_so(tiny_run: Path) -> None:
    card = from_run(tiny_run, epoch=1).card
    assert "had not been evaluated" in card and "model-index" not in card and "license: unknown" in card
    assert "after epoch 1" in card


def edited(exported: Path, folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy whose config.json is changed."""
    shutil.copytree(exported, folder)
    content = json.loads((folder / "config.json").read_text())
    change(content)
    (folder / "config.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c["architecture"].update(name="vit"),
            "architecture.name must be one of r2d3d, .* vit",
        ),
        (
            lambda c: c["architecture"]["settings"].update(width=16),
            "features must be the architecture's, ",
        ),
        (lambda c: c["architecture"]["settings"].update(heads=2), "architecture.settings must suit r2d3d"),
        (lambda c: c.update(features=7), "features must be the architecture's, "),
        (lambda c: c.update(sha256="0" * 64), "model.safetensors must have the sha256 of config.json"),
        (lambda c: c["input"].update(frames=0), "config.json .* input.frames: "),
        (lambda c: c.update(library_name="timm"), "config.json must be that of an exported encoder, but "),
        (lambda c: c["architecture"].update(name="os:system"), "needs trust=True, which imports it: .* os:system"),
    ],
)
def test_files_that_do_not_fit_are_one_line(
    exported: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    with pytest.raises(ParamCropError, match=message) as caught:
        paramcrop.load(edited(exported, tmp_path / "edited", change))
    assert "\n" not in str(caught.value)


def test_missing_and_damaged_files_are_one_line(exported: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    (copy / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match="weights must be a file of tensors that torch can load: "):
        paramcrop.load(copy)
    (copy / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="No such file"):
        paramcrop.load(copy)
    with pytest.raises(DataError, match=r"load's source must be the folder of a run, but neither .*absent"):
        paramcrop.load(tmp_path / "absent")


def test_nothing_else_is_overwritten(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(ConfigError, match=r"an encoder needs a folder of its own, but .* has another README\.md"):
        paramcrop.load(exported).save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


@pytest.mark.parametrize("frames", [FRAMES.astype(np.float32), FRAMES[0], FRAMES.transpose(0, 3, 1, 2), FRAMES[:0]])
def test_other_frames_are_refused(exported: Path, frames: np.ndarray) -> None:
    with pytest.raises(VideoError, match=r"frames must be uint8 \(T, H, W, 3\), but are "):
        paramcrop.load(exported).preprocess(frames)
    with pytest.raises(VideoError, match=r"a video must be a readable file, but absent\.mp4 is not"):
        paramcrop.load(exported).preprocess("absent.mp4")


def test_a_class_of_ones_own_is_loaded_if_it_is_trusted(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "exported_net.py").write_text(
        "from paramcrop import R2D3D\n\n\ndef Net(width):\n    return R2D3D(depth=10, width=width)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    own = {"name": "exported_net:Net", "settings": {"width": 8}}
    folder = edited(exported, tmp_path / "own", lambda c: c.update(architecture=own))
    clips = paramcrop.load(exported).preprocess(FRAMES)
    assert torch.equal(paramcrop.load(folder, trust=True)(clips), paramcrop.load(exported)(clips))


def test_torch_hub_finds_the_encoder(exported: Path) -> None:
    encoder = torch.hub.load(str(ROOT), "encoder", str(exported), source="local")
    assert encoder.features == paramcrop.load(exported).features
    names = runpy.run_path(str(ROOT / "hubconf.py"))
    assert [name for name, value in names.items() if callable(value) and name[0] != "_"] == ["encoder"]


def test_torch_export_takes_it_with_any_batch(exported: Path) -> None:
    encoder = paramcrop.load(exported)
    clips = encoder.preprocess(FRAMES, clips=3)
    program = torch.export.export(encoder, (clips[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},))
    assert torch.equal(program.module()(clips), encoder(clips))
