"""Encoders from files of other programs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import load_file

import paramcrop
from paramcrop.errors import CheckpointError, ConfigError
from paramcrop.evaluation.checks import weight_notes
from paramcrop.evaluation.features import Normalise
from paramcrop.models.foreign import FILES, ORIGINS, set_eps
from paramcrop.models.s3d import S3D
from ray_jobs.evaluate.options import PRETRAINED, baseline_files, parse_arguments
from tests.labelled import make_job
from tests.models.test_foreign import coclr_state


@pytest.fixture(scope="module")
def r3d(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of torchvision's r3d_18, as torchvision stores it."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("torchvision") / "r3d_18-b3b3357e.pth"
    torch.save(torchvision.models.video.r3d_18().state_dict(), file)
    return file


def test_a_file_of_torchvisions_is_an_encoder_by_its_names(r3d: Path, tmp_path: Path) -> None:
    encoder = paramcrop.load(r3d)
    assert encoder.description.pretraining.run == "torchvision-r3d_18" and encoder.features == 512
    video = torch.randint(0, 256, (40, 32, 40, 3), dtype=torch.uint8)
    clips = encoder.preprocess(video, clips=2)
    assert clips.shape == (2, 3, 16, 112, 112)
    mean = torch.tensor(encoder.description.input.mean)[:, None, None, None]
    pixels = clips * torch.tensor(encoder.description.input.std)[:, None, None, None] + mean
    assert pixels.min() > -1e-5 and pixels.max() < 1 + 1e-5
    encoder.save_pretrained(tmp_path / "saved")
    small = clips[:, :, :4, :32, :32]
    assert torch.equal(paramcrop.load(tmp_path / "saved")(small), encoder(small))


def test_coclrs_eps_is_kept_by_the_saved_encoder(tmp_path: Path) -> None:
    network = S3D()
    torch.save({"state_dict": coclr_state(network)}, tmp_path / "coclr.pth.tar")
    paramcrop.load(tmp_path / "coclr.pth.tar").save_pretrained(tmp_path / "saved")
    encoder, clips = paramcrop.load(tmp_path / "saved"), torch.randn(1, 3, 8, 32, 32)
    set_eps(network.eval(), 1e-5)
    assert torch.equal(encoder(clips), network(clips))


def test_an_encoder_like_another_has_the_eps_and_pixels_of_its_weights(tmp_path: Path) -> None:
    torch.save({"state_dict": coclr_state(S3D())}, tmp_path / "coclr.pth.tar")
    own = paramcrop.load(tmp_path / "coclr.pth.tar")
    other = own.description.input.model_copy(update={"mean": 0.5, "std": 0.5})
    own.description = own.description.model_copy(update={"input": other})
    own.save_pretrained(tmp_path / "other")
    like = paramcrop.load(tmp_path / "coclr.pth.tar", like=tmp_path / "other").description
    assert (like.architecture.eps, like.input.mean, like.input.std) == (
        1e-5,
        (0.485, 0.456, 0.406),
        (0.229, 0.224, 0.225),
    )


def test_other_weights_need_an_encoder_that_they_are_like(exported: Path, tmp_path: Path) -> None:
    state = load_file(exported / "model.safetensors")
    file = tmp_path / "slowfast.pyth"
    torch.save({"model_state": {f"module.{name}": value for name, value in state.items()}, "cfg": "x"}, file)
    own = paramcrop.load(exported)
    theirs = paramcrop.load(file, like=exported)
    clips = own.preprocess(torch.randint(0, 256, (20, 32, 40, 3), dtype=torch.uint8))
    assert torch.equal(theirs(clips), own(clips))
    assert theirs.description.pretraining.run == "slowfast"
    with pytest.raises(CheckpointError, match=r"weights must be those of torchvision-s3d, .* has module\."):
        paramcrop.load(file)
    with pytest.raises(ConfigError, match=r"like=.* needs a file of weights as load's source, but that is "):
        paramcrop.load(exported, like=exported)


def test_a_torchvision_baseline_is_a_subject_of_its_own(evaluated: Path, labelled: str, r3d: Path) -> None:
    job = make_job(evaluated, labelled, "knn")
    baseline = replace(job, subject="torchvision-r3d_18", weights=str(r3d))
    assert baseline.eval_id != job.eval_id and weight_notes([baseline]) == []
    network, pixels = baseline.network().eval(), torch.rand(1, 3, 4, 32, 32)
    augment = job.settings.augment
    encoder = paramcrop.load(r3d)
    own = Normalise(encoder.description.input.mean, encoder.description.input.std)(pixels)
    torch.testing.assert_close(network((pixels - augment.mean) / augment.std), encoder(own), rtol=1e-4, atol=1e-5)
    with pytest.raises(CheckpointError, match=r"the file of torchvision-s3d must have its weights, but .*r3d"):
        replace(baseline, subject="torchvision-s3d").network()


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["resnet"], "--baseline must be one of random-init, pixels, torchvision-s3d, .*, but is 'resnet'"),
        (["pixels=a.pth"], "--baseline pixels has no file"),
        (["torchvision-s3d=a", "torchvision-s3d=b"], "--baseline must name each once"),
    ],
)
def test_baselines_are_checked_at_once(texts: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_arguments(["--baseline", *texts], "")


def test_a_baselines_file_is_given_or_torchvisions_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    kept = tmp_path / "hub" / "checkpoints" / FILES["torchvision-s3d"]
    assert baseline_files(["pixels", f"torchvision-r3d_18={tmp_path}/r.pth"]) == {
        "torchvision-r3d_18": f"{tmp_path}/r.pth"
    }
    with pytest.raises(ConfigError, match=r"--baseline torchvision-s3d needs its file, torchvision-s3d=FILE: https://"):
        baseline_files(["torchvision-s3d"])
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"")
    assert baseline_files(["torchvision-s3d"]) == {"torchvision-s3d": str(kept)}
    assert set(PRETRAINED) == set(ORIGINS) == set(FILES)
