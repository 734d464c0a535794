"""Entry points of torch.hub: ``torch.hub.load("OWNER/REPOSITORY", "encoder", "hf://owner/name")``."""

from __future__ import annotations

import paramcrop as _paramcrop  # torch.hub lists the names without an underscore

dependencies = ["torch", "torchvision", "numpy", "yaml", "pydantic", "pyarrow", "av", "safetensors"]


def encoder(source: str, pretrained: bool = True) -> _paramcrop.Encoder:
    """A pretrained video encoder; ``source``: an exported folder, a run or hf://owner/name, see ``paramcrop.load``."""
    return _paramcrop.load(source, pretrained)
