"""The classifier that a semi-supervised run has learned, student and teacher, without further training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from paramcrop.data.synthetic import CLASSES
from paramcrop.errors import CheckpointError
from paramcrop.evaluation.evaluate import evaluate
from paramcrop.evaluation.job import Job
from paramcrop.evaluation.weights import trained_classifier
from paramcrop.storage.checkpoint import load_checkpoint
from paramcrop.training.build import build_clip_spec
from paramcrop.training.pretrain import pretrain
from paramcrop.training.recorder import Recorder
from tests.labelled import BROKEN, RUN, TEST, make_job
from tests.memory import made_clips, memory_batches, tiny_config

CONFIG = tiny_config(*RUN, "method=mean_teacher", "optim.lr=0.1", "mean_teacher.momentum=0.5", "data.split=train")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs with two steps each and all labels."""
    folder = tmp_path_factory.mktemp("taught")
    clips = made_clips(16, CONFIG.data.clip_frames, CONFIG.data.clip_size)
    recorder = Recorder(folder)
    pretrain(CONFIG, memory_batches(clips, build_clip_spec(CONFIG), 0, 8), 2, recorder, classes=CLASSES)
    recorder.close()
    return folder


def job(run: Path, folder: str, protocol: str, subject: str = "run") -> Job:
    made = make_job(run, folder, protocol, subject=subject)
    return replace(made, config=CONFIG.model_dump(mode="json"), run_data=made.content_id)


@pytest.mark.parametrize("network", ["student", "teacher"])
def test_it_gives_the_metrics_of_its_network(taught: Path, labelled: str, network: str) -> None:
    result = evaluate(job(taught, labelled, network), CPU, map)
    assert [row["metric"] for row in result["rows"]] == ["clip@1", "video@1", "video@5", "class mean"]
    assert all((row["n"], row["of"]) == (TEST - BROKEN, TEST) for row in result["rows"])
    assert result["protocol"].startswith(f"semi-supervised-{network}[")


def test_student_and_teacher_are_two_networks_with_rows_in_the_order_of_the_videos_classes(taught: Path) -> None:
    checkpoint = taught / "checkpoints" / "epoch=0002"
    state = load_checkpoint(checkpoint)[0]["model"]
    student, teacher = (trained_classifier(CONFIG, checkpoint, n, CLASSES) for n in ("student", "teacher"))
    assert torch.equal(student.get_parameter("1.weight"), state["method.head.weight"])
    assert torch.equal(teacher.get_parameter("1.weight"), state["method.teacher_head.weight"])
    assert not torch.equal(student.get_parameter("1.weight"), teacher.get_parameter("1.weight"))
    assert torch.equal(teacher.get_parameter("0.stem.0.weight"), state["method.teacher_backbone.stem.0.weight"])
    turned = trained_classifier(CONFIG, checkpoint, "student", CLASSES[::-1])
    assert torch.equal(turned.get_parameter("1.weight").flip(0), student.get_parameter("1.weight"))
    with pytest.raises(
        CheckpointError, match=r"must have learned the videos' classes, but it lacks \['other'\] and has \['u"
    ):
        trained_classifier(CONFIG, checkpoint, "student", ("other", *CLASSES[1:]))


def test_a_subject_without_a_classifier_is_an_error(taught: Path, tiny_run: Path, labelled: str) -> None:
    with pytest.raises(CheckpointError, match="tests the classifier of a run, but random-init has none"):
        evaluate(job(taught, labelled, "teacher", "random-init"), CPU, map)
    with pytest.raises(CheckpointError, match=r"only a run with method=mean_teacher .* has method=simclr"):
        evaluate(make_job(tiny_run, labelled, "teacher"), CPU, map)
