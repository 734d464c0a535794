"""The state of a sweep: its trials, and which of them remain."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from paramcrop.data.manifest import Manifest, read_manifest
from paramcrop.data.shards import check_files
from paramcrop.data.synthetic import cached_dataset
from paramcrop.errors import ParamCropError, ShardError
from paramcrop.evaluation.tasks import Request, as_pretrained, check_request, find_tasks, only
from paramcrop.evaluation.tasks import size_warnings as task_warnings
from paramcrop.settings.config import Config
from paramcrop.settings.explain import show
from paramcrop.storage.files import atomic_write
from paramcrop.storage.mirror import Mirror
from paramcrop.storage.results import read_result
from paramcrop.storage.runs import home
from paramcrop.sweeps.objective import finite, goals, objective_of
from paramcrop.sweeps.record import TrialRecord, fetch_runs, is_done, read_record, read_records, write_record
from paramcrop.sweeps.space import Space
from paramcrop.sweeps.trials import VARIANT, Trial, config_of, data_ids, grid, make_trial, wanted_of
from paramcrop.sweeps.until import check_until
from ray_jobs.device import find_device
from ray_jobs.evaluate.options import MADE_UP, MADE_UP_TEST, SYNTHETIC
from ray_jobs.options import check_classes
from ray_jobs.sweep.interrupt import end_trials
from ray_jobs.videos import all_warnings, check_batch, find_videos

if TYPE_CHECKING:
    import optuna


@dataclass
class Sweep:
    """A sweep's folder, its question, and its datasets.

    Attributes:
        place: the sweep's folder, or this command's copy of it. space: its question.
        config: the preset with the settings of all trials.
        videos: manifest of the pretraining videos.
        data: evaluation dataset -> its folder. contents: dataset -> data id.
        request: the evaluations of all trials. proxy: the evaluation by which asha compares trials; None without asha.
    """

    place: Mirror
    space: Space
    config: Config
    videos: Manifest
    data: dict[str, str]
    contents: dict[str, str]
    request: Request
    proxy: Request | None

    @property
    def folder(self) -> Path:
        return self.place.folder

    @property
    def data_id(self) -> str:
        return self.videos.data_id

    @property
    def trials(self) -> list[Trial]:
        """Every cell of a grid, or all trials drawn so far."""
        cells = grid(self.space)
        if not cells:
            from paramcrop.sweeps.study import known_values

            cells = known_values(self.folder, self.study_name, self.space)
        return [make_trial(self.space, values) for values in cells]

    @cached_property
    def study_name(self) -> str:
        from paramcrop.sweeps.study import study_name

        return study_name(self.folder.name, self.space, self.data_id, self.contents)

    def study(self) -> optuna.Study:
        from paramcrop.sweeps.study import open_study

        return open_study(self.folder, self.study_name, self.space)

    def wanted(self, trial: Trial) -> str:
        request = only(self.request, trial.tasks or self.space.evaluate.tasks)
        tasks = [(self.contents[name], protocol) for name, protocol in request.tasks]
        return wanted_of(self.space, trial, self.data_id, tasks)

    def check(self) -> None:
        """Check every evaluation before anything is pretrained.

        Raises:
            CheckpointError, ConfigError, DataError: one does not suit its dataset or its runs.
        """
        checked = set[str]()
        for trial in self.trials or [make_trial(self.space, values) for values in corners(self.space)]:
            config, tasks = config_of(self.space, trial, self.space.seeds[0]), trial.tasks or self.space.evaluate.tasks
            key = json.dumps([config.method, config.data.model_dump(mode="json"), tasks])
            if key not in checked:
                checked.add(key)
                check_request(only(self.request, tasks), config, find_videos(config)[1].content_id)
        if self.proxy:
            check_request(self.proxy, self.config, self.videos.content_id)

    @property
    def warnings(self) -> list[str]:
        """A line for each setting without effect, and each clip size, of the evaluations too, that enlarges videos."""
        broken = dict.fromkeys(map(str, filter(None, map(broken_set, self.data.values()))))
        lines = [*all_warnings(self.config, self.videos), *task_warnings(self.request)]
        return [*lines, *(f"warning: {text}" for text in broken)]

    def unfinished(self) -> list[Trial]:
        found = [(trial, read_record(self.folder, trial.id), self.wanted(trial)) for trial in self.trials]
        # With ``is_done``, a run in a bucket needs its status and results here.
        fetch_runs(
            (r for _, r, wanted in found if r and r.wanted == wanted), "status.json", "history.jsonl", "evaluations/"
        )
        return [trial for trial, record, wanted in found if not is_done(record, wanted)]

    def todo(self) -> int:
        """Prepare the folder and the study -> the number of trials to run. The caller must hold the sweep's lease."""
        killed = [record for record in read_records(self.folder) if record.state == "running"]
        end_trials(self.place, killed, "interrupted")
        unfinished, fresh = self.unfinished(), self.fresh
        ends = self.ends()
        if unfinished or fresh:
            self.check()
        most = self.space.budget.trials or len(unfinished) + fresh
        write_space(self.folder, self.space)
        if unfinished or fresh:
            from paramcrop.sweeps.study import adopt, asked, end_unfinished, enqueue

            study = self.study()
            end_unfinished(study)
            adopt(study, self.space, ends)
            asked(study, self.space)
            enqueue(study, [trial.values for trial in unfinished[:most]])
        self.place.send("space.yaml", "study.journal")
        return min(len(unfinished) + fresh, most)

    @property
    def fresh(self) -> int:
        """The number of trials of a search that are not drawn yet."""
        if self.space.search == "grid":
            return 0
        from paramcrop.sweeps.study import number_of_cells

        return int(max(0, min(self.space.samples or 0, number_of_cells(self.space)) - len(self.trials)))

    def ends(self) -> list[tuple[Mapping[str, Any], str, Sequence[float]]]:
        """Values, state and objectives of the trials that are done; their records get the objectives asked now."""
        ends = list[tuple[Mapping[str, Any], str, Sequence[float]]]()
        for trial in self.trials:
            record = read_record(self.folder, trial.id)
            if record is not None and is_done(record, self.wanted(trial)):
                runs, seeds = [Path(run["folder"]) for run in record.runs], self.space.seeds_of(trial.id)
                values = objective_of(self.space, seeds, results_of(record), runs)
                ends.append((trial.values, record.state, values))
                if record.objectives != (now := [finite(value) for value in values]):
                    record.objectives = now
                    write_record(self.folder, record)
                    self.place.send(f"trials/{trial.id}.json")
        return ends


