"""Tables and files with labelled text: TSV, CSV, JSON, JSON lines and Hugging Face data sets, row by row."""

import csv
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from widenet.data.common import find_data, has_tables, is_saved, load_parts, no_such
from widenet.errors import WideNetError, reason

SUFFIXES = (".tsv", ".csv", ".json", ".jsonl")


@dataclass
class Table:
    """A header and a way to the rows under it.

    Attributes:
        name: the file, or the part of a data set, as errors call it.
        columns: the names in the header.
        rows: returns for some of these columns one (line or row number, values) after another.
        place: what that number counts: ``line`` or ``row``.
        class_names: of the columns that know them; None for a file.
    """

    name: str
    columns: list[str]
    rows: Callable[[Sequence[str]], Iterable[tuple[int, list[Any]]]]
    place: str = "line"
    class_names: dict[str, list[str]] | None = None

    def error(self, number: int, problem: str) -> WideNetError:
        return WideNetError(f"{self.place} {number} of {self.name} {problem}")


def read_text(path: Path) -> str:
    """Return a UTF-8 file, plain or gz; WideNetError says why that fails and, for other encodings, where."""
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
        text = data.decode().removeprefix("\ufeff")
    except FileNotFoundError as error:
        raise no_such(path) from error
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise WideNetError(
            f"{path} is not UTF-8: byte 0x{data[error.start]:02x} at position {error.start} (line {line})"
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise WideNetError(f"{path} cannot be read ({reason(error)})") from error
    if not text.strip():
        raise WideNetError(f"{path} is empty")
    return text


def check_text(value: object) -> str | None:
    """Return what is wrong with a text that comes from JSON or a table, or None."""
    if not isinstance(value, str):
        return "is missing" if value is None else f"is no text but {value!r}"
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:  # JSON can hold one half of a surrogate pair
            return f"is not Unicode ({error.reason} at character {error.start})"
    return None


def suffix(path: Path) -> str:
    return Path(path.stem).suffix if path.suffix == ".gz" else path.suffix


def open_table(path: Path) -> Table:
    if suffix(path) not in SUFFIXES:
        raise WideNetError(f"{path} is not a file of a known kind: {', '.join(SUFFIXES)}, each also with .gz")
    text = read_text(path)
    if suffix(path) in (".json", ".jsonl"):
        return _open_json(path, text)
    lines = _tsv_lines(text) if suffix(path) == ".tsv" else _csv_lines(path, text)
    header = [name.strip() for name in next(lines)[1]]

    def rows(columns: Sequence[str]) -> Iterator[tuple[int, list[Any]]]:
        wanted = [header.index(column) for column in columns]
        for number, cells in lines:
            if len(cells) != len(header):
                raise WideNetError(
                    f"line {number} of {path} has {len(cells)} columns, but its header has {len(header)}"
                )
            yield number, [cells[index] for index in wanted]

    return Table(str(path), header, rows)


def _tsv_lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield GLUE's TSV: quotes mean nothing, and only "\\n" ends a line (texts may hold U+2028 or U+0085)."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line.removesuffix("\r").split("\t")


def _csv_lines(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    number = 1
    try:
        for cells in reader:
            if cells:
                yield number, cells
            number = reader.line_num + 1  # a quoted cell may span lines: the next row begins after the last of them
    except csv.Error as error:
        raise WideNetError(f"line {number} of {path} is not CSV ({reason(error)})") from error


def parse_json(path: Path, text: str) -> Any:
    """Return a JSON file's content; WideNetError says where it is malformed."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise WideNetError(f"{path} is not JSON: {error.msg} at line {error.lineno} column {error.colno}") from error
    except RecursionError as error:
        raise WideNetError(f"{path} is not JSON that can be read: it is nested too deeply") from error


def _open_json(path: Path, text: str) -> Table:
    """Open a list of objects, or one object per line."""
    records: list[tuple[int, Any]]
    if text.lstrip().startswith("["):
        place, records = "row", list(enumerate(parse_json(path, text), 1))
    else:
        place, records = "line", []
        for number, line in enumerate(text.split("\n"), 1):
            try:
                if line.strip():
                    records.append((number, json.loads(line)))
            except (json.JSONDecodeError, RecursionError) as error:
                raise WideNetError(f"line {number} of {path} is not a JSON object ({reason(error)})") from error
    for number, record in records:
        if not isinstance(record, dict):
            raise WideNetError(f"{place} {number} of {path} is not a JSON object")
    if not records:
        raise WideNetError(f"{path} has no rows")

    def rows(columns: Sequence[str]) -> Iterator[tuple[int, list[Any]]]:
        for number, record in records:
            for column in columns:
                if column not in record:
                    raise WideNetError(f"{place} {number} of {path} lacks {column!r}; it has {listed(record)}")
            yield number, [record[column] for column in columns]

    return Table(str(path), list(records[0][1]), rows, place)


def listed(names: Iterable[str]) -> str:
    text = ", ".join(names)
    return text if len(text) <= 200 else text[:197] + "..."


# ---- Hugging Face data sets ----


def is_dataset(folder: Path) -> bool:
    """Whether ``datasets`` can load a folder: written by ``save_to_disk``, or of parquet or arrow files."""
    return is_saved(folder) or has_tables(folder)


def load_tables(source: str, names: Mapping[str, tuple[str, ...]], cache_dir: str | None) -> dict[str, Any]:
    """Return the parts of a Hugging Face data set by name.

    Args:
        source: one of `names`, a folder for which :func:`is_dataset` holds, or an id on the hub.
        names: public names, each with its id and, where it has several, its configuration.
        cache_dir: where downloads are kept.
    """
    found = find_data(source, names, "data set")
    place = names[found] if isinstance(found, str) else (str(found),) if isinstance(found, Path) else found
    saved = isinstance(found, Path) and is_saved(found)
    instead = "a local folder with its files can be given instead: data=FOLDER"
    return load_parts(source, place, instead, saved, cache_dir=cache_dir)


def hub_table(source: str, part: str, dataset: Any) -> Table:
    found = {column: getattr(kind, "names", None) for column, kind in dataset.features.items()}
    class_names: dict[str, list[str]] = {column: names for column, names in found.items() if names}

    def value(column: str, cell: Any) -> Any:
        if column not in class_names:
            return cell
        return None if cell is None or cell < 0 else class_names[column][cell]  # -1: kept secret

    def rows(columns: Sequence[str]) -> Iterator[tuple[int, list[Any]]]:
        table = dataset.with_format(None).select_columns(list(columns))
        number = 0
        for batch in table.iter(batch_size=1000):
            for cells in zip(*(batch[column] for column in columns), strict=True):
                yield number, [value(column, cell) for column, cell in zip(columns, cells, strict=True)]
                number += 1

    return Table(f"the {part} part of {source}", list(dataset.features), rows, "row", class_names)


# ---- what a split consists of ----


def digest(contents: list[Any]) -> str:
    """Return the SHA-256 of JSON-able values."""
    total = hashlib.sha256()
    for value in contents:
        total.update(json.dumps(value).encode() + b"\n")
    return total.hexdigest()
