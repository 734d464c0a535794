"""The shards that a command's runs read."""

from __future__ import annotations

from collections.abc import Callable

from paramcrop.data.manifest import Manifest, enlargement, read_manifest
from paramcrop.data.order import steps_per_epoch
from paramcrop.settings.config import Config
from paramcrop.settings.remarks import setting_warnings
from paramcrop.storage.runs import home
from ray_jobs.options import resolved

MADE_UP_VIDEOS = 256


def find_videos(config: Config, say: Callable[[str], None] = lambda text: None) -> tuple[str, Manifest]:
    """The shards of a config and the manifest of its split; without ``data.shards``, a synthetic set, made once.

    Raises:
        DataError: there is no such folder or split.
    """
    data = config.data.shards
    if data is None:
        from paramcrop.data.synthetic import cached_dataset

        say(f"data: synthetic moving shapes in {home() / 'data'}, because data.shards is not set")
        data = cached_dataset(home() / "data", config.data.clip_frames, config.data.clip_size, MADE_UP_VIDEOS)
    else:
        data = resolved(data)
    return data, read_manifest(data).select(config.data.split)


def all_warnings(config: Config, videos: Manifest) -> list[str]:
    """A line for each setting that does nothing, or not what one expects."""
    batch, labelled = config.train.global_batch, config.labelled_rows
    settings = setting_warnings(config, steps_per_epoch(videos.videos, batch, labelled))
    return [*size_warnings(config, videos), *settings]


def size_warnings(config: Config, videos: Manifest) -> list[str]:
    """A line if the clips that the croppers see have more pixels than the videos; synthetic ones are made to fit."""
    data = config.data
    box = data.random_box[1] if data.random_cube else 1.0
    if data.shards is None:
        return []
    return enlargement("pretraining", videos.short_side, box, data.clip_size, "data.clip_size")
