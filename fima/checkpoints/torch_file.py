"""PyTorch files of any program: written in one piece, read without running code or making objects of other classes."""

import pickle
import re
import types
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeGuard

import torch
from torch import Tensor

from fima.errors import CheckpointError, near_path
from fima.files.atomic import written_whole

OTHER_KINDS = {
    (b"version https://git-lfs",): "a Git LFS pointer, not the file that it stands for; `git lfs pull` fetches that",
    (b"<!doctype html", b"<html", b"<!--"): "a web page, which a server sent instead of the file; download it again",
    (b"<?xml",): "an XML document, such as a server's error message; download the file again",
    (b'{"', b"{\n"): "JSON, such as a server's error message; download the file again",
    (b"\x1f\x8b",): "compressed by gzip; unpack it with gunzip",
    (b"bzh",): "compressed by bzip2; unpack it with bunzip2",
    (b"\xfd7zxz",): "compressed by xz; unpack it with unxz",
    (b"\x28\xb5\x2f\xfd",): "compressed by Zstandard; unpack it with unzstd",
    (b"\x89hdf",): "an HDF5 file, as Keras writes them; save its weights with torch.save",
}
"""How files begin that are mistaken for checkpoints, in lower case."""
SENTENCE = re.compile(rb"[ -~]*[A-Za-z][ ,][A-Za-z][ -~]*")
TAR = slice(257, 262)
"""Where a tar archive says what it is."""
# fmt: off
CALLS = frozenset({
    "_io", "asyncio", "code", "codeop", "commands", "ctypes", "distutils", "importlib", "io", "marshal",
    "multiprocessing", "nt", "os", "pathlib", "pip", "posix", "pty", "runpy", "shutil", "signal", "socket",
    "subprocess", "sys", "tempfile", "threading", "timeit", "urllib", "webbrowser",
})
# fmt: on
"""Modules of functions that act on the system: no checkpoint needs one, so a file that names one is refused."""
HARMLESS = frozenset({"pathlib.Path", "pathlib.PosixPath", "pathlib.WindowsPath", "pathlib.PurePosixPath"})
BUILTIN_CALLS = frozenset({"__import__", "apply", "compile", "delattr", "eval", "exec", "open", "setattr"})
"""`getattr` is not among them: Python 3.11.0 to 3.11.3 names it for a member of an enum. Here it is inert as well."""
DEEPEST = 6
LONGEST_QUOTE = 60
OUR_FORMATS = "fima-"
"""What the formats of this program's own files begin with."""


class HoldsClassesError(CheckpointError):
    """A file with objects of other programs' classes, or no checkpoint at all."""


def write_content(path: Path, content: Mapping[str, Any], *, backups: Sequence[Path] = ()) -> None:
    """Write values and tensors so that `path` holds either the old file or the whole new one, even after a crash.

    PyTorch's format has a CRC-32 of every tensor, which `read_content` compares. Raises CheckpointError.
    """
    with written_whole(path, backups=backups, kind=CheckpointError) as temporary, temporary.open("wb") as file:
        torch.save(dict(content), file)


def read_content(path: Path) -> Any:  # noqa: ANN401
    """Read what a PyTorch file holds onto the CPU, without running any code that it may hold.

    The checksums of this program's own files are compared; those of others may have been written without any. Raises
    CheckpointError where it is missing, damaged, altered, or holds more than plain values and tensors.
    """
    if not path.is_file():
        what = "is a folder, not a checkpoint file" if path.is_dir() else f"no such checkpoint file{near_path(path)}"
        raise CheckpointError(f"{path}: {what}")
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
        if not (isinstance(content, dict) and str(content.get("format")).startswith(OUR_FORMATS)):
            return content
        with zipfile.ZipFile(path) as archive:
            altered = archive.testzip()
        if altered is None:
            return content
        reason = f"altered since it was written: the checksum of {altered} is wrong"
    except pickle.UnpicklingError:
        reason = "holds more than plain tensors and values, so it is not loaded" if starts_as_zip else "no checkpoint"
        raise HoldsClassesError(f"{path}: {reason}") from None
    except Exception as error:  # a damaged pickle can fail in any way
        # What those that are not of PyTorch say is of its insides, such as the number of an instruction.
        said = re.split(r"\n|\. ", str(error))[0] if isinstance(error, RuntimeError) else type(error).__name__
        reason = f"damaged or no checkpoint ({said}); copy or download it again, or use another one"
    raise CheckpointError(f"{path}: {reason}")


