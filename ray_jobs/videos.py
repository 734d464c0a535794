"""The shards that a command's runs read."""

from __future__ import annotations

from collections.abc import Callable

from paramcrop.data.manifest import Manifest, enlargement, read_manifest
from paramcrop.data.order import steps_per_epoch
from paramcrop.data.shards import check_files
from paramcrop.data.synthetic import cached_dataset, outlining
from paramcrop.errors import ConfigError
from paramcrop.settings.config import Config
from paramcrop.storage.runs import home
from ray_jobs.options import resolved

MADE_UP_VIDEOS = 256


def find_videos(config: Config, say: Callable[[str], None] = lambda text: None) -> tuple[str, Manifest]:
    """The shards of a config and the manifest of its split; without ``data.shards``, a synthetic set, made once.

    Raises:
        ConfigError: the synthetic set is too small. DataError: there is no such folder or split.
        ShardError: one of its files is missing or has another size.
    """
    data, fix = config.data.shards, ""
    if data is None:
        check_batch(config)
        say(f"data: synthetic moving shapes in {home() / 'data'}, because data.shards is not set")
        data = cached_dataset(home() / "data", config.data.clip_frames, config.data.clip_size, MADE_UP_VIDEOS)
        fix = f"delete {data}, and the same command makes it again"
    else:
        data = resolved(data)
    manifest = read_manifest(data).select(config.data.split)
    check_files(data, manifest, fix)
    return data, manifest


def check_batch(config: Config) -> None:
    """Check, before it is made, that the synthetic set is meant and has enough videos for a batch.

    A dry run may plan without them.

    Raises:
        ConfigError: it has fewer, or ``data.split`` names a split, which only a set of one's own has.
    """
    if config.data.shards is not None or outlining():
        return
    if config.data.split is not None:
        raise ConfigError(
            f"data.split={config.data.split} needs data.shards, a folder of shards, but it is not set; make them with: "
            "paramcrop prepare --dataset folder --videos FOLDER --out SHARDS"
        )
    try:
        steps_per_epoch(MADE_UP_VIDEOS, config.train.global_batch, config.labelled_rows)
    except ConfigError as error:
        raise ConfigError(f"{error}; data.shards, which is not set, may name a larger set") from None


def all_warnings(config: Config, videos: Manifest) -> list[str]:
    """A line for each setting that does nothing, or not what one expects."""
    try:
        per_epoch = steps_per_epoch(videos.videos, config.train.global_batch, config.labelled_rows)
    except ConfigError as error:  # in a dry run; a run is refused
        return [f"warning: {error}", *size_warnings(config, videos)]
    return [*size_warnings(config, videos), *setting_warnings(config, per_epoch)]


def size_warnings(config: Config, videos: Manifest) -> list[str]:
    """A line if the clips that the croppers see have more pixels than the videos; synthetic ones are made to fit.

    Or, in a dry run, a line that the synthetic ones stand in for a set of one's own.
    """
    data = config.data
    box = data.random_box[1] if data.random_cube else 1.0
    if data.shards is None:
        made_up = f"planned as with {videos.videos} made-up videos, and the same command without --dry-run is refused"
        return [f"warning: data.split={data.split} needs data.shards; {made_up}"] if data.split else []
    return enlargement("pretraining", videos.short_side, box, data.clip_size, "data.clip_size")


def setting_warnings(config: Config, steps_per_epoch: int) -> list[str]:
    """A line for each setting that does nothing, or not what one expects.

    Args:
        steps_per_epoch: steps of one pass over the data.
    """
    lines, steps = list[str](), config.total_steps(steps_per_epoch)
    if config.method != "mean_teacher" and config.data.labels != 1.0:
        lines.append(
            f"warning: data.labels={config.data.labels:g} has no effect, because method={config.method} learns from no "
            "labels; only method=mean_teacher does"
        )
    seen = steps * config.train.global_batch
    if config.method == "moco" and seen < config.moco.queue:
        lines.append(
            f"warning: moco.queue={config.moco.queue} is never filled by the {seen} videos of the run, {steps} "
            f"steps of {config.train.global_batch}, so the other keys stay random; lower it"
        )
    elif config.method == "moco" and config.moco.queue > (epoch := steps_per_epoch * config.train.global_batch):
        lines.append(
            f"warning: moco.queue={config.moco.queue} has more keys than an epoch has videos, {epoch}, so most queries "
            "meet their own video among the negatives; lower it"
        )
    warmup = round(config.optim.warmup_epochs * steps_per_epoch)
    if warmup > steps:
        lines.append(
            f"warning: optim.warmup_epochs={config.optim.warmup_epochs:g} is longer than the run, {warmup} of {steps} "
            "steps, so the learning rate only rises; lower it"
        )
    return lines
