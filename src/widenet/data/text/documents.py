"""Reading text: the documents of files, folders, compressed files and data sets, streamed piece by piece."""

import bz2
import codecs
import gzip
import json
import lzma
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

from widenet.data.common import find_data, is_saved, load_parts
from widenet.errors import WideNetError, reason

__all__ = ["Documents", "Found", "Piece", "find_texts", "iter_documents", "iter_pieces"]

Documents = Literal["file", "blank-line", "line"]

CHUNK = 1 << 20  # bytes read at a time
PIECE = 1 << 16  # characters of a long document that are held at a time
OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
JSON_SUFFIXES = (".jsonl", ".ndjson")
TEXT_SUFFIXES = ("", ".txt", ".text", ".raw")


class Piece(NamedTuple):
    """A part of a document, small enough to hold."""

    text: str
    starts_document: bool


@dataclass(frozen=True)
class TextTable:
    """Rows of text: a data set of the hub, or (`saved`) a folder of ``save_to_disk``."""

    name: str
    config: str | None = None
    revision: str | None = None
    saved: bool = False
    rows_are_documents: bool = True


@dataclass(frozen=True)
class Found:
    """What a source consists of; `identity` changes when its content does."""

    files: list[Path] = field(default_factory=list)
    tables: list[TextTable] = field(default_factory=list)
    identity: list[Any] = field(default_factory=list)


# BookCorpus is one sentence per row, without a border between its books. Its main branch is a loading
# script, which `datasets` no longer runs; the hub keeps the same rows as parquet files beside it.
PUBLIC = {
    "wikipedia-books": [
        TextTable("wikimedia/wikipedia", "20231101.en"),
        TextTable("bookcorpus/bookcorpus", revision="refs/convert/parquet", rows_are_documents=False),
    ]
}


def iter_documents(source: str, documents: Documents = "file", cache_dir: str | None = None) -> Iterator[str]:
    """Stream the documents of a corpus.

    Args:
        source: a text file (plain, or compressed as .gz, .xz or .bz2); a .jsonl file with a field "text";
            a folder of such files, gone through recursively in the order of their names; a folder written
            by ``datasets``; a Hugging Face id (``user/name``, ``hf:name``, with ``:config`` after it where
            there are several); or ``wikipedia-books``, the corpus of the paper.
        documents: what a document is: a whole ``file`` (or row of a table), what stands between two blank
            lines (``blank-line``, ALBERT's input format), or a ``line``.
        cache_dir: where `datasets` keeps its downloads; its own folder when None.

    Raises:
        WideNetError: the source does not exist, cannot be loaded, has no text, or is not UTF-8 text.
    """
    held: list[str] = []
    for piece in iter_pieces(source, find_texts(source), documents, cache_dir):
        if piece.starts_document and held:
            yield "".join(held)
            held = []
        held.append(piece.text)
    yield "".join(held)


