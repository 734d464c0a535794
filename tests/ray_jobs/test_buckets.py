"""What sweeps, evaluations and preparations do with a bucket, without Ray: who reads it, how often, who holds it."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyarrow.fs import FileSelector
from rich.console import Console

from paramcrop.data.prepare.attempt import working
from paramcrop.errors import DataError, LeaseError
from paramcrop.settings.presets import load_config
from paramcrop.storage import mirror
from paramcrop.storage.files import open_folder
from paramcrop.storage.jsonl import read_lines
from paramcrop.storage.mirror import Mirror
from paramcrop.storage.owner import hold, is_held
from paramcrop.storage.results import write_result
from paramcrop.storage.runs import run_place, write_status
from paramcrop.sweeps.record import TrialRecorder, fetch_runs, is_done, read_record, read_records
from paramcrop.sweeps.space import Space
from paramcrop.sweeps.trials import Trial
from ray_jobs.engine.evaluators import gather_results
from ray_jobs.engine.trials import trial_run
from ray_jobs.pretrain.command import pretrain
from ray_jobs.report import find_sweep
from ray_jobs.sweep.plan import sweep_place
from ray_jobs.sweep.progress import sweep_progress


def result(value: float) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "eval_id": "e1",
        "subject": "run",
        "dataset": "d",
        "content_id": "c",
        "splits": ["train", "test"],
    }
    facts |= {"protocol": "knn", "version": 1, "seed": 0, "pretraining_seed": 0, "commit": "c"}
    return facts | {"rows": [{"metric": "video@1", "value": value, "n": 4, "of": 4}]}


def recorded(bucket: str) -> tuple[Mirror, Mirror]:
    """A sweep with one done trial, whose run has a result, both written by the trial's process -> (sweep, run)."""
    sweep, run = Mirror.of(f"{bucket}/sweeps/a", "trial-1"), Mirror.of(f"{bucket}/demo-1", "trial-1")
    run.folder.mkdir(parents=True)
    write_status(run.folder, "finished")
    write_result(run.folder / "evaluations" / "e1.json", result(0.5))
    run.send("status.json", "history.jsonl", "evaluations/")
    recorder = TrialRecorder(sweep, Trial({"cropper.lower": 0.1}, "lower=0.1", {}, {}), "wanted")
    recorder.run(0, run, "finished")
    recorder.record.results = [str(run.folder / "evaluations" / "e1.json")]
    recorder.end("done")
    return sweep, run


