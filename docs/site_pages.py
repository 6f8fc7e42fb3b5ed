"""What the documentation site has besides the pages of this folder, made from the code and the README when it is built.

A hook of MkDocs (`hooks` in mkdocs.yml); `tests/test_docs.py` uses it without MkDocs. On a code host the pages of this
folder are read as they are, so their links lead to files of the repository. In the site, those that lead outside this
folder are turned to the page that holds the same text.
"""

import ast
import contextlib
import dataclasses
import inspect
import io
import json
import os
import posixpath
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from unittest import mock

from fima.cli import main as run_command
from fima.commands import COMMANDS
from fima.config import FinetuneConfig, PretrainConfig
from fima.evaluate.protocols import EvaluationConfig

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).resolve().parent.parent
COMMANDS_PAGE, SETTINGS_PAGE, RECIPES_PAGE = "reference/commands.md", "reference/settings.md", "reference/recipes.md"
NOTEBOOK, NOTEBOOK_PAGE = "examples/your_own_videos.ipynb", "notebook.md"
COPIES = {"CHANGELOG.md": "changes.md", "CONTRIBUTING.md": "contributing.md"}
"""Files of the repository that are pages as they are."""
HELP_COLUMNS = "80"

INCLUDE = re.compile(r"^<!-- README: (.+) -->$", re.MULTILINE)
"""In a page of this folder: the sections of the README that the site shows in this place."""
FENCE = re.compile(r"^ *(```|~~~)")
LINK = re.compile(r"(?<=\]\()(?P<path>[^()\s#]*)(?P<anchor>#[^()\s]*)?(?=\))")

API: Mapping[str, tuple[str, Mapping[str, tuple[str, ...]]]] = {
    "reference/python.md": (
        "An encoder in Python",
        {
            "Opening and using an encoder": ("fima.load", "fima.VideoEncoder", "fima.ClipTransform"),
            "Search": ("fima.use.search", "fima.use.table"),
            "Backbones by name": ("fima.backbones.registry", "fima.backbones.base"),
            "Methods by name": ("fima.method.registry", "fima.method.base"),
            "Errors": ("fima.errors",),
        },
    ),
    "reference/method.md": (
        "Losses and model parts",
        {
            "Losses": ("fima.method.losses",),
            "Motion and foreground": ("fima.method.motion", "fima.method.foreground"),
            "The method and its terms": (
                "fima.method.fima",
                "fima.method.term",
                "fima.method.instance",
                "fima.method.frame",
                "fima.method.cell",
            ),
            "Inputs and predictions": ("fima.method.inputs", "fima.method.prediction"),
            "Parts": (
                "fima.method.networks",
                "fima.method.decoder",
                "fima.method.heads",
                "fima.method.queue",
                "fima.method.momentum",
            ),
            "Training": ("fima.train.step", "fima.train.schedule", "fima.train.health"),
        },
    ),
    "reference/data.md": (
        "Data",
        {
            "Lists of videos": ("fima.data.datasets", "fima.data.labelled", "fima.library.index"),
            "Frames of a video": ("fima.data.decode.video", "fima.data.clips"),
            "Views": ("fima.data.views", "fima.data.augment"),
            "Batches": ("fima.data.loader", "fima.data.eval_clips"),
        },
    ),
    "reference/evaluation.md": (
        "Evaluation and pictures",
        {
            "Protocols": ("fima.evaluate.protocols", "fima.evaluate.features"),
            "Measures": tuple(f"fima.evaluate.{name}" for name in ("linear", "retrieval", "metrics")),
            "Activation maps": ("fima.evaluate.activation",),
        },
    ),
}
"""Pages that mkdocstrings fills from docstrings: title, and the objects of each section."""


def on_files(files: "Files", config: "MkDocsConfig") -> "Files":
    """Add the generated pages; called by MkDocs."""
    from mkdocs.structure.files import File

    for path, make in generated_pages().items():
        files.append(File.generated(config, path, content=make()))
    return files


def on_page_markdown(markdown: str, page: "Page", config: "MkDocsConfig", files: "Files") -> str:
    """Put in the sections of the README that a page asks for, and turn its links; called by MkDocs."""
    if page.file.src_uri == "index.md":
        page.meta["hide"] = ["navigation"]  # which would hold this page alone
    return markdown if page.file.generated_by else page_in_site(markdown, page.file.src_uri)


