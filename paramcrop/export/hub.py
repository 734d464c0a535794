"""Repositories of encoders on the Hugging Face Hub. Its client is the extra ``hub``, and keeps the user's token."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from paramcrop.errors import ConfigError, DataError
from paramcrop.export.description import CARD, CONFIG, ONNX, WEIGHTS

SCHEME = "hf://"
FILES = (WEIGHTS, CONFIG, CARD, ONNX)


def download(name: str) -> Path:
    """The folder of a repository's files on this machine, downloaded if need be.

    Args:
        name: ``owner/name``, or ``owner/name@revision``: a branch, tag or commit.

    Raises:
        ConfigError: huggingface_hub is not installed. DataError: there is no such repository, or it cannot be reached.
    """
    repository, _, revision = name.partition("@")
    client = _client()
    try:
        return Path(
            client.snapshot_download(repository, revision=revision or None, allow_patterns=[WEIGHTS, CONFIG, CARD])
        )
    except Exception as error:  # the client's own errors and those of its HTTP library
        raise DataError(f"{SCHEME}{name} must be a model that can be downloaded, but: {_line(error)}") from None


def upload(folder: Path, name: str, private: bool = False) -> str:
    """Upload a folder's encoder -> the URL of the repository.

    Raises:
        ConfigError: huggingface_hub is not installed. DataError: the Hub refuses, or cannot be reached.
    """
    api = _client().HfApi()
    try:
        url = str(api.create_repo(name, private=private, exist_ok=True))
        api.upload_folder(
            repo_id=name, folder_path=folder, allow_patterns=list(FILES), commit_message="paramcrop export"
        )
    except Exception as error:
        raise DataError(f"{SCHEME}{name} must be a repository that you can write to, but: {_line(error)}") from None
    return url


def _client() -> ModuleType:
    try:
        import huggingface_hub
    except ImportError:
        raise ConfigError(f"{SCHEME} needs huggingface_hub: pip install 'paramcrop[hub]'") from None
    return huggingface_hub


def _line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:300]
