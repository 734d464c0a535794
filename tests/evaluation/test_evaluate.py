"""Complete evaluations in this process, on a dataset with some videos that do not decode."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from paramcrop.errors import CheckpointError, DataError
from paramcrop.evaluation import evaluate as evaluation
from paramcrop.evaluation import features
from paramcrop.evaluation.evaluate import evaluate
from paramcrop.evaluation.features import Forward, Normalise, clip_outputs
from paramcrop.evaluation.fitting.finetune import Classifier
from paramcrop.evaluation.job import Job
from paramcrop.evaluation.videos import open_split
from paramcrop.report.pictures import draw_results
from paramcrop.storage.results import write_result
from tests.labelled import BROKEN, RUN, TEST, TRAIN, make_job
from tests.memory import tiny_config

CPU = torch.device("cpu")
FORWARD = Forward(Normalise(0.45, 0.225), CPU, torch.float32)
SHORT = ("epochs=2", "batch=16")


def run(job: Job) -> dict[str, Any]:
    return evaluate(job, CPU, map)


@pytest.mark.parametrize("subject", ["run", "random-init", "pixels"])
@pytest.mark.parametrize(
    ("protocol", "overrides", "metrics"),
    [
        ("paper-finetune", SHORT, ["clip@1", "video@1", "video@5", "class mean"]),
        ("paper-linear", SHORT, ["clip@1", "video@1", "video@5", "class mean"]),
        ("frozen-linear-eval", ("epochs=20",), ["video@1", "video@5", "class mean"]),
        ("paper-retrieval-10clip", (), ["R@1", "R@5", "R@10", "R@20"]),
        ("coclr-retrieval-centred", (), ["R@1", "R@5", "R@10", "R@20"]),
        ("knn", (), ["video@1", "video@5", "class mean"]),
    ],
)
def test_every_protocol_counts_the_videos_that_were_read(
    tiny_run: Path, labelled: str, protocol: str, overrides: tuple[str, ...], metrics: list[str], subject: str
) -> None:
    result = run(make_job(tiny_run, labelled, protocol, *overrides, subject=subject))
    assert [row["metric"] for row in result["rows"]] == metrics
    assert all((row["n"], row["of"]) == (TEST - BROKEN, TEST) and 0 <= row["value"] <= 1 for row in result["rows"])
    reasons = [failure["reason"] for failure in result["failed"]["test"]]
    assert len(reasons) == BROKEN and reasons[0] == "gone" and "PyAV cannot open" in reasons[-1]
    assert len(result["videos"]) == len(result["labels"]) == TEST - BROKEN
    assert list(result["scores"]) == [metric for metric in metrics if metric != "class mean"]
    for row in result["rows"][: len(result["scores"])]:
        scores = result["scores"][row["metric"]]
        assert row["value"] == pytest.approx(sum(scores) / len(scores))
    if "confusion" in result:
        assert sum(map(sum, result["confusion"])) == TEST - BROKEN
    assert result["protocol"].startswith(f"{protocol}[") and "size=24" in result["protocol"]


@pytest.mark.parametrize(
    ("protocol", "ends"),
    [
        ("paper-finetune", {"confusion.png", "classes.png"}),
        ("frozen-linear-eval", {"confusion.png", "classes.png"}),
        ("knn", {"confusion.png", "classes.png"}),
        ("paper-retrieval-10clip", {"neighbours.png"}),
        ("validation-retrieval", {"neighbours.png"}),  # its queries are training videos
    ],
)
def test_every_protocol_has_its_pictures(
    tiny_run: Path, labelled: str, tmp_path: Path, protocol: str, ends: set[str]
) -> None:
    epochs = ("epochs=1",) if protocol in ("paper-finetune", "frozen-linear-eval") else ()
    job = make_job(tiny_run, labelled, protocol, *epochs)
    kept = replace(job, run=str(tmp_path))
    write_result(kept.result_file, run(job))
    drawn = draw_results([kept])
    assert {path.name.rpartition("-")[2] for path in drawn} == ends
    assert all(path.parent == tmp_path / "pictures" and path.stat().st_size > 1000 for path in drawn)


def test_the_same_evaluation_gives_the_same_metrics(tiny_run: Path, labelled: str, tmp_path: Path) -> None:
    for protocol in ("paper-finetune", "frozen-linear-eval"):
        job = make_job(
            tiny_run, labelled, protocol, "epochs=2", *(("batch=16",) if protocol == "paper-finetune" else ())
        )
        first, again = run(job), run(_elsewhere(job, tmp_path / protocol))
        assert first["rows"] == again["rows"] and first["eval_id"] == again["eval_id"]


def _elsewhere(job: Job, folder: Path) -> Job:
    return replace(job, run=str(folder))


def test_features_are_decoded_once_for_all_protocols(
    tiny_run: Path, labelled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = _elsewhere(make_job(tiny_run, labelled, "paper-retrieval-10clip"), tmp_path)
    first = run(job)

    def forbidden(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(evaluation, "clip_outputs", forbidden)
    monkeypatch.setattr(Job, "network", forbidden)
    assert run(job)["rows"] == first["rows"]
    run(_elsewhere(make_job(tiny_run, labelled, "knn"), tmp_path))
    with pytest.raises(AssertionError, match="computed again"):  # because the clips differ
        run(_elsewhere(make_job(tiny_run, labelled, "knn", "test_clips=2"), tmp_path))


def test_a_videos_features_do_not_depend_on_its_neighbours(tiny_run: Path, labelled: str) -> None:
    job = make_job(tiny_run, labelled, "knn")
    videos = open_split(labelled, "test")
    outputs = clip_outputs(job.network(), videos, job.input, FORWARD, map)
    classifier = Classifier(job.network(), videos.classes, 0.0, False, True, 0)
    logits = clip_outputs(classifier, videos, job.input, FORWARD, map)
    assert [clips.shape for clips in outputs.clips] == [(10, 32)] * (TEST - BROKEN)
    head = classifier.head[1]
    for found, expected in zip(outputs.clips, logits.clips, strict=True):
        torch.testing.assert_close(head(found), expected, rtol=1e-4, atol=1e-5)


def test_clips_of_several_videos_share_a_pass_on_a_gpu(
    tiny_run: Path, labelled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, passes = make_job(tiny_run, labelled, "knn"), list[int]()

    def counting(network: Any, clips: torch.Tensor, forward: Forward) -> torch.Tensor:
        passes.append(len(clips))
        return one_pass(network, clips, forward)

    one_pass = features._outputs
    monkeypatch.setattr(features, "_outputs", counting)
    alone = clip_outputs(job.network(), open_split(labelled, "test"), job.input, FORWARD, map)
    assert passes == [10] * (TEST - BROKEN)
    assert features.pass_size(job.input, torch.device("cuda"))[0] > 100
    monkeypatch.setattr(features, "pass_size", lambda spec, device: (25, 25))
    passes.clear()
    together = clip_outputs(job.network(), open_split(labelled, "test"), job.input, FORWARD, map)
    assert passes[:4] == [25, 5, 25, 5] and sum(passes) == 10 * (TEST - BROKEN)
    assert together.id == alone.id and together.failed == alone.failed
    torch.testing.assert_close(torch.cat(together.clips), torch.cat(alone.clips), rtol=1e-4, atol=1e-5)


def test_few_shot_uses_and_records_the_labelled_share(tiny_run: Path, labelled: str) -> None:
    result = run(make_job(tiny_run, labelled, "paper-fewshot-30", "epochs=1", "batch=8"))
    assert result["facts"]["labelled videos"] == 8 * math.ceil(0.3 * TRAIN / 8) == 16  # of each of 8 classes


def test_an_evaluations_id_has_what_its_result_depends_on(tiny_run: Path, labelled: str) -> None:
    job = make_job(tiny_run, labelled, "knn")

    def with_settings(*overrides: str, of: Job = job) -> Job:
        return replace(of, config=tiny_config(*RUN, *overrides).model_dump(mode="json"))

    low = with_settings("train.precision=bfloat16")
    assert len({j.eval_id for j in (job, low, replace(job, data_id="another order"))}) == 3
    assert len({j.features for j in (job, low, replace(job, data_id="another order"))}) == 3
    assert with_settings("train.device=cpu").eval_id == with_settings("train.precision=float32").eval_id
    untrained = replace(job, subject="random-init")
    s3d = [with_settings("backbone.name=s3d", f"backbone.depth={depth}", of=untrained) for depth in (10, 18)]
    r2d3d = [with_settings(f"backbone.depth={depth}", of=untrained) for depth in (10, 18)]
    assert s3d[0].eval_id == s3d[1].eval_id and r2d3d[0].eval_id != r2d3d[1].eval_id


def test_foreign_weights_are_evaluated_in_the_runs_architecture(tiny_run: Path, labelled: str, tmp_path: Path) -> None:
    job = _elsewhere(make_job(tiny_run, labelled, "knn"), tmp_path)
    theirs = {f"encoder.{name}": value for name, value in job.network().state_dict().items()}
    torch.save(theirs | {"head.weight": torch.ones(2)}, tmp_path / "theirs.pt")
    foreign = replace(job, subject="weights", weights=str(tmp_path / "theirs.pt"), prefixes=(("encoder.", ""),))
    assert run(foreign)["scores"] == run(job)["scores"]
    assert foreign.eval_id != job.eval_id
    with pytest.raises(CheckpointError, match=r"the weights must fit the backbone, but .* lacks "):
        run(replace(foreign, prefixes=(("module.", ""),)))


def test_splits_that_share_videos_are_an_error(tiny_run: Path, labelled: str) -> None:
    message = (
        f"two splits must not share a video, but {TRAIN} of the {TRAIN} videos of train are also in train, such as"
    )
    with pytest.raises(DataError, match=message):
        run(replace(make_job(tiny_run, labelled, "knn"), test="train"))
