"""What the tests of the documentation read: the pages, their links and headings, and the commands that they show."""

import importlib.util
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

REPOSITORY = Path(__file__).parents[1]
DOCS = REPOSITORY / "docs"
PAGES = [
    *(REPOSITORY / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    *sorted(DOCS.rglob("*.md")),
]
OTHER_LANGUAGES = ("python", "toml", "yaml", "json")
OPERATORS = frozenset("();<>|&")
INLINE = re.compile(r"`(fima [a-z][^`]*)`")
LIST_ITEM = re.compile(r"( *)([-*+]|\d+\.) ")


def load_site_pages() -> ModuleType:
    """The module that makes pages for the site, without MkDocs."""
    spec = importlib.util.spec_from_file_location("site_pages", DOCS / "site_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SITE = load_site_pages()


@dataclass(frozen=True, kw_only=True)
class Link:
    """A link of a page that does not lead to another host."""

    line: int
    path: str
    """As written; empty: the page itself."""
    anchor: str
    """Without the `#`; empty: none."""


@dataclass(frozen=True, kw_only=True)
class ShownCommand:
    """A command line in a block of code."""

    line: int
    words: tuple[str, ...]
    """All words of the line, up to a pipe, a redirection or a comment."""

    def after(self, *names: str) -> tuple[str, ...] | None:
        """The words behind a program of one of these names; None where the line runs something else."""
        for place, word in enumerate(self.words):
            before = self.words[place - 1] if place else ""
            if word in names and (place == 0 or before in ("-m", "srun", "python", "python3") or "=" in before):
                return self.words[place + 1 :]
        return None


def relative(page: Path) -> str:
    """The name of a page in messages."""
    return str(page.relative_to(REPOSITORY))


def anchors(text: str) -> set[str]:
    """The anchors of the headings of a page, as code hosts make them."""
    found: set[str] = set()
    for line, code in SITE.lines_and_code(text):
        if line.startswith("#") and not code:
            name = base = SITE.slug(line.lstrip("# "))
            number = 0
            while name in found:
                number += 1
                name = f"{base}-{number}"
            found.add(name)
    return found


def links(text: str) -> Iterator[Link]:
    """The links of a page that stay in the repository."""
    for number, (line, code) in enumerate(SITE.lines_and_code(text), start=1):
        for match in SITE.LINK.finditer("" if code else line):
            if "://" not in match["path"] and not match["path"].startswith("mailto:"):
                yield Link(line=number, path=match["path"], anchor=(match["anchor"] or "#")[1:])


def commands(text: str) -> Iterator[ShownCommand]:
    """The lines of a page's blocks of code that are not of another language, as words."""
    language, continued, begin = "", "", 0
    for number, (line, code) in enumerate(SITE.lines_and_code(text), start=1):
        if SITE.FENCE.match(line):
            language = line.strip().strip("`~")
        elif code and language not in OTHER_LANGUAGES:
            begin = begin if continued else number
            continued += line
            if line.rstrip().endswith("\\"):
                continued = continued.rstrip().removesuffix("\\") + " "
                continue
            yield ShownCommand(line=begin, words=tuple(_words(continued)))
            continued = ""


def inline_commands(text: str) -> Iterator[ShownCommand]:
    """The `fima …` command lines inside the sentences of a page; they may leave words out."""
    for number, (line, code) in enumerate(SITE.lines_and_code(text), start=1):
        for match in INLINE.finditer("" if code else line):
            yield ShownCommand(line=number, words=tuple(_words(match[1])))


def _words(line: str) -> Iterator[str]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    try:
        for word in lexer:
            if OPERATORS.issuperset(word):
                return
            yield word
    except ValueError:
        # Not a line of a shell: an apostrophe in a drawing of folders, or the like.
        return


def files_shown(text: str) -> dict[str, str]:
    """The files whose content a page shows: blocks of code that begin with `# file: NAME`."""
    return dict(re.findall(r"```\w+\n# file: (\S+)\n(.*?)```", text, re.DOTALL))


def layout_problems(text: str) -> Iterator[str]:
    """What a code host shows as meant and the site would not: lists that need an empty line or a wider indent."""
    in_list = False
    before = ""
    for number, (line, code) in enumerate(SITE.lines_and_code(text), start=1):
        if code:
            before = line
            continue
        item = LIST_ITEM.match(line)
        if item is not None:
            if before.strip() and not in_list:
                yield f"line {number}: put an empty line before the list"
            if len(item[1]) % 4:
                yield f"line {number}: indent a list inside a list by four blanks"
        in_list = item is not None or (in_list and (not line.strip() or line.startswith("  ")))
        before = line


class _Loader(yaml.SafeLoader):
    """Reads mkdocs.yml, whose tags name functions of MkDocs' extensions."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)


def site_settings() -> dict[str, Any]:
    """The settings of the site."""
    settings: dict[str, Any] = yaml.load((REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"), _Loader)
    return settings


def nav_pages(nav: Any) -> Iterator[str]:  # noqa: ANN401
    """The pages of a navigation, in order."""
    if isinstance(nav, str):
        yield nav
    else:
        for part in nav.values() if isinstance(nav, dict) else nav:
            yield from nav_pages(part)
