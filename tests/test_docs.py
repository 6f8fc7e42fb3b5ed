"""The documentation: every page is in the site, links lead somewhere, commands exist. Messages say what to do."""

import importlib
import re
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from fima.authors.flags import Program, parse_flags
from fima.commands import COMMANDS
from tests.doc_pages import (
    DOCS,
    PAGES,
    REPOSITORY,
    SITE,
    ShownCommand,
    anchors,
    commands,
    inline_commands,
    layout_problems,
    links,
    nav_pages,
    relative,
    site_settings,
)

FLAG = re.compile(r"(?<![\w-])-{1,2}[a-zA-Z][\w-]*(?:\.[\w-]+)*")
SETTING = re.compile(r"`--((?:model|method|data|optim|run|classifier|test)\.[\w.-]+)")
each_page = pytest.mark.parametrize("page", PAGES, ids=relative)


@pytest.fixture(scope="module")
def flags() -> dict[str, set[str]]:
    """The flags of every command, as its help names them."""
    return {name: {_plain(flag) for flag in FLAG.findall(SITE.command_help(name))} for name in COMMANDS}


def _plain(flag: str) -> str:
    return flag.replace("_", "-")


def _text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def test_every_page_is_in_the_navigation_once() -> None:
    listed = Counter(nav_pages(site_settings()["nav"]))
    generated = set(SITE.generated_pages())
    here = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    missing = sorted((here | generated) - set(listed))
    assert not missing, f"add to `nav` in mkdocs.yml, each in the section that it belongs to: {', '.join(missing)}"
    gone = sorted(set(listed) - here - generated)
    assert not gone, f"mkdocs.yml lists pages that are not there; take them out of `nav`: {', '.join(gone)}"
    assert not here & generated, "a page of docs/ has the name of a page that docs/site_pages.py makes"
    assert max(listed.values()) == 1, f"twice in `nav` of mkdocs.yml: {listed.most_common(1)[0][0]}"


@each_page
def test_a_page_reads_the_same_on_a_code_host_and_in_the_site(page: Path) -> None:
    text = _text(page)
    problems = list(layout_problems(text))
    assert not problems, f"{relative(page)}: {'; '.join(problems)}"
    if page.parent == DOCS:
        headings = [line for line, code in SITE.lines_and_code(text) if line.startswith("# ") and not code]
        assert text.startswith("# "), f"{relative(page)}: must begin with one heading `# Title`"
        assert len(headings) == 1, f"{relative(page)}: must have one heading `# Title`, has {len(headings)}"


@each_page
def test_links_lead_to_something(page: Path) -> None:
    problems = []
    for link in links(_text(page)):
        target = (page.parent / link.path).resolve() if link.path else page
        if not target.exists():
            problems.append(f"line {link.line}: no file {link.path}")
        elif link.anchor and link.anchor not in anchors(_text(target)):
            problems.append(f"line {link.line}: {relative(target)} has no heading #{link.anchor}")
    assert not problems, f"{relative(page)}: {'; '.join(problems)}"


def test_links_lead_to_something_in_the_site_too() -> None:
    texts = {name: make() for name, make in SITE.generated_pages().items()}
    for page in DOCS.rglob("*.md"):
        name = str(page.relative_to(DOCS))
        texts[name] = SITE.page_in_site(_text(page), name)
    for name, text in texts.items():
        for link in links(text):
            target = str((DOCS / name).parent.joinpath(link.path).resolve().relative_to(DOCS)) if link.path else name
            if target.endswith(".md"):
                assert target in texts, f"{name} in the site: no page {target}"
                assert not link.anchor or link.anchor in anchors(texts[target]), f"{name}: no {target}#{link.anchor}"
            else:
                assert (DOCS / target).is_file(), f"{name} in the site: no file {target}"


@each_page
def test_commands_of_other_programs_parse(page: Path) -> None:
    """Those of `fima` are run by tests/test_doc_commands.py."""
    refusals = ((command, _refusal(command)) for command in commands(_text(page)))
    problems = [
        f"line {command.line}: `{' '.join(command.words)}`: {refusal}" for command, refusal in refusals if refusal
    ]
    assert not problems, f"{relative(page)}: {'; '.join(problems)}"


def _refusal(command: ShownCommand) -> str:
    """What is wrong with a line that runs a program of the repository; empty: nothing."""
    programs: tuple[Program, ...] = ("train", "eval")
    for program in programs:
        words = command.after(f"{program}.py")
        if words is not None:
            try:
                parse_flags(program, words)
            except Exception as error:
                return str(error)
    for word in command.words:
        if word.startswith("benchmarks/"):
            path = REPOSITORY / word
            if not path.is_file():
                return f"no file {word}"
            unknown = [flag for flag in FLAG.findall(" ".join(command.words)) if f'"{flag}"' not in _text(path)]
            return f"no flag {unknown[0]}" if unknown and "-m" not in command.words else ""
    return ""


