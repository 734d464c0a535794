"""``load``: an encoder from an exported folder, a run, or the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from paramcrop.data.uniform import UniformSpec
from paramcrop.errors import CheckpointError, ConfigError
from paramcrop.evaluation.job import sha256_of
from paramcrop.evaluation.tasks import pace
from paramcrop.evaluation.weights import (
    UNCHANGED,
    load_backbone,
    load_strictly,
    load_weights,
    named_backbone,
    pick_checkpoint,
    read_config,
)
from paramcrop.export.card import model_card
from paramcrop.export.description import (
    CARD,
    CONFIG,
    WEIGHTS,
    Architecture,
    Description,
    Input,
    Pretraining,
    read_description,
)
from paramcrop.export.encoder import Encoder
from paramcrop.export.hub import SCHEME, download
from paramcrop.models.foreign import OTHERS, set_eps
from paramcrop.settings.custom import is_custom
from paramcrop.storage.checkpoint import load_checkpoint
from paramcrop.storage.files import digest
from paramcrop.storage.find import run_named
from paramcrop.storage.foreign import foreign_state
from paramcrop.storage.runs import read_provenance
from paramcrop.training.build import BACKBONES, backbone_settings, build_backbone, features_of, make_backbone


def load(
    source: str | Path,
    pretrained: bool = True,
    trust: bool = False,
    like: str | Path | None = None,
    what: str = "load's source",
) -> Encoder:
    """Load an encoder, in evaluation mode, on the CPU.

    Args:
        source: a folder that `paramcrop export` wrote; a run's folder, its name or id below runs/, or its URI;
            ``hf://owner/name``; or a file of weights of another program.
        pretrained: False: the same architecture with random weights.
        trust: whether to import a class outside this package that an exported folder names as its architecture.
            A run's own class is imported as in all commands.
        like: for a file of weights, an encoder (as ``source``) that has its architecture and its clips; None: it is
            torchvision's s3d or r3d_18, or S3D or S3D-G of CoCLR, which the file's names tell.
        what: the option or argument that names the source, for the error.

    Raises:
        CheckpointError: the files do not fit one another. DataError: there is no such encoder.
        ConfigError: its class cannot be used; or hf:// without huggingface_hub.
    """
    text = str(source)
    folder = download(text.removeprefix(SCHEME)) if text.startswith(SCHEME) else Path(text).expanduser()
    if folder.is_file():
        return from_file(folder, load(like, False, trust) if like is not None else None)
    if like is not None:
        raise ConfigError(f"like={like} needs a file of weights as load's source, but that is {text}")
    if text.startswith(SCHEME) or (folder / CONFIG).exists():
        return from_folder(folder, pretrained, trust)
    return from_run(run_named(text, what), pretrained=pretrained)


def from_folder(folder: Path, pretrained: bool = True, trust: bool = False) -> Encoder:
    """The encoder that ``Encoder.save_pretrained`` wrote. Raises: see ``load``."""
    described = read_description(folder)
    backbone = _made(described, folder, trust)
    if pretrained:
        file = folder / WEIGHTS
        state = foreign_state(file, {"": ""})
        with file.open("rb") as opened:
            found = digest(opened)[1]
        if found != described.sha256:
            raise CheckpointError(
                f"{WEIGHTS} must have the sha256 of {CONFIG}, {described.sha256[:12]}…, but {file} has {found[:12]}…"
            )
        load_strictly(backbone, state, str(file))
    card = folder / CARD
    return _evaluating(backbone, described, card.read_text(encoding="utf-8") if card.exists() else "")


def from_file(file: Path, like: Encoder | None = None) -> Encoder:
    """The encoder with another program's weights.

    Args:
        like: an encoder of that architecture, which gets the weights; None: the file's names tell which it is.

    Raises:
        CheckpointError: see ``load``.
    """
    if like is not None:
        return _evaluating(like.backbone, _described(like, file), "")
    origin, backbone = named_backbone(file)
    described = Description(
        architecture=Architecture(name=origin.backbone, eps=origin.eps),
        features=features_of(backbone),
        input=Input(
            frames=origin.frames,
            size=origin.size,
            stride=origin.stride,
            box=origin.box,
            mean=origin.mean,
            std=origin.std,
        ),
        pretraining=_unknown(origin.name, file),
    )
    return _evaluating(backbone, described, "")


def _described(like: Encoder, file: Path) -> Description:
    """Load the weights into the encoder ``like`` -> its description with them."""
    origin = load_weights(like.backbone, file, UNCHANGED)[1]
    known = like.description
    update: dict[str, Any] = {"pretraining": _unknown(file.stem, file), "classes": None}
    if origin is not None:  # a network whose names are known comes with its eps and its normalisation of pixels
        update["architecture"] = known.architecture.model_copy(update={"eps": origin.eps})
        update["input"] = known.input.model_copy(update={"mean": origin.mean, "std": origin.std})
    return known.model_copy(update=update)


def _unknown(name: str, file: Path) -> Pretraining:
    """What is known of the pretraining of another program's weights."""
    nothing = {"epoch": 0, "method": "unknown", "policy": "unknown", "seed": 0, "precision": "float32"}
    return Pretraining.model_validate({"run": name, "run_id": sha256_of(str(file))[:12], **nothing})


