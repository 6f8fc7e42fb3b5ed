"""Rows of CSV and Parquet files."""

import csv
import importlib
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fima.data.layouts.lists import encoding_of, read_text
from fima.errors import DataError
from fima.version import pip_install

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")
DELIMITERS = ",;\t"
NO_LABEL = frozenset(
    {"", "-", "#n/a", "<na>", "?", "n/a", "na", "nan", "no label", "none", "null", "unlabeled", "unlabelled"}
)
"""How tables spell that a video has no label, in any case, besides whole numbers below 0."""
NEGATIVE = re.compile(r"-\d+(\.0*)?")
WHOLE = re.compile(r"(\d+)\.0+")


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What a file holds."""

    columns: list[str]
    """Names of the columns, in lower case."""
    rows: list[tuple[str, dict[str, str]]]
    """The rows as text, each with where it is: "FILE, line N"."""
    unreadable: list[str]
    """Rows with too few or too many fields: "FILE, line N: what is wrong"."""


def read_rows(path: Path) -> Rows:
    """Read a CSV (with a header, separated by commas, semicolons or tabs) or a Parquet file.

    Raises DataError where it cannot be read, has two columns of one name, or pyarrow is missing for Parquet.
    """
    content = _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_csv(path)
    twice = [name for name, count in Counter(content.columns).items() if count > 1 and name]
    if twice:
        raise DataError(f"{path}: has more than one column {twice[0]!r}, ignoring case; rename one")
    return content


def read_columns(path: Path) -> list[str]:
    """Return the column names of a CSV in lower case, or nothing where it cannot be read."""
    try:
        with path.open(encoding=encoding_of(path), errors="replace", newline="") as file:
            line = next((line for line in file if not _is_before_header(line)), "")
            return _names(next(csv.reader([line], **_dialect(line)), []))
    except (OSError, csv.Error):
        return []


def label_in(fields: Mapping[str, str]) -> str | None:
    """Return the label of a row, or None where it is missing."""
    # Accents are one letter or two, by the program that wrote them; a column with gaps has 2.0 for 2.
    label = unicodedata.normalize("NFC", WHOLE.sub(r"\1", fields.get("label", "")))
    return None if label.casefold() in NO_LABEL or NEGATIVE.fullmatch(label) else label


def _is_before_header(line: str) -> bool:
    """Whether a line is blank, or Excel's, which names the separator: `sep=;`."""
    return not line.strip() or line.casefold().startswith("sep=")


def _dialect(header: str) -> dict[str, Any]:
    """How the fields of a table with such a header are set apart; quotes may follow blanks: "a.mp4", "run"."""
    return {"delimiter": max(DELIMITERS, key=header.count), "skipinitialspace": True}


def _names(header: Iterable[str]) -> list[str]:
    return [name.strip().casefold() for name in header]


def _read_csv(path: Path) -> Rows:
    lines = io.StringIO(read_text(path)).readlines()
    begin = next((number for number, line in enumerate(lines) if not _is_before_header(line)), len(lines))
    reader = csv.reader(lines[begin:], strict=True, **_dialect("".join(lines[begin : begin + 1])))
    rows: list[tuple[str, dict[str, str]]] = []
    unreadable: list[str] = []
    try:
        columns = _names(next(reader, []))
        for fields in reader:
            where = f"{path}, line {begin + reader.line_num}"
            if len(fields) == len(columns):
                rows.append((where, dict(zip(columns, map(str.strip, fields), strict=True))))
            elif fields:
                unreadable.append(f"{where}: {len(fields)} fields, expected {len(columns)}")
    except csv.Error as error:
        raise DataError(f"{path}, line {begin + reader.line_num}: cannot be read ({error})") from None
    return Rows(columns=columns, rows=rows, unreadable=unreadable)


def _read_parquet(path: Path) -> Rows:
    try:
        # An optional dependency, without types.
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise DataError(f"{path}: reading Parquet needs pyarrow; {pip_install('parquet')}, or give a CSV") from None
    try:
        table = parquet.ParquetFile(path).read()
        columns = _names(table.column_names)
        content = [[_as_text(value) for value in column.to_pylist()] for column in table.columns]
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from None
    rows = [
        (f"{path}, row {number}", dict(zip(columns, values, strict=True)))
        for number, values in enumerate(zip(*content, strict=True), start=1)
    ]
    return Rows(columns=columns, rows=rows, unreadable=[])


def _as_text(value: object) -> str:
    if isinstance(value, float):
        # A column of integers with gaps is one of floats, whose gaps are NaN.
        return "" if value != value else f"{value:.0f}" if value.is_integer() else str(value)
    return "" if value is None else str(value).strip()
