"""Which shards a command's runs read."""

from __future__ import annotations

from collections.abc import Callable

from paramcrop.data.manifest import Manifest, read_manifest
from paramcrop.settings.config import Config
from paramcrop.storage.runs import home
from ray_jobs.options import resolved

MADE_UP_VIDEOS = 256


def find_videos(config: Config, say: Callable[[str], None] = lambda text: None) -> tuple[str, Manifest]:
    """The shards a config names, or the made-up set, made if need be; and the manifest of the split it names.

    Raises:
        DataError: there is no such folder or split.
    """
    data = config.data.shards
    if data is None:
        from paramcrop.data.synthetic import cached_dataset

        say(f"data: made-up moving shapes (data.shards names none), kept in {home() / 'data'}")
        data = cached_dataset(home() / "data", config.data.clip_frames, config.data.clip_size, MADE_UP_VIDEOS)
    else:
        data = resolved(data)
    return data, read_manifest(data).select(config.data.split)