def results_of(record: TrialRecord) -> list[dict[str, Any]]:
    return [result for file in record.results if (result := read_result(Path(file))) is not None]


def broken_set(folder: str) -> ShardError | None:
    """The error if a shard is missing or has another size: it fails the evaluations on that dataset, and no others."""
    try:
        check_files(folder, read_manifest(folder))
    except ShardError as error:
        return error
    return None


def raise_failures(sweeps: Sequence[Sweep]) -> None:
    """Raise an error if a trial has failed.

    Raises:
        ParamCropError: a trial has failed.
    """
    records = [read_record(sweep.folder, trial.id) for sweep in sweeps for trial in sweep.trials]
    failed = [r for r in records if r is not None and r.state in ("failed", "diverged")]
    if failed:
        counts = f"{len(failed)} of {len(records)} trials failed, such as {failed[0].label}"
        raise ParamCropError(f"{counts}; the same command tries them again")


def write_space(folder: Path, space: Space) -> None:
    """Write the space next to the results, for the report."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "space.yaml") as part:
        part.write_text(yaml.safe_dump(space.model_dump(mode="json", exclude_none=True), sort_keys=False))


def sweep_place(name: str, space: Space, who: str = "sweep") -> Mirror:
    """Where a sweep lies: below the storage of its runs, or, without one, beside them.

    Args:
        who: whose local copy it is, if it lies in a bucket.
    """
    storage = config_of(space, Trial({}, space.preset, {}, {}), space.seeds[0]).run.storage
    if storage is None:
        return Mirror(home() / "sweeps" / name)
    if "://" in storage:
        return Mirror.of(f"{storage.rstrip('/')}/sweeps/{name}", who)
    return Mirror(Path(storage).expanduser().resolve() / "sweeps" / name)


def open_sweep(
    place: Mirror, space: Space, data: dict[str, str], device: Callable[[Config], str] = find_device
) -> Sweep:
    """Check a sweep's settings and open its datasets.

    Args:
        device: the device that runs with these settings train on; the space's ``train.device`` becomes that.

    Raises:
        ConfigError, DataError: a setting of some trial, a task or a dataset is invalid.
    """
    goals(space)
    check_until(space)
    if space.search != "grid":
        from paramcrop.sweeps.samplers import make_sampler

        make_sampler(space, 0)
    cells = grid(space) or corners(space)
    check_classes([config_of(space, make_trial(space, values), space.seeds[0]) for values in cells])  # mistakes first
    config = config_of(space, Trial({}, space.preset, {}, {}), space.seeds[0])
    space = space.model_copy(update={"set": space.set | {"train.device": device(config)}})
    config = config_of(space, Trial({}, space.preset, {}, {}), space.seeds[0])
    stand_in = space.layout.stand_ins.get(space.pretrained_on) if space.layout else None
    if not stand_in:
        check_batch(config)
    named = [task.rpartition("/")[0] for task in space.tasks if "/" in task]
    if SYNTHETIC in named or (space.tasks and not (data or named)):
        size = config.data.clip_frames, config.data.clip_size
        data = data | {SYNTHETIC: cached_dataset(home() / "data", *size, MADE_UP, seed=1, test=MADE_UP_TEST)}
    if stand_in:  # a run whose own classifier is tested needs test videos of its own dataset
        space = space.model_copy(update={"set": {"data.split": "train"} | space.set | {"data.shards": data[stand_in]}})
        config = config_of(space, Trial({}, space.preset, {}, {}), space.seeds[0])
    request = _request(space, config, data, space.tasks)
    proxy = _request(space, config, data, [space.proxy.task], checked=False) if space.scheduler != "none" else None
    _, videos = find_videos(config)
    return Sweep(place, space, config, videos, data, data_ids(data), request, proxy)


def corners(space: Space) -> list[dict[str, Any]]:
    """Values to check a sampled space with: its ``corner``, with each of its backbones and policies."""
    first = corner(space)
    listed = {key: space.params[key].listed or () for key in ("backbone.name", "policy") if key in space.params}
    return [first, *(first | {key: value} for key, values in listed.items() for value in values[1:])]


def corner(space: Space) -> dict[str, Any]:
    """The first value of each swept setting."""
    if space.variants:
        return {VARIANT: space.variants[0].label}
    return {key: swept.listed[0] if swept.listed else (swept.bounds or (0,))[0] for key, swept in space.params.items()}


def _request(space: Space, config: Config, data: dict[str, str], tasks: Sequence[str], checked: bool = True) -> Request:
    """The evaluations that the space requests.

    Args:
        checked: whether each parameter in ``evaluate.set`` must belong to one of the tasks.
    """
    evaluate = space.evaluate
    overrides = [f"{key}={show(value)}" for key, value in evaluate.set.items()]
    view = as_pretrained(config) if evaluate.as_pretrained else []
    found = find_tasks(tasks, data, overrides, view) if checked else find_tasks(tasks, data, [], [*view, *overrides])
    splits, seeds = tuple(str(n) for n in evaluate.splits), tuple(evaluate.seeds)
    return Request(found, data, splits, seeds, device=config.train.device)
