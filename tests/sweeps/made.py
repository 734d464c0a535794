"""Sweep folders with made-up numbers, written by the functions that write real ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from paramcrop.evaluation.protocols import find_protocol
from paramcrop.paper.scale import VIDEOS
from paramcrop.storage.jsonl import append_line
from paramcrop.storage.results import write_result
from paramcrop.storage.runs import write_provenance, write_status
from paramcrop.sweeps.record import TrialRecord, write_record
from paramcrop.sweeps.space import Space
from paramcrop.sweeps.trials import config_of, make_trial

CLASSES = 8
DATA, OTHER_DATA = "pretraining-data", "evaluation-data"


def write_space(folder: Path, space: Space) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "space.yaml").write_text(
        yaml.safe_dump(space.model_dump(mode="json", exclude_none=True), sort_keys=False)
    )
    return folder


def made_run(
    folder: Path,
    space: Space,
    values: Mapping[str, Any],
    seed: int,
    ends: Sequence[float] = (0.6, 0.1, 3.0),
    steps: int = 5,
) -> Path:
    """A finished pretraining whose centre distance, IoU and loss end at ``ends``; its metrics have ``steps`` lines.

    In the video, distance and IoU are half of those in the clip.
    """
    folder.mkdir(parents=True)
    write_provenance(folder, config_of(space, make_trial(space, values), seed), DATA)
    write_status(folder, "running")
    append_line(folder / "history.jsonl", {"event": "workers", "step": 0, "epoch": 0, "workers": 2, "device": "cpu"})
    starts = (0.04, 0.87, 3.4)
    lines = []
    for step in range(1, steps + 1):
        at = [start + (end - start) * step / steps for start, end in zip(starts, ends, strict=True)]
        named = dict(zip(("crop_distance", "crop_iou", "loss"), at, strict=True))
        named |= {"source_distance": at[0] / 2, "source_iou": at[1] / 2}
        lines.append({"step": step, "epoch": step, "clips_per_s": 40.0 + step} | named)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_status(folder, "finished", checkpoint="epoch=0005")
    return folder


def made_result(
    run: Path,
    seed: int,
    scores: Mapping[str, Sequence[float]],
    task: str = "made-up/linear",
    test: str = "test",
    numbers: Sequence[str] = (),
    unread: int = 0,
    content_id: str = OTHER_DATA,
    classes: int = CLASSES,
    source: str = "",
    short_side: int | None = 256,
    videos: int | None = None,
) -> str:
    """Write an evaluation of one split, with one score per video and metric -> its file.

    Args:
        unread: number of videos of the split that could not be read.
        short_side: of the dataset's videos; None: an older result, which does not record it.
        videos: number of videos of the dataset; None: that of the paper's dataset with this name.
    """
    dataset, _, name = task.partition("/")
    how = find_protocol(name, numbers)
    n = len(next(iter(scores.values())))
    eval_id = f"{run.name}-{how.digest[:6]}-{dataset}-{test}"
    rows = [{"metric": metric, "value": sum(of) / len(of), "n": n, "of": n + unread} for metric, of in scores.items()]
    result = {
        "eval_id": eval_id,
        "subject": "run",
        "dataset": dataset,
        "content_id": content_id,
        "source": source,
        "splits": ["train", test],
        "protocol": how.label,
        "version": how.version,
        "numbers": how.model_dump(mode="json"),
        "seed": 0,
        "pretraining_seed": seed,
        "pretraining_data": DATA,
        "commit": "c0ffee0123456789",
        "classes": [f"class {i}" for i in range(classes)],
        "rows": rows,
        "videos": [f"{test}-{i}" for i in range(n)],
        "labels": [i % classes for i in range(n)],
        "scores": {metric: list(of) for metric, of in scores.items()},
        "seconds": 36.0,
    }
    if short_side is not None:
        stored = VIDEOS.get(source, {}).get(None, n) if videos is None else videos
        result["set"] = {"dataset": source, "videos": stored, "classes": classes, "short_side": short_side}
    file = run / "evaluations" / f"{eval_id}.json"
    write_result(file, result)
    return str(file)


def made_trial(
    folder: Path,
    space: Space,
    values: Mapping[str, Any],
    scores: Mapping[int, Mapping[str, Sequence[float]]],
    **fields: Any,
) -> TrialRecord:
    """A trial with a finished run and one evaluation for each seed.

    Args:
        scores: seed -> metric -> one score per video.
        fields: fields of the record.
    """
    trial = make_trial(space, values)
    runs, results = [], []
    for seed, of in scores.items():
        run = made_run(folder.parent / "runs" / f"{folder.name}-{trial.id}-{seed}", space, values, seed)
        runs.append({"seed": seed, "folder": str(run), "state": "finished", "error": ""})
        results.append(made_result(run, seed, of))
    fields = {"state": "done", "runs": runs, "results": results} | fields
    record = TrialRecord(trial.id, trial.label, trial.values, "wanted", **fields)
    write_record(folder, record)
    return record
