"""An encoder to use elsewhere: a pretrained backbone with its preprocessing, and the files that hold both."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from paramcrop.crops.resample import to_float
from paramcrop.data.uniform import cut_uniform, cut_windows
from paramcrop.errors import ConfigError, VideoError
from paramcrop.evaluation.features import Normalise
from paramcrop.export.description import CARD, CONFIG, WEIGHTS, Description, is_export
from paramcrop.models.interfaces import Backbone
from paramcrop.storage.files import atomic_write


class Encoder(nn.Module):
    """A video encoder: normalised clips -> features.

    Args:
        backbone: a ``Backbone``; ``description`` says what it is and which clips it was pretrained on.
        card: text of a model card, which ``save_pretrained`` writes; empty: it writes none.

    Attributes:
        features: values per clip, D.
    """

    def __init__(self, backbone: nn.Module, description: Description, card: str = "") -> None:
        super().__init__()
        self.backbone, self.description, self.card = backbone, description, card
        self.features = description.features

    def preprocess(self, video: str | Path | bytes | np.ndarray | Tensor, clips: int = 1) -> Tensor:
        """A video -> ``clips`` evenly spaced clips, float32 (clips, 3, T, H, W), as evaluations cut and normalise them.

        Args:
            video: a file, the bytes of one, or decoded frames: uint8 (T, H, W, 3), RGB. Shorter ones loop.
            clips: 1 is the middle of the video.

        Raises:
            VideoError: the file cannot be read or decoded, or the frames are not such an array.
        """
        shown = self.description.input
        spec = shown.clips(clips)
        if isinstance(video, str | Path):
            video = _bytes_of(Path(video))
        if isinstance(video, bytes):
            cut = cut_uniform({"video": video}, spec)
        else:
            frames = _checked(np.asarray(video))
            cut = cut_windows(lambda numbers: frames[numbers], len(frames), spec)
        return Normalise(shown.mean, shown.std)(to_float(torch.from_numpy(cut).permute(0, 4, 1, 2, 3)))

    @torch.no_grad()
    def embed(self, video: str | Path | bytes | np.ndarray | Tensor, clips: int = 1) -> Tensor:
        """The mean of a video's features over ``clips`` clips: (D,). Raises: see ``preprocess``."""
        shown = next(self.backbone.parameters(), torch.zeros(0)).device
        out: Tensor = self(self.preprocess(video, clips).to(shown)).mean(0)
        return out

    def forward_features(self, x: Tensor) -> Tensor:
        """Clips (B, 3, T, H, W), see ``preprocess`` -> feature map (B, D, T', H', W')."""
        return cast(Backbone, self.backbone).trunk(x)

    def forward(self, x: Tensor) -> Tensor:
        """Clips (B, 3, T, H, W), see ``preprocess`` -> features (B, D)."""
        out: Tensor = self.backbone(x)
        return out

    def save_pretrained(self, folder: str | Path) -> list[Path]:
        """Write model.safetensors, config.json and README.md -> their paths. Equal encoders give equal bytes.

        Raises:
            ConfigError: the folder has files of these names that are not an exported encoder's, or is not writable.
        """
        place, weights = Path(folder).expanduser(), serialised(self.backbone.state_dict())
        check_folder(place)
        described = self.description.model_copy(update={"sha256": hashlib.sha256(weights).hexdigest()})
        contents = {WEIGHTS: weights, CONFIG: described.text.encode()}
        contents |= {CARD: self.card.encode()} if self.card else {}
        try:
            place.mkdir(parents=True, exist_ok=True)
            for name, content in contents.items():
                with atomic_write(place / name) as part:
                    part.write_bytes(content)
        except OSError as error:
            raise ConfigError(f"an encoder's folder must be writable: {place}: {error.strerror}") from None
        return [place / name for name in contents]

    def push_to_hub(self, name: str, private: bool = False) -> str:
        """Upload the same files to the Hub's repository ``owner/name``, which is made if need be -> its URL.

        Raises:
            ConfigError: huggingface_hub is not installed. DataError: the Hub refuses, or cannot be reached.
        """
        from paramcrop.export.hub import upload

        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return upload(Path(folder), name, private)

    @staticmethod
    def from_pretrained(name: str | Path) -> Encoder:
        """``load``, where a name ``owner/name`` that is no folder here is the Hub's."""
        from paramcrop.export.load import load

        return load(name if Path(name).expanduser().exists() or "://" in str(name) else f"hf://{name}")


def serialised(state: Mapping[str, Any]) -> bytes:
    """A state dict in the format of safetensors; equal states give equal bytes."""
    return save({name: value.detach().cpu().contiguous().clone() for name, value in state.items()}, {"format": "pt"})


def check_folder(folder: Path) -> None:
    """Raises:
    ConfigError: to write an encoder into ``folder`` would overwrite files of something else.
    """
    there = [name for name in (WEIGHTS, CONFIG, CARD) if (folder / name).exists()]
    if there and not is_export(folder):
        raise ConfigError(f"an encoder needs a folder of its own, but {folder} has another {there[0]}")


def _bytes_of(file: Path) -> bytes:
    try:
        return file.expanduser().read_bytes()
    except OSError as error:
        raise VideoError(f"a video must be a readable file, but {file} is not: {error.strerror}") from None


def _checked(frames: np.ndarray) -> np.ndarray:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
        raise VideoError(f"frames must be uint8 (T, H, W, 3), but are {frames.dtype} {frames.shape}")
    return frames