def from_run(run: Path, epoch: int | None = None, pretrained: bool = True, licence: str = "unknown") -> Encoder:
    """The encoder of a run's checkpoint, with its model card.

    Args:
        epoch: that of the checkpoint; None: the newest.
        licence: of the weights, for the card.

    Raises:
        CheckpointError: the run has no such checkpoint. DataError: its provenance cannot be read.
    """
    config, (checkpoint, epoch), facts = read_config(run), pick_checkpoint(run, epoch), read_provenance(run)
    backbone = load_backbone(config, checkpoint) if pretrained else build_backbone(config)
    c, a = config.cropper, config.augment
    classes = None
    if config.method == "mean_teacher":
        classes = load_checkpoint(checkpoint)[0]["model"]["method._extra_state"]["classes"]
    described = Description(
        architecture=Architecture(
            name=config.backbone.name, settings=backbone_settings(config), source=config.backbone.source
        ),
        features=features_of(backbone),
        input=Input(frames=c.frames, size=c.size, stride=pace(config), box=UniformSpec.box, mean=a.mean, std=a.std),
        classes=classes,
        pretraining=Pretraining(
            run=config.run.name,
            run_id=facts["run_id"],
            epoch=epoch,
            method=config.method,
            policy=config.policy,
            seed=config.seed,
            precision=config.precision,
        ),
    )
    return _evaluating(backbone, described, model_card(run, described, facts, config.model_dump(mode="json"), licence))


def _made(described: Description, folder: Path, trust: bool) -> nn.Module:
    """The backbone with random weights.

    Raises:
        ConfigError: it is a class outside this package that is not trusted, or that does not fit.
        CheckpointError: there is no such architecture, or its settings or features are others.
    """
    what, shown = described.architecture, described.input
    if is_custom(what.name):
        if not trust:  # it would import and call whatever the file names
            raise ConfigError(
                f"an encoder of a class of one's own needs trust=True, which imports it: {folder} names {what.name}"
            )
        backbone = make_backbone(what.name, what.settings, what.source, (shown.frames, shown.size, shown.size))
    elif what.name not in (known := {**BACKBONES, **OTHERS}):
        raise CheckpointError(f"architecture.name must be one of {', '.join(known)}, but {folder} has {what.name}")
    else:
        try:
            backbone = make_backbone(what.name, what.settings)
        except (TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"architecture.settings must suit {what.name}, but in {folder}: {error}") from None
    set_eps(backbone, what.eps)
    if (made := features_of(backbone)) != described.features:
        raise CheckpointError(f"features must be the architecture's, {made}, but {folder} has {described.features}")
    return backbone


def _evaluating(backbone: nn.Module, described: Description, card: str) -> Encoder:
    encoder = Encoder(backbone, described, card)
    encoder.eval()
    return encoder
