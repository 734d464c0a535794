"""What config.json of an exported encoder says. Reading it runs no code."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError

from paramcrop.data.uniform import UniformSpec
from paramcrop.errors import CheckpointError

WEIGHTS, CONFIG, CARD, ONNX = "model.safetensors", "config.json", "README.md", "model.onnx"
Channels = float | tuple[float, float, float]
OPEN = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)  # a later version may say more


def _positive(std: Channels) -> Channels:
    if min(std if isinstance(std, tuple) else (std,)) <= 0:
        raise ValueError("std must be above 0")
    return std


class Architecture(BaseModel):
    """The backbone: a name of ``BACKBONES`` or ``OTHERS`` or ``module:Class``, and the keyword arguments of its class.

    Attributes:
        source: hash of the file of a class of the user's own.
        eps: of the batch norms, where the weights were trained with another than the class has.
    """

    model_config = OPEN

    name: str
    settings: dict[str, JsonValue] = {}
    source: str | None = None
    eps: float | None = Field(default=None, gt=0)


class Input(BaseModel):
    """The RGB clips that the encoder was pretrained on: fields of ``UniformSpec``, and what normalises their pixels.

    Attributes:
        mean, std: of pixels in [0, 1]; of all channels, or of red, green and blue.
    """

    model_config = OPEN

    frames: int = Field(ge=1)
    size: int = Field(ge=1)
    stride: int = Field(ge=1)
    box: float = Field(gt=0, le=1)
    mean: Channels
    std: Annotated[Channels, AfterValidator(_positive)]

    def clips(self, clips: int) -> UniformSpec:
        """``clips`` evenly spaced clips of a video."""
        return UniformSpec(clips, self.frames, self.stride, self.size, self.box)


class Pretraining(BaseModel):
    """The run that the encoder is of, its id, and the checkpoint's epoch.

    Of another program's weights: their name, the start of their file's sha256, and 0.
    """

    model_config = OPEN

    run: str
    run_id: str
    epoch: int
    method: str
    policy: str
    seed: int
    precision: str


class Description(BaseModel):
    """The content of config.json.

    Attributes:
        features: values per clip. classes: those that the run has learned, of a semi-supervised run.
        sha256: of model.safetensors; empty before it is written.
    """

    model_config = OPEN

    library_name: Literal["paramcrop"] = "paramcrop"
    format: Literal[1] = 1
    architecture: Architecture
    features: int = Field(ge=1)
    input: Input
    classes: list[str] | None = None
    pretraining: Pretraining
    sha256: str = ""

    @property
    def text(self) -> str:
        """The text of config.json."""
        return self.model_dump_json(indent=2, exclude_none=True) + "\n"


def read_description(folder: Path) -> Description:
    """Read a folder's config.json.

    Raises:
        CheckpointError: there is none, or it is not an exported encoder's.
    """
    file = folder / CONFIG
    try:
        return Description.model_validate_json(file.read_bytes())
    except OSError as error:
        reason = error.strerror or type(error).__name__
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")
    raise CheckpointError(f"config.json must be that of an exported encoder, but {file} is not: {reason}")


def is_export(folder: Path) -> bool:
    """Whether a folder has an exported encoder."""
    try:
        read_description(folder)
    except CheckpointError:
        return False
    return True
