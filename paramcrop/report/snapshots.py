"""A run's crops at start, middle and end, as ``record`` keeps them."""

from __future__ import annotations

import zipfile
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from paramcrop.errors import DataError

PARAMETERS = ("s_p", "s_t", "theta", "dx", "dy", "dt")  # the order of Eq. 5


class Snapshot(NamedTuple):
    """P kept videos with their crops, and the parameters of N more crops.

    A box is its crop's in the clip that the cropper saw (mirrored, if ``flip``), before any rotation.
    """

    step: int
    id: np.ndarray  # str (P,)
    video: np.ndarray  # uint8 (P, V, T, H, W, 3), as stored; V = 1: one clip for both views, 2: one each
    flip: np.ndarray  # bool (P, 2)
    boxes: np.ndarray  # float32 (P, 2, 3, 2): axes (x, y, t), [low, high], in [0, 1] where they are inside
    params: np.ndarray  # float32 (N, 2, 6), in the order of PARAMETERS, of the same noise in every run

    @property
    def rotated(self) -> bool:
        return bool(self.params[..., PARAMETERS.index("theta")].any())


def read_snapshots(folder: Path) -> list[Snapshot]:
    """A run's snapshots by step; one that is still being written is left out.

    Raises:
        DataError: there is none.
    """
    found = []
    for path in sorted((folder / "crops").glob("step=*.npz")):
        with suppress(ValueError, KeyError, EOFError, zipfile.BadZipFile), np.load(path) as kept:
            arrays = {name: kept[name] for name in Snapshot._fields if name != "step"}
            found.append(Snapshot(int(path.stem.partition("=")[2]), **arrays))
    if not found:
        raise DataError(
            f"a run must have kept its crops to draw them, but {folder / 'crops'} has none that can be read"
        )
    return found
