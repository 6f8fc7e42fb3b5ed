"""Rows of CSV and Parquet files."""

import csv
import importlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fima.data.layouts.lists import read_text
from fima.errors import DataError
from fima.version import pip_install

TABLE_SUFFIXES = (".csv", ".parquet")


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What a file holds."""

    columns: list[str]
    """Names of the columns."""
    rows: list[tuple[str, dict[str, str]]]
    """The rows as text, each with where it is: "FILE, line N"."""
    unreadable: list[str]
    """Rows with too few or too many fields: "FILE, line N: what is wrong"."""


def read_rows(path: Path) -> Rows:
    """Read a CSV (comma-separated, with a header) or a Parquet file.

    Raises:
        DataError: the file cannot be read, or pyarrow is missing for Parquet.
    """
    return _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_csv(path)


def read_columns(path: Path) -> list[str]:
    """Return the column names of a CSV, or nothing where it cannot be read."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            return _stripped(next(csv.reader([file.readline()]), []))
    except (OSError, csv.Error):
        return []


def _stripped(fields: Iterable[str]) -> list[str]:
    return [field.strip() for field in fields]


def _read_csv(path: Path) -> Rows:
    reader = csv.reader(io.StringIO(read_text(path)), strict=True)
    rows: list[tuple[str, dict[str, str]]] = []
    unreadable: list[str] = []
    try:
        columns = _stripped(next(reader, []))
        for fields in reader:
            where = f"{path}, line {reader.line_num}"
            if len(fields) == len(columns):
                rows.append((where, dict(zip(columns, _stripped(fields), strict=True))))
            elif fields:
                unreadable.append(f"{where}: {len(fields)} fields, expected {len(columns)}")
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: cannot be read ({error})") from None
    return Rows(columns=columns, rows=rows, unreadable=unreadable)


def _read_parquet(path: Path) -> Rows:
    try:
        # An optional dependency, without types.
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise DataError(f"{path}: reading Parquet needs pyarrow; {pip_install('parquet')}, or give a CSV") from None
    try:
        table = parquet.ParquetFile(path).read()
        content = {name: [_as_text(value) for value in table[name].to_pylist()] for name in table.column_names}
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from None
    rows = [
        (f"{path}, row {number}", dict(zip(content, values, strict=True)))
        for number, values in enumerate(zip(*content.values(), strict=True), start=1)
    ]
    return Rows(columns=list(content), rows=rows, unreadable=[])


def _as_text(value: object) -> str:
    if isinstance(value, float):
        # A column of integers with gaps is one of floats, whose gaps are NaN.
        return "" if value != value else f"{value:.0f}" if value.is_integer() else str(value)
    return "" if value is None else str(value).strip()