def refuse_other_kinds(path: Path) -> None:
    """Raise CheckpointError for a file that is something well known but no checkpoint; says what, and what to do."""
    with path.open("rb") as file:
        begin = file.read(TAR.stop)
    if not begin:
        raise CheckpointError(f"{path}: the file is empty")
    if begin[TAR] == b"ustar":
        raise CheckpointError(f"{path}: a tar archive; unpack it, and give the file that was in it")
    if zipfile.is_zipfile(path):
        _refuse_archives(path)
    start = begin.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for beginnings, what in OTHER_KINDS.items():
        if start.startswith(beginnings):
            raise CheckpointError(f"{path}: {what}")
    line = begin.strip().split(b"\n")[0].strip()[:LONGEST_QUOTE]
    if SENTENCE.fullmatch(line):
        raise CheckpointError(
            f"{path}: no checkpoint but a text, such as a table or a server's message: {line.decode()!r}"
        )


def _refuse_archives(path: Path) -> None:
    """Raise CheckpointError for a ZIP archive that PyTorch's `torch.save` has not written."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:
        return  # damaged in any way: named by those who read it
    if any(name.endswith("constants.pkl") for name in names):
        raise CheckpointError(f"{path}: a TorchScript program, which is not loaded; save its state_dict()")
    if any(name.endswith("/archive_format") for name in names):
        raise CheckpointError(f"{path}: a graph of torch.export, for torch.export.load; give what it was exported from")
    if any(name.endswith(".npy") for name in names):
        raise CheckpointError(f"{path}: an archive of NumPy arrays; save them as tensors, with torch.save")
    if not any(name.endswith("data.pkl") for name in names):
        held = ", ".join(names[:3]) or "nothing"
        raise CheckpointError(f"{path}: an archive that holds {held}; unpack it, and give one file")


def refuse_odd_values(weights: Mapping[str, Tensor], source: Path) -> None:
    """Raise CheckpointError for weights without plain values, or with some that are not finite."""
    for name, value in weights.items():
        if value.is_meta or value.is_quantized or value.layout is not torch.strided:
            raise CheckpointError(f"{source}: `{name}` has no plain values (sparse, quantized, or on the meta device)")
        if not value.isfinite().all():
            raise CheckpointError(f"{source}: `{name}` has values that are not finite; its training had diverged")


class Inert(dict[Any, Any]):
    """Stands for an object of a class that is not loaded: it holds the state, and does nothing."""

    def __new__(cls, *_: object, **__: object) -> "Inert":
        """Take whatever the class would."""
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        super().__init__()

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.update(state)

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)

    def append(self, _: object) -> None:
        """Take an item of a list."""

    def extend(self, _: object) -> None:
        """Take items of a list."""

    add = append


def _tensor(tensor: Tensor, *_: object) -> Tensor:
    return tensor


ALLOWED: dict[str, object] = {
    "collections.OrderedDict": OrderedDict,
    "builtins.set": set,
    "builtins.dict": dict,
    "torch.Size": torch.Size,
    "torch.device": torch.device,
    "torch._utils._rebuild_tensor": torch._utils._rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": torch._utils._rebuild_tensor_v2,
    "torch._utils._rebuild_parameter": _tensor,
    "torch._utils._rebuild_parameter_with_state": _tensor,
    "torch.nn.parameter.Parameter": _tensor,
    "torch._tensor._rebuild_from_type_v2": lambda make, _, arguments, __: make(*arguments),
}
"""All that a file can call, apart from making an `Inert`; they make tensors and containers."""


class _Unpickler(pickle._Unpickler):
    seen: ClassVar[list[str]]

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401
        """What stands for an object of the file: one of `ALLOWED`, else something inert; nothing is imported."""
        # Python 2 and 3.13 have other names for these modules.
        full = f"{module.replace('__builtin__', 'builtins').replace('pathlib._local', 'pathlib')}.{name}"
        if full in ALLOWED:
            return ALLOWED[full]
        known = getattr(torch, name, None) if module == "torch" and "." not in name else None
        if isinstance(known, torch.dtype) or (isinstance(known, type) and name.endswith("Storage")):
            return known
        acts = module.split(".")[0] in CALLS and full not in HARMLESS
        if acts or (full.startswith("builtins.") and name in BUILTIN_CALLS) or full == "torch.storage._load_from_bytes":
            raise pickle.UnpicklingError(full)
        self.seen.append(full)
        return type(name, (Inert,), {"__module__": module})


def read_inert(path: Path) -> tuple[Any, list[str]]:
    """Read a PyTorch file that holds objects of other classes, without making any of them; also their names.

    Every class and function that the file names becomes a class that does nothing, `Inert`; only what makes tensors and
    plain containers is what it says. Raises CheckpointError for code that acts on the system.
    """
    seen: list[str] = []
    unpickler = type("Unpickler", (_Unpickler,), {"seen": seen})
    module = types.SimpleNamespace(
        Unpickler=unpickler, load=lambda file, **options: unpickler(file, **options).load(), __name__="inert"
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # What `weights_only` refuses is read by an unpickler that makes and calls even less of what a file names.
            content = torch.load(path, map_location="cpu", weights_only=False, pickle_module=module)
    except pickle.UnpicklingError as error:
        named = f"more than plain tensors and values ({error}), so it is not loaded"
        raise CheckpointError(f"{path}: no checkpoint, or {named}{remedy(path)}") from None
    except Exception as error:  # a damaged pickle can fail in any way
        what = f"no checkpoint, or a damaged one ({type(error).__name__})"
        raise CheckpointError(f"{path}: {what}{remedy(path)}") from None
    return content, list(dict.fromkeys(seen))


def is_plain(value: object) -> bool:
    """Whether a value is made of tensors, numbers, texts and plain containers alone."""
    if type(value) in (dict, OrderedDict, list, tuple, set):
        return all(map(is_plain, [*value, *value.values()] if isinstance(value, dict) else value))  # type: ignore
    return isinstance(value, bool | int | float | str | bytes | Tensor | torch.Size | torch.dtype | None)


def remedy(path: Path, *, arrays: bool = False) -> str:
    """Return the two lines of Python that write the weights alone; `arrays`: of NumPy, which become tensors."""
    weights = "{k: torch.as_tensor(v) for k, v in c['state_dict'].items()}" if arrays else "c['state_dict']"
    return (
        f"; where you trust it, two lines of Python rewrite it: c = torch.load({path.name!r}, weights_only=False); "
        f"torch.save({weights}, 'weights.pth')"
    )


def is_state_dict(value: object) -> TypeGuard[Mapping[str, Tensor]]:
    """Whether a value that was read from a file has tensors by name, and nothing else."""
    if not isinstance(value, Mapping):
        return False
    return all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items())


def states(content: object, keys: tuple[str, ...] = ()) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield the tensors by name of every mapping and module in a file, each after the keys that lead there."""
    if isinstance(content, list | tuple):
        content = dict(enumerate(content))
    if not isinstance(content, Mapping) or len(keys) > DEEPEST:
        return
    found = _module_state(content) if isinstance(content, Inert) and "_modules" in content else content
    tensors = {name: value for name, value in found.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if tensors:
        yield ".".join(keys), tensors
    for key, value in found.items():
        yield from states(value, (*keys, str(key)))


def _module_state(module: Mapping[Any, Any]) -> dict[str, Tensor]:
    """The state dict of a module that was saved whole."""
    own = {**(module.get("_parameters") or {}), **(module.get("_buffers") or {})}
    state = {str(name): value for name, value in own.items() if isinstance(value, Tensor)}
    for name, inner in (module.get("_modules") or {}).items():
        if isinstance(inner, Mapping):
            state |= {f"{name}.{key}": value for key, value in _module_state(inner).items()}
    return state
