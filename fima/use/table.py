"""Files of embeddings: Parquet, NumPy or safetensors, all with the same content."""

import importlib
import json
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fima.errors import ConfigError, DataError, near_path
from fima.files.atomic import written_whole
from fima.version import pip_install

SUFFIXES = (".parquet", ".npz", ".safetensors")
ABOUT_KEY = "fima"
FORMAT = "fima-embeddings"
ARRAYS = ("vectors", "seconds", "video")

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """N vectors of videos, clips or seconds."""

    vectors: Floats
    """(N, C)."""
    seconds: npt.NDArray[np.float64]
    """From when to when in the video, (N, 2); NaN where the video has no frame rate."""
    video: npt.NDArray[np.int64]
    """Place in `paths` of each row's video, (N,)."""
    paths: list[str]
    about: dict[str, Any]
    """Encoder, clips and versions behind the vectors; plain values."""

    def path(self, row: int) -> str:
        """The file of a row."""
        return self.paths[int(self.video[row])]


def check_suffix(path: Path) -> None:
    """Raise ConfigError for a file that could not be written: there is no such format, or its library is missing."""
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"-o {path}: must end in one of {', '.join(SUFFIXES)}")
    if path.suffix == ".parquet":
        _parquet()


def check_names(path: Path, videos: Iterable[Path]) -> None:
    """Refuse a Parquet file for videos whose names it cannot hold, before the work. Raises ConfigError."""
    for video in videos if path.suffix == ".parquet" else ():
        try:
            str(video).encode()
        except UnicodeEncodeError:
            raise ConfigError(f"-o {path}: Parquet takes no such name as {video}; write .npz or .safetensors") from None


def write_embeddings(path: Path, embeddings: Embeddings) -> None:
    """Write a file in the format that its name ends in, in one piece. Raises ConfigError where it cannot be written."""
    check_suffix(path)
    write = {".parquet": _write_parquet, ".npz": _write_npz, ".safetensors": _write_safetensors}[path.suffix]
    with written_whole(path) as temporary:
        write(temporary, embeddings)


def read_embeddings(path: Path) -> Embeddings:
    """Read what `write_embeddings` wrote. Raises DataError where the file is missing, damaged, or something else."""
    if not path.is_file():
        raise DataError(f"{path}: no such file of embeddings{near_path(path) or '; write one with `fima embed`'}")
    readers = {".parquet": _read_parquet, ".npz": _read_npz, ".safetensors": _read_safetensors}
    if path.suffix not in readers:
        raise DataError(f"{path}: not a file of embeddings; it must end in one of {', '.join(SUFFIXES)}")
    try:
        return readers[path.suffix](path)
    except (OSError, EOFError, ValueError, KeyError, TypeError, SafetensorError, zipfile.BadZipFile) as error:
        if isinstance(error, (ConfigError, DataError)):
            raise
        # NumPy's message for a file that is no archive recommends to unpickle it.
        unknown = "pickle" in str(error) or not str(error)
        reason = "another kind of file, or damaged" if unknown else str(error).splitlines()[0]
        remedy = "write it again with `fima embed`"
        raise DataError(f"{path}: not a whole file of embeddings ({reason}); {remedy}") from None


def _arrays(embeddings: Embeddings) -> dict[str, npt.NDArray[Any]]:
    content = {"format": FORMAT, "about": embeddings.about, "paths": embeddings.paths}
    arrays = {name: np.ascontiguousarray(getattr(embeddings, name)) for name in ARRAYS}
    # As an array of bytes: a header of a safetensors file would be too short for a million paths.
    return {**arrays, "json": np.frombuffer(json.dumps(content).encode(), dtype=np.uint8)}


def _from_arrays(arrays: dict[str, npt.NDArray[Any]]) -> Embeddings:
    content = json.loads(arrays.pop("json").tobytes())
    if content["format"] != FORMAT:
        raise ValueError(f"its format is {content['format']}")
    if len({len(array) for array in arrays.values()}) > 1:
        raise ValueError("it does not say of every vector which video it is of")
    return Embeddings(**arrays, paths=content["paths"], about=content["about"])


def _write_npz(path: Path, embeddings: Embeddings) -> None:
    # numpy's types take the arrays for its own keywords.
    np.savez(path, **_arrays(embeddings))  # type: ignore[arg-type]


def _read_npz(path: Path) -> Embeddings:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
        return _from_arrays({name: stored[name] for name in (*ARRAYS, "json")})


def _write_safetensors(path: Path, embeddings: Embeddings) -> None:
    save_file(_arrays(embeddings), path, metadata={"format": FORMAT})


def _read_safetensors(path: Path) -> Embeddings:
    with safe_open(path, framework="np") as stored:
        arrays = {name: stored.get_tensor(name) for name in ("seconds", "video", "json")}
    return _from_arrays({**arrays, "vectors": _mapped(path, "vectors")})


def _mapped(path: Path, name: str) -> Floats:
    """An array of a safetensors file that has been found whole, mapped into memory: it is read as it is used."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        facts = json.loads(file.read(size))[name]
    if facts["dtype"] != "F32":
        raise ValueError(f"its {name} are {facts['dtype']}")
    if 0 in facts["shape"]:
        return np.zeros(facts["shape"], np.float32)
    return np.asarray(np.memmap(path, np.float32, "r", 8 + size + facts["data_offsets"][0], tuple(facts["shape"])))


def _parquet() -> ModuleType:
    try:
        # An optional dependency, without types.
        return importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise ConfigError(f"Parquet needs pyarrow: {pip_install('parquet')}, or write .npz or .safetensors") from None


def _write_parquet(path: Path, embeddings: Embeddings) -> None:
    parquet = _parquet()
    arrow = importlib.import_module("pyarrow")
    num_rows, size = embeddings.vectors.shape
    flat = arrow.array(embeddings.vectors.reshape(-1))
    names = arrow.DictionaryArray.from_arrays(arrow.array(embeddings.video), arrow.array(embeddings.paths))
    table = arrow.table(
        {
            "path": names,
            "start_seconds": arrow.array(embeddings.seconds[:, 0]),
            "end_seconds": arrow.array(embeddings.seconds[:, 1]),
            "vector": arrow.FixedSizeListArray.from_arrays(flat, size),
        }
    )
    facts = {"format": FORMAT, "about": embeddings.about, "num_rows": num_rows}
    parquet.write_table(table.replace_schema_metadata({ABOUT_KEY: json.dumps(facts)}), path)


def _read_parquet(path: Path) -> Embeddings:
    table = _parquet().ParquetFile(path).read()
    facts = json.loads((table.schema.metadata or {})[ABOUT_KEY.encode()])
    vectors = table["vector"].combine_chunks()
    column = table["path"].combine_chunks()
    names = column.dictionary_encode() if not hasattr(column, "indices") else column
    return Embeddings(
        vectors=vectors.flatten().to_numpy().reshape(len(vectors), -1),
        seconds=np.stack([table[name].to_numpy() for name in ("start_seconds", "end_seconds")], axis=1),
        video=names.indices.to_numpy().astype(np.int64),
        paths=names.dictionary.to_pylist(),
        about=facts["about"],
    )
