"""HTML out of Python: text is escaped unless it is markup already."""

import html
import json
import re
from collections.abc import Iterable, Sequence

NUMBER = re.compile(r"-?\d[\d,.]*(e[+-]?\d+)?( ± [\d.]+)?")
VOID_ELEMENTS = frozenset({"input", "meta"})


class Markup(str):
    """Text that is HTML; every other string is escaped when it is put into an element."""

    __slots__ = ()


def escaped(text: object) -> Markup:
    """Return text as HTML."""
    return text if isinstance(text, Markup) else Markup(html.escape(str(text)))


def joined(parts: Iterable[object]) -> Markup:
    """Return parts one after another; None is left out."""
    return Markup("".join(escaped(part) for part in parts if part is not None))


def element(tag: str, /, *content: object, **attributes: object) -> Markup:
    """Return an element.

    Args:
        tag: its name.
        content: text, which is escaped, and markup, which is not; None is left out.
        attributes: a trailing `_` is dropped and other `_` become `-`; True stands for a bare attribute, None and False
            for none.
    """
    words = [tag]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        plain = key.rstrip("_").replace("_", "-")
        words.append(plain if value is True else f'{plain}="{html.escape(str(value))}"')
    start = f"<{' '.join(words)}>"
    return Markup(start if tag in VOID_ELEMENTS else f"{start}{joined(content)}</{tag}>")


def script_json(identifier: str, content: object) -> Markup:
    """Return data for the page's script; nothing in it can end the element."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    # Three characters that HTML could take for the end of a script, a comment or an entity.
    safe = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return Markup(f'<script type="application/json" id="{html.escape(identifier)}">{safe}</script>')


def table(header: Sequence[object], rows: Iterable[Sequence[object]], *, caption: str) -> Markup:
    """Return a table whose first column heads the rows; columns of numbers are aligned as such.

    Args:
        header: names of the columns.
        rows: cells; the first one of a row is its heading.
        caption: what the table shows.
    """
    cells = [list(row) for row in rows]
    styles = [_style(column) for column in zip(*cells, strict=True)] or [None] * len(header)
    head = element(
        "tr", *(element("th", name, scope="col", class_=style) for name, style in zip(header, styles, strict=True))
    )
    body = [
        element(
            "tr",
            element("th", row[0], scope="row"),
            *(element("td", cell, class_=style) for cell, style in zip(row[1:], styles[1:], strict=True)),
        )
        for row in cells
    ]
    parts = element("caption", caption), element("thead", head), element("tbody", *body)
    return element("div", element("table", *parts), class_="scroll", tabindex="0", role="region", aria_label=caption)


def _style(column: Sequence[object]) -> str | None:
    texts = [str(cell) for cell in column if str(cell)]
    return "number" if texts and all(NUMBER.fullmatch(text) for text in texts) else None


def details(summary: object, *content: object) -> Markup:
    """Return content that is folded away under a summary."""
    return element("details", element("summary", summary), *content)