def page_in_site(markdown: str, page: str) -> str:
    """Return a page of this folder as the site shows it.

    Args:
        markdown: what the file holds.
        page: its path in this folder.
    """

    def included(match: re.Match[str]) -> str:
        sections = (readme_section(name.strip()) for name in match[1].split(";"))
        return "\n\n".join(links_in_site(section, source="README.md", page=page) for section in sections)

    return INCLUDE.sub(included, links_in_site(markdown, source=f"docs/{page}", page=page))


def generated_pages() -> dict[str, Callable[[], str]]:
    """Return what makes each page that is not a file of this folder, by its path in the site."""
    return {
        **{page: partial(_copy, source, page) for source, page in COPIES.items()},
        NOTEBOOK_PAGE: notebook_page,
        COMMANDS_PAGE: commands_page,
        SETTINGS_PAGE: settings_page,
        RECIPES_PAGE: recipes_page,
        **{page: partial(_api_page, *API[page]) for page in API},
    }


def commands_page() -> str:
    """Return what `--help` prints, for every command."""
    parts = ["# Commands", "What `fima COMMAND --help` prints. How flags go together is in the pages on each task."]
    for name, what in COMMANDS.items():
        parts += [f"## fima {name}", f"{what[0].upper()}{what[1:]}.", f"```text\n{command_help(name)}\n```"]
    return "\n\n".join(parts) + "\n"


def settings_page() -> str:
    """Return tables of all settings that a recipe or a flag can change."""
    pretrain, finetune = PretrainConfig(), FinetuneConfig()
    parts = [
        "# Settings",
        "Each is a flag, `--optim.lr 0.03`, and a key of a recipe, `optim: {lr: 0.03}`. A switch has two flags, "
        "`--method.decoder` and `--method.no-decoder`. Flags go before a recipe, and a recipe before the defaults.",
        "## Pre-training",
    ]
    for section in dataclasses.fields(pretrain):
        parts += _settings_section(section.name, getattr(pretrain, section.name))
    parts += ["## Fine-tuning and linear probing"]
    for section in dataclasses.fields(finetune):
        own = getattr(finetune, section.name)
        if type(own) in map(type, vars(pretrain).values()):
            parts += _changed_defaults(section.name, own, getattr(pretrain, section.name))
        else:
            parts += _settings_section(section.name, own)
    parts += ["## Evaluation", *_table("", EvaluationConfig())]
    return "\n\n".join(parts) + "\n"


def recipes_page() -> str:
    """Return the recipes of the package."""
    parts = ["# Recipes", "They come with the package: `recipes/NAME.yaml` is found wherever `fima` runs."]
    for path in sorted((REPOSITORY / "recipes").glob("*.yaml")):
        parts += [f"## {path.stem}", f"```yaml\n{path.read_text(encoding='utf-8').strip()}\n```"]
    return "\n\n".join(parts) + "\n"


