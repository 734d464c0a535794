"""What a sweep asks of each trial, as a hash: a trial that is done for one is not done for another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from paramcrop.data.shards import read_manifest
from paramcrop.evaluation.protocols import Protocol
from paramcrop.settings.config import run_id
from paramcrop.sweeps.space import Space
from paramcrop.sweeps.trials import Trial, config_of


def wanted_of(space: Space, trial: Trial, content_id: str, tasks: Sequence[tuple[str, Protocol]]) -> str:
    """12 hex digits over the runs, the evaluations of each, and how trials are stopped.

    Args:
        content_id: of the pretraining's videos. tasks: (content id of the set, protocol).
    """
    runs = [run_id(config_of(space, trial, seed), content_id) for seed in space.seeds]
    evaluations = [(content, protocol.digest) for content, protocol in tasks]
    stopped = space.proxy.model_dump() if space.scheduler == "asha" else None
    how = [space.evaluate.splits, space.evaluate.seeds, space.objective.metric, space.objective.mode, stopped]
    return hashlib.sha256(json.dumps([runs, evaluations, how]).encode()).hexdigest()[:12]


def content_ids(data: dict[str, str]) -> dict[str, str]:
    """Of each named set."""
    return {name: read_manifest(folder).content_id for name, folder in data.items()}