def test_a_sweep_lies_where_its_runs_lie(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARAMCROP_HOME", str(tmp_path / "home"))

    def at(storage: str | None) -> str:
        values = {"question": "?", "params": {"cropper.lower": [0.1]}, "set": {"run.storage": storage}}
        return str(sweep_place("a", Space.model_validate(values)))

    assert at(None) == f"{tmp_path}/home/sweeps/a"
    assert at(f"{bucket}/runs/") == f"{bucket}/runs/sweeps/a"
    assert at(str(tmp_path / "runs")) == f"{tmp_path}/runs/sweeps/a"


def test_reading_a_record_touches_no_network_and_a_run_is_fetched_once(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, _ = recorded(bucket)
    driver = Mirror.of(sweep.uri, "sweep")
    driver.fetch()
    asked = list[str]()

    def noted(folder: str) -> Any:
        asked.append(folder)
        return open_folder(folder)

    monkeypatch.setattr(mirror, "open_folder", noted)
    (record,) = read_records(driver.folder)
    assert asked == [] and "/reader/" in record.results[0] and record.runs[0]["folder"] in record.results[0]
    assert not is_done(record, "wanted")  # nothing is here yet
    fetch_runs([record, record], "status.json", "evaluations/")
    assert asked == [f"{bucket}/demo-1"] and is_done(record, "wanted")


def test_a_store_that_cannot_be_opened_ends_neither_the_progress_nor_a_trial(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, _ = recorded(bucket)
    driver, text = Mirror.of(sweep.uri, "sweep"), io.StringIO()
    away = list[int]()

    def flaky(folder: str) -> Any:
        if len(away) < 3:
            away.append(1)
            raise DataError(f"{folder}: could not resolve host")
        return open_folder(folder)

    monkeypatch.setattr("ray_jobs.sweep.progress.FAR", 0.05)
    monkeypatch.setattr(mirror, "open_folder", flaky)
    with sweep_progress(driver, 1, Console(file=text, width=150, soft_wrap=True), quiet=False, aims=[]):
        recorder = TrialRecorder(sweep, Trial({"cropper.lower": 0.2}, "lower=0.2", {}, {}), "wanted")
        recorder.compared(2, 0.5)
        recorder.end("done")
        end = time.monotonic() + 30
        while "lower=0.2: done" not in text.getvalue() and time.monotonic() < end:
            time.sleep(0.1)
    assert len(away) == 3 and "lower=0.2: done" in text.getvalue()


def test_a_fresh_evaluation_replaces_the_rows_of_the_old_one(bucket: str) -> None:
    _, run = recorded(bucket)
    command, evaluator = Mirror.of(run.uri, "command"), Mirror.of(run.uri, "evaluator-1")
    gather_results(command)
    gather_results(command)
    rows = command.folder / "results.jsonl"
    assert [line["value"] for line in read_lines(rows)] == [0.5]
    time.sleep(1.1)  # the store's clock has a resolution of a second
    write_result(evaluator.folder / "evaluations" / "e1.json", result(0.75))
    evaluator.send("evaluations/e1.json")
    gather_results(command)
    assert [line["value"] for line in read_lines(rows)] == [0.5, 0.75]
    assert json.loads((command.folder / "evaluations" / "e1.json").read_text())["rows"][0]["value"] == 0.75


def test_a_preparation_holds_its_bucket(bucket: str) -> None:
    out = f"{bucket}/shards"
    with working(out, fresh=False):
        assert is_held(out)
        with pytest.raises(LeaseError, match="one process at a time may work on"), working(out, fresh=True):
            pass
    assert not is_held(out)


def test_a_checkpoint_is_read_once_however_often_asha_looks(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place, config = Mirror.of(f"{bucket}/demo-1", "trial-1"), load_config("demo")
    reads = list[str]()

    def newest(folder: Path, fetch: Any) -> tuple[None, list[str]]:
        reads.append(str(folder))
        return None, []

    monkeypatch.setattr(trial_run, "newest_checkpoint", newest)
    recorder: Any = SimpleNamespace(record=SimpleNamespace(epoch=0))
    work: Any = SimpleNamespace(proxy="a request")
    seen = trial_run._compare(place, config, recorder, work, "")
    assert (seen, reads) == ("", [])
    for name in ("epoch=0001", "epoch=0002"):
        meta = place.folder / "checkpoints" / name / "meta.json"
        meta.parent.mkdir(parents=True)
        meta.write_text("{}")
        place.send(f"checkpoints/{name}/")
        for _ in range(3):
            seen = trial_run._compare(place, config, recorder, work, seen)
        assert seen == name
    assert len(reads) == 2


def test_a_report_finds_a_sweep_by_its_uri(bucket: str) -> None:
    sweep, _ = recorded(bucket)
    with pytest.raises(DataError, match=r"--sweep must be the URI of a sweep, but s3://.* has no space\.yaml"):
        find_sweep(sweep.uri, Path("nowhere"))
    (sweep.folder / "space.yaml").write_text("question: '?'\nparams: {cropper.lower: [0.1]}\n")
    sweep.send("space.yaml")
    folder = find_sweep(f"{sweep.uri}/", Path("nowhere"))
    assert read_record(folder, Trial({"cropper.lower": 0.1}, "", {}, {}).id) is not None


@pytest.mark.parametrize("where", ["bucket", "folder"])
def test_fresh_moves_no_run_that_another_process_works_on(
    request: pytest.FixtureRequest, tmp_path: Path, shards: tuple[str, Any], where: str
) -> None:
    storage = f"{request.getfixturevalue('bucket')}/runs" if where == "bucket" else f"{tmp_path}/runs"
    settings = [f"data.shards={shards[0]}", f"run.storage={storage}", "train.global_batch=8", "train.device=cpu"]
    config = load_config("demo", None, settings)
    place = run_place(config, shards[1].data_id, "another")
    place.folder.mkdir(parents=True, exist_ok=True)
    write_status(place.folder, "running")
    place.send("status.json", "history.jsonl")
    with hold(place), pytest.raises(LeaseError, match="one process at a time may work on"):
        pretrain(config, fresh=True, console=Console(file=io.StringIO()))
    fs, root = open_folder(storage)
    names = [info.base_name for info in fs.get_file_info(FileSelector(root))]
    assert len(names) == 1 and "~" not in names[0]
    assert fs.get_file_info(f"{root}/{names[0]}/status.json").is_file