def notebook_page() -> str:
    """Return the notebook with the outputs that are stored in it."""
    parts = []
    for cell in json.loads((REPOSITORY / NOTEBOOK).read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        printed = "".join(chain.from_iterable(output.get("text", ()) for output in cell.get("outputs", ())))
        parts += [f"```text\n{printed.rstrip()}\n```"] if printed.strip() else []
        parts += [_picture(output["data"]) for output in cell.get("outputs", ()) if "data" in output]
    parts.append(f"This page is the file `{NOTEBOOK}` of the repository, with the outputs of one run.\n")
    return "\n\n".join(parts)


def _picture(data: Mapping[str, Any]) -> str:
    """The picture that a cell showed."""
    kind = next(kind for kind in data if kind.startswith("image/"))
    return f'<img alt="Output of the cell above" src="data:{kind};base64,{"".join(data[kind].split())}">'


def readme_section(title: str) -> str:
    """Return a section of the README, from its heading to before the next one.

    Raises:
        ValueError: there is no such section.
    """
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    found: list[str] = []
    for line, code in lines_and_code(text):
        if line.startswith("## ") and not code:
            if found:
                break
            found = [line] if line == f"## {title}" else []
        elif found:
            found.append(line)
    if not found:
        raise ValueError(f"README.md has no section `## {title}`; change the name where the site asks for it")
    return "\n".join(found).strip() + "\n"


def links_in_site(markdown: str, *, source: str, page: str) -> str:
    """Return a text whose links lead to pages of the site.

    Args:
        markdown: the text, with links as on a code host.
        source: the file that the links are relative to, from the root of the repository.
        page: the page that they shall be relative to, from the root of the site.

    Raises:
        ValueError: a link to a file of the repository that the site does not have.
    """

    def turned(match: re.Match[str]) -> str:
        path, anchor = match["path"], match["anchor"] or ""
        if not path or "://" in path or path.startswith("mailto:"):
            return match[0]
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        return posixpath.relpath(_in_site(target, anchor, source), posixpath.dirname(page) or ".")

    return "\n".join(line if code else LINK.sub(turned, line) for line, code in lines_and_code(markdown))


def lines_and_code(markdown: str) -> Iterator[tuple[str, bool]]:
    """Yield the lines of a text, and whether each belongs to a fenced block of code."""
    inside = False
    for line in markdown.split("\n"):
        fence = FENCE.match(line) is not None
        yield line, inside or fence
        inside ^= fence


def _in_site(target: str, anchor: str, source: str) -> str:
    """The place in the site of a file of the repository, with the anchor where it is kept."""
    if target.startswith("docs/"):
        return target.removeprefix("docs/") + anchor
    if target in COPIES:
        return COPIES[target] + anchor
    if target.startswith("recipes/"):
        return f"{RECIPES_PAGE}#{Path(target).stem}"
    if target == NOTEBOOK:
        return NOTEBOOK_PAGE
    if target == "README.md":
        return f"index.md{anchor}"
    raise ValueError(
        f"{source}: the site has no page for {target}; link to a page of docs/, or add the file to COPIES in {__file__}"
    )


def slug(heading: str) -> str:
    """Return the anchor of a heading, as code hosts make it; the site's `toc` extension is set to the same."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def _copy(source: str, page: str) -> str:
    return links_in_site((REPOSITORY / source).read_text(encoding="utf-8"), source=source, page=page)


def _api_page(title: str, sections: Mapping[str, tuple[str, ...]]) -> str:
    parts = [f"# {title}"]
    for heading, names in sections.items():
        parts += [f"## {heading}", *(f"::: {name}\n    options: {{heading_level: 3}}" for name in names)]
    return "\n\n".join(parts) + "\n"


def command_help(command: str) -> str:
    """Return what `fima COMMAND --help` prints."""
    page = io.StringIO()
    with mock.patch.dict(os.environ, {"COLUMNS": HELP_COLUMNS}), contextlib.redirect_stdout(page):
        run_command([command, "--help"])
    return "\n".join(line.rstrip() for line in page.getvalue().strip().split("\n"))


def _settings_section(name: str, settings: Any) -> list[str]:  # noqa: ANN401
    return [f"### {name}", inspect.cleandoc(type(settings).__doc__ or ""), *_table(f"{name}.", settings)]


def _table(prefix: str, settings: Any) -> list[str]:  # noqa: ANN401
    """A table of the fields of a dataclass whose fields have docstrings, and of the dataclasses among them."""
    return ["\n".join(["| flag, values; default | |", "|---|---|", *_rows(prefix, settings)])]


def _rows(prefix: str, settings: Any) -> list[str]:  # noqa: ANN401
    kinds, said = typing.get_type_hints(type(settings)), field_docstrings(type(settings))
    rows = []
    for field in dataclasses.fields(settings):
        flag, value = f"{prefix}{field.name.replace('_', '-')}", getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            rows += _rows(f"{flag}.", value)
            continue
        text = said[field.name].replace("|", chr(92) + "|")
        rows.append(f"| `--{flag}`<br>{_kind(kinds[field.name])}; {_value(value)} | {text} |")
    return rows


def _changed_defaults(name: str, settings: Any, base: Any) -> list[str]:  # noqa: ANN401
    changed = [f"`{one}` {_value(value)}" for one, value in vars(settings).items() if value != getattr(base, one)]
    rest = f", but for the defaults {', '.join(changed)}" if changed else ""
    return [f"`{name}`: [as above](#{name}){rest}."]


def field_docstrings(kind: type) -> dict[str, str]:
    """Return the docstrings under the fields of a dataclass and of its bases, each on one line."""
    (definition,) = ast.parse(inspect.cleandoc(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    found = field_docstrings(kind.__base__) if dataclasses.is_dataclass(kind.__base__) else {}
    for field, below in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            found[ast.unparse(field.target)] = " ".join(str(below.value.value).split())
    return found


def _kind(hint: Any) -> str:  # noqa: ANN401
    if typing.get_origin(hint) is Literal:
        return ", ".join(_value(value) for value in typing.get_args(hint))
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return " or ".join("none" if one is types.NoneType else _kind(one) for one in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return f"one or more: {_kind(typing.get_args(hint)[0])}"
    return {int: "whole number", float: "number", bool: "switch", str: "text"}[hint]


def _value(value: object) -> str:
    if value in (None, ()):
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"`{' '.join(map(str, value))}`" if isinstance(value, tuple) else f"`{value}`"