def find_texts(source: str) -> Found:
    """Tell by its name and files what a source is."""
    place = find_data(source, PUBLIC, "corpus")
    if isinstance(place, str):
        return Found(tables=PUBLIC[place], identity=[place])
    if isinstance(place, tuple):
        return Found(tables=[TextTable(place[0], ":".join(place[1:]) or None)], identity=[source])
    if place.is_file():
        return Found(files=[place], identity=[[str(place.resolve()), *_version(place)]])
    files = sorted(path for path in place.rglob("*") if path.is_file() and not _hidden(path.relative_to(place)))
    identity = [[str(path.resolve()), *_version(path)] for path in files]
    if is_saved(place):
        return Found(tables=[TextTable(str(place), saved=True)], identity=identity)
    if any(path.suffix in (".parquet", ".arrow") for path in files):
        return Found(tables=[TextTable(str(place.resolve()))], identity=identity)
    texts = [path for path in files if _suffix(path) in TEXT_SUFFIXES + JSON_SUFFIXES]
    if not texts:
        kinds = ", ".join([*TEXT_SUFFIXES[1:], *JSON_SUFFIXES])
        raise WideNetError(f"{source} has no text files ({kinds}, or without suffix; .gz, .xz, .bz2 after it)")
    return Found(files=texts, identity=identity)


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _version(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _suffix(path: Path) -> str:
    """Return a file's suffix; of a compressed file, the one before."""
    return (path.with_suffix("") if path.suffix.lower() in OPENERS else path).suffix.lower()


def iter_pieces(source: str, found: Found, documents: Documents, cache_dir: str | None) -> Iterator[Piece]:
    """Stream a corpus piece by piece; WideNetError if it has no text at all."""
    empty = True
    for lines in chain(_file_lines(found.files), _table_lines(found.tables, cache_dir)):
        for piece in _pieces(lines, documents):
            empty = False
            yield piece
    if empty:
        raise WideNetError(f"{source} is empty: it has no text")


def _pieces(lines: Iterable[str], documents: Documents) -> Iterator[Piece]:
    """Join lines to pieces that end at the latest with a document. A long line comes in several parts."""
    held: list[str] = []
    size, starts_document, starts_line = 0, True, True
    for line in chain(lines, [None]):
        border = line is None
        if line is not None:
            held.append(line)
            size += len(line)
            blank = starts_line and not line.strip()
            starts_line = line.endswith("\n")
            border = starts_line and (documents == "line" or (documents == "blank-line" and blank))
        if border or size >= PIECE:
            text = "".join(held)
            if text.strip():
                yield Piece(text, starts_document)
                starts_document = False
            held, size, starts_document = [], 0, starts_document or border


def _lines(chunks: Iterable[str]) -> Iterator[str]:
    """Cut text at line ends, which are kept; a line longer than a piece also at a space."""
    rest = ""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split("\n")
        for line in whole:
            yield f"{line}\n"
        while len(rest) > PIECE:
            cut = rest.rfind(" ", 0, PIECE) + 1 or PIECE
            yield rest[:cut]
            rest = rest[cut:]
    if rest:
        yield rest


def _file_lines(files: list[Path]) -> Iterator[Iterator[str]]:
    """Return, for each file or row of a JSON file, its lines."""
    for path in files:
        if _suffix(path) in JSON_SUFFIXES:
            for text in _json_texts(path):
                yield _lines([text])
        else:
            yield _lines(_read_text(path))


def _read_text(path: Path) -> Iterator[str]:
    """Read and decode a file in chunks; WideNetError names the first byte that is not UTF-8 text."""
    opener = OPENERS.get(path.suffix.lower(), open)
    inside = " of the text inside" if path.suffix.lower() in OPENERS else ""
    decoder = codecs.getincrementaldecoder("utf-8")()
    position = 0  # of the next byte to decode; a character may lie on both sides of a chunk's border
    try:
        with opener(path, "rb") as file:
            data = None
            while data != b"":
                data = file.read(CHUNK)
                undecoded = len(decoder.getstate()[0])
                if b"\0" in data:
                    zero = position + undecoded + data.index(b"\0")
                    raise WideNetError(f"{path} is binary, not text: byte {zero}{inside} is zero")
                text = decoder.decode(data, final=not data)
                yield text.removeprefix("\ufeff") if position == 0 else text
                position += undecoded + len(data) - len(decoder.getstate()[0])
    except UnicodeDecodeError as error:
        wrong = error.object[error.start]
        raise WideNetError(
            f"{path} is not UTF-8: byte {position + error.start}{inside} is 0x{wrong:02x} ({error.reason})"
        ) from error
    except WideNetError:
        raise
    except Exception as error:  # each decompressor has its own errors
        raise WideNetError(f"{path} cannot be read; it may be truncated or damaged ({reason(error)})") from error


def _json_texts(path: Path) -> Iterator[str]:
    held: list[str] = []
    number = 0
    for part in chain(_lines(_read_text(path)), ["\n"]):
        held.append(part)
        if not part.endswith("\n"):
            continue
        line, held, number = "".join(held), [], number + 1
        if not line.strip():
            continue
        try:
            text = json.loads(line)["text"]
        except (ValueError, TypeError, KeyError) as error:
            problem = "has no field 'text'" if isinstance(error, KeyError) else f"is not JSON ({reason(error)})"
            raise WideNetError(f"line {number} of {path} {problem}") from error
        if not isinstance(text, str):
            raise WideNetError(f"the field 'text' in line {number} of {path} is {text!r:.50}, not a string")
        yield text


def _table_lines(tables: list[TextTable], cache_dir: str | None) -> Iterator[Iterator[str]]:
    """Return, for each document of the tables, its lines."""
    for table in tables:
        rows = _rows(table, cache_dir)
        if table.rows_are_documents:
            for text in rows:
                yield _lines([text])
        else:
            yield _lines(f"{text}\n" for text in rows)


def _rows(table: TextTable, cache_dir: str | None) -> Iterator[str]:
    """Stream the texts of a table; `datasets` downloads it once and reads it through a memory map."""
    instead = "a local text file or folder can be given instead: data=PATH"
    place = (table.name,) if table.config is None else (table.name, table.config)
    parts = load_parts(table.name, place, instead, table.saved, table.revision, cache_dir)
    if "train" not in parts and len(parts) > 1:
        raise WideNetError(f"{table.name} has the parts {', '.join(parts)}, but none called train")
    part = parts.get("train", next(iter(parts.values())))
    column = _text_column(table.name, part.features)
    for row in part.select_columns([column]):
        if row[column]:
            yield row[column]


def _text_column(name: str, features: Any) -> str:
    texts = [key for key, kind in features.items() if getattr(kind, "dtype", "") in ("string", "large_string")]
    if "text" in texts:
        return "text"
    if len(texts) != 1:
        raise WideNetError(f"{name} has no column 'text'; its columns are {', '.join(features)}")
    return texts[0]
