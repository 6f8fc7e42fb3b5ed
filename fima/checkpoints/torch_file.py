"""PyTorch files of any content: written in one piece, read without running code."""

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from fima.checkpoints.foreign import refuse_other_kinds
from fima.errors import CheckpointError
from fima.files.atomic import written_whole

OUR_FORMATS = "fima-"
"""What the formats of this program's own files begin with."""


class HoldsClassesError(CheckpointError):
    """A file with objects of other programs' classes, or no checkpoint at all."""


def write_content(path: Path, content: Mapping[str, Any], *, backups: Sequence[Path] = ()) -> None:
    """Write values and tensors so that `path` holds either the old file or the whole new one, even after a crash.

    PyTorch's format has a CRC-32 of every tensor, which `read_content` compares.

    Raises:
        CheckpointError: it cannot be written; the files are as they were.
    """
    with written_whole(path, backups=backups, kind=CheckpointError) as temporary, temporary.open("wb") as file:
        torch.save(dict(content), file)


def read_content(path: Path) -> Any:  # noqa: ANN401
    """Read what a PyTorch file holds onto the CPU, without running any code that it may hold.

    The checksums of this program's own files are compared; those of others may have been written without any.

    Raises:
        CheckpointError: the file is missing, damaged, altered, or holds more than plain values and tensors.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: {'is a folder, not a' if path.is_dir() else 'no such'} checkpoint file")
    refuse_other_kinds(path)
    with path.open("rb") as file:
        starts_as_zip = file.read(2) == b"PK"
    if starts_as_zip and not zipfile.is_zipfile(path):
        raise CheckpointError(f"{path}: truncated (copied or downloaded in part?); copy it again or use another one")
    try:
        with warnings.catch_warnings():
            # Files of other programs make torch warn about their pickle protocol before it refuses them.
            warnings.simplefilter("ignore", UserWarning)
            content = torch.load(path, map_location="cpu", weights_only=True)
        is_ours = isinstance(content, dict) and str(content.get("format")).startswith(OUR_FORMATS)
        altered = altered_part(path) if is_ours else None
        if altered is None:
            return content
        reason = f"altered since it was written: the checksum of {altered} is wrong"
    except pickle.UnpicklingError:
        reason = "holds more than plain tensors and values, so it is not loaded" if starts_as_zip else "no checkpoint"
        raise HoldsClassesError(f"{path}: {reason}") from None
    except Exception as error:  # a damaged pickle can fail in any way
        said = re.split(r"\n|\. ", str(error))[0]
        reason = f"damaged or no checkpoint ({said})" if said else "damaged or no checkpoint"
    raise CheckpointError(f"{path}: {reason}")


def altered_part(path: Path) -> str | None:
    """Return the part of a PyTorch file whose content does not fit its checksum, or None."""
    with zipfile.ZipFile(path) as archive:
        return archive.testzip()