@each_page
def test_commands_in_sentences_have_their_flags(page: Path, flags: dict[str, set[str]]) -> None:
    text = _text(page)
    for command in inline_commands(text):
        name, *words = command.words[1:]
        assert name in flags, f"{relative(page)}, line {command.line}: no command `fima {name}`"
        unknown = {_plain(word) for word in words if FLAG.fullmatch(word)} - flags[name]
        assert not unknown, f"{relative(page)}, line {command.line}: `fima {name}` has no flag {', '.join(unknown)}"
    known = set.union(*flags.values())
    unknown = {f"--{_plain(name)}" for name in SETTING.findall(text)} - known
    assert not unknown, f"{relative(page)}: no command has the flag {', '.join(sorted(unknown))}"


def test_the_settings_page_has_every_setting(flags: dict[str, set[str]]) -> None:
    rows = set(re.findall(r"^\| `(--[\w.-]+)`", SITE.settings_page(), re.MULTILINE))
    settings = {flag for name in ("pretrain", "finetune") for flag in flags[name] if "." in flag and ".no-" not in flag}
    assert settings <= rows
    assert {"--protocols", "--limits.timeout-seconds"} <= rows


def test_the_pages_of_docstrings_name_what_is_there() -> None:
    for _, sections in SITE.API.values():
        for name in (name for names in sections.values() for name in names):
            module, _, attribute = name.rpartition(".")
            found = getattr(importlib.import_module(module), attribute, None) or importlib.import_module(name)
            assert found.__doc__, name


def test_the_map_has_every_room_in_the_order_of_the_layers() -> None:
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = settings["tool"]["importlinter"]["contracts"]
    layers = [room for layer in contract["layers"] for room in layer.split(" : ") if room != "__main__"]
    section = _text(REPOSITORY / "CONTRIBUTING.md").partition("## The map")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \|.*\| `([\w/.]+)` \|$", section, re.MULTILINE)
    assert [room for room, _ in rows] == layers
    for room, path in rows:
        assert path.split("/")[1].removesuffix(".py") == room
        assert (REPOSITORY / path).exists(), path


def test_the_readme_is_short() -> None:
    text = _text(REPOSITORY / "README.md")
    assert text.count("\n") <= 110
    assert len(text.split()) <= 1200


def test_links_out_of_the_folder_are_turned() -> None:
    def turned(link: str, source: str, page: str) -> str:
        return str(SITE.links_in_site(f"[x]({link})", source=source, page=page))

    assert turned("../README.md#two-commands", "docs/see.md", "see.md") == "[x](index.md#two-commands)"
    assert turned("docs/images/a.png", "README.md", "index.md") == "[x](images/a.png)"
    assert turned("recipes/a.yaml", "README.md", "reference/b.md") == "[x](recipes.md#a)"
    assert turned("https://arxiv.org/#a", "README.md", "index.md") == "[x](https://arxiv.org/#a)"
    assert SITE.links_in_site("```\n[x](y.md)\n```", source="README.md", page="index.md") == "```\n[x](y.md)\n```"
    with pytest.raises(ValueError, match=r"the site has no page for setup\.cfg"):
        turned("../setup.cfg", "docs/see.md", "see.md")
    with pytest.raises(ValueError, match="no section `## Nothing`"):
        SITE.readme_section("Nothing")


def test_what_is_checked_can_fail() -> None:
    text = "text\n- item\n\n- a\n  - b\n\n```\n"
    text += "fima pretrain X --out Y --optim.lr \\\n  fast  # comment\nA=1 fima nothing\n```"
    assert list(layout_problems(text)) == [
        "line 2: put an empty line before the list",
        "line 5: indent a list inside a list by four blanks",
    ]
    first, second = commands(text)
    assert first.after("fima") == ("pretrain", "X", "--out", "Y", "--optim.lr", "fast")
    assert second.after("fima") == ("nothing",)
    assert "no flag --seed" in _refusal(ShownCommand(line=1, words=("python", "benchmarks/gpu_hours.py", "--seed")))
    assert _refusal(ShownCommand(line=1, words=("python3", "train.py", "--no_such_flag", "DIR")))
    assert anchors("# A b\n\n## `c` d: e\n\n## A b") == {"a-b", "c-d-e", "a-b-1"}
