"""The Hugging Face Hub, by its own library: `save_pretrained`, `from_pretrained`, `push_to_hub`, `hf://` addresses."""

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from fima.checkpoints.pretrained import CONFIG_FILE, WEIGHTS_FILE
from fima.errors import CheckpointError, ConfigError, first_line
from fima.version import pip_install

HUB_SCHEME = "hf://"


def _refuse(what: str, *args: object, **settings: object) -> NoReturn:
    raise ConfigError(f"{what} needs the library of the Hugging Face Hub: {pip_install('hub')}")


class _NoHub:
    """Says how to install the library when one of its methods is called."""

    save_pretrained, push_to_hub, from_pretrained = (
        staticmethod(partial(_refuse, name)) for name in ("save_pretrained", "push_to_hub", "from_pretrained")
    )

    def __init_subclass__(cls, **about: object) -> None:
        super().__init_subclass__()


__all__ = ["HUB_SCHEME", "HubMixin", "download"]

if TYPE_CHECKING:
    from huggingface_hub import PyTorchModelHubMixin as HubMixin
else:
    try:
        from huggingface_hub import PyTorchModelHubMixin as HubMixin
    except ImportError:
        HubMixin = _NoHub


def download(address: str) -> Path:
    """Return the local copy of `hf://OWNER/NAME[@REVISION][/FILE]`: a folder of a saved encoder, or the file.

    Raises ConfigError for another address or without the library, CheckpointError where the Hub does not give it.
    """
    words = address.removeprefix(HUB_SCHEME).split("/", 2)
    if len(words) < 2 or not all(words):
        raise ConfigError(f"{address}: expected hf://OWNER/NAME, hf://OWNER/NAME@REVISION or hf://OWNER/NAME/FILE")
    name, _, revision = words[1].partition("@")
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ImportError:
        _refuse(address)
    files = [words[2]] if len(words) == 3 else [CONFIG_FILE, WEIGHTS_FILE]
    try:
        paths = [Path(hf_hub_download(f"{words[0]}/{name}", file, revision=revision or None)) for file in files]
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise CheckpointError(f"{address}: cannot be had from the Hub: {_reason(error)}") from None
    return paths[0] if len(words) == 3 else paths[-1].parent


def _reason(error: Exception) -> str:
    """Why a download failed, and what to do."""
    from huggingface_hub import errors

    offline = "HF_HUB_OFFLINE is set" if os.environ.get("HF_HUB_OFFLINE") else "it cannot be reached"
    private = "there is no such repository, or it is private: check the name, or log in with `hf auth login`"
    reasons = {
        errors.LocalEntryNotFoundError: f"{offline}, and there is no copy of an earlier download",
        errors.RepositoryNotFoundError: private,
        errors.RevisionNotFoundError: "it has no such revision",
        errors.EntryNotFoundError: "it has no such file; a saved encoder has config.json and model.safetensors",
    }
    return next((reason for kind, reason in reasons.items() if isinstance(error, kind)), first_line(error))
