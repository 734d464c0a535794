"""The crops that a run saved at start, middle and end (``Recorder.crops``)."""

from __future__ import annotations

import zipfile
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from paramcrop.errors import DataError

PARAMETERS = ("s_p", "s_t", "theta", "dx", "dy", "dt")  # the order of Eq. 5


class Snapshot(NamedTuple):
    """P saved videos with their crops, and the parameters of N more crops.

    Boxes are in the clip as the crop was taken (mirrored if ``flip``), before rotation.
    """

    step: int  # whose crops these are, counted from 1 as in metrics.jsonl; its file is named by the steps before it
    id: np.ndarray  # str (P,)
    video: np.ndarray  # uint8 (P, V, T, H, W, 3), not mirrored; V = 1: one clip for both views, V = 2: one per view
    flip: np.ndarray  # bool (P, 2)
    boxes: np.ndarray  # float32 (P, 2, 3, 2): axes (x, y, t), [low, high]; a crop inside the clip is within [0, 1]
    params: np.ndarray  # float32 (N, 2, 6), in the order of PARAMETERS, from the same noise in every run

    @property
    def rotated(self) -> bool:
        return bool(self.params[..., PARAMETERS.index("theta")].any())


def read_snapshots(folder: Path) -> list[Snapshot]:
    """The snapshots of a run by step, without those that are still being written.

    Raises:
        DataError: there are none.
    """
    found = []
    for path in sorted((folder / "crops").glob("step=*.npz")):
        with suppress(ValueError, KeyError, EOFError, zipfile.BadZipFile), np.load(path) as kept:
            arrays = {name: kept[name] for name in Snapshot._fields if name != "step"}
            found.append(Snapshot(int(path.stem.partition("=")[2]) + 1, **arrays))
    if not found:
        raise DataError(f"there are no saved crops in {folder / 'crops'}; the run has not reached its first step")
    return found
