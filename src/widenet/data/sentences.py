"""Labelled sentences, or pairs of them, from a name, a folder or a file: split once, tokenised once.

Axes: N sentences of a batch, L tokens of the longest one.

Public test sets come without labels, so the development part of a source is its test part here, and the
validation part, by which checkpoints are picked, is held out of the training part.
"""

import csv
import gzip
import hashlib
import io
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from widenet.data.sets import reason
from widenet.errors import WideNetError, unknown

# name: arguments of datasets.load_dataset
NAMES = {"sst2": ("nyu-mll/glue", "sst2"), "mnli": ("nyu-mll/glue", "mnli")}
PAIR_COLUMNS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "passage"),
    ("question", "sentence"),
)
TEXT_COLUMNS = ("sentence", "text", "review")
LABEL_COLUMNS = ("gold_label", "label", "labels")  # MNLI has label1 … label5 beside gold_label
SUFFIXES = (".tsv", ".csv", ".json", ".jsonl")
DEV_PART = re.compile(r"(?:dev|val|valid|validation)(?:_(matched|mismatched))?")
TOKENISE_AT_ONCE = 1024  # texts; the tokenizer keeps what it cuts off, so whole sets take much memory


@dataclass(frozen=True)
class Sentences:
    """Labelled texts.

    Attributes:
        first: the texts, or the first of each pair.
        second: the second of each pair; None for single texts.
        labels: int64 [n], indices of class names; float32 [n] for regression.
    """

    first: list[str]
    second: list[str] | None
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: np.ndarray) -> "Sentences":
        """Return the texts at `indices` (int [m]), in that order."""
        second = None if self.second is None else [self.second[index] for index in indices]
        return Sentences([self.first[index] for index in indices], second, self.labels[indices])


@dataclass(frozen=True)
class SentenceData:
    """Disjoint parts of one labelled set of texts.

    Attributes:
        train, validation: two of the parts.
        tests: one test part or more by name: ``test``, or MNLI's ``matched`` and ``mismatched``.
        class_names: one name per class; None for regression.
        split: JSON-able record: ``source``, ``seed``, ``sizes`` and ``origin`` of the parts,
            ``skipped_rows`` without a label, and a ``digest`` which is equal only if the split is the same.
    """

    train: Sentences
    validation: Sentences
    tests: dict[str, Sentences]
    class_names: list[str] | None
    split: dict[str, Any]


def load_sentences(
    source: str,
    *,
    test: str | None = None,
    validation: str | None = None,
    text_column: str | None = None,
    pair_column: str | None = None,
    label_column: str | None = None,
    regression: bool = False,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.2,
    split_seed: int = 0,
    cache_dir: str | None = None,
) -> SentenceData:
    """Load labelled texts and settle their training, validation and test parts.

    The test part is, in this order: the file `test`; a labelled test part of the source; its development
    part; held out of its training part. A development part that is not the test part is the validation
    part (not MNLI's two). What is held out is stratified by class (not for regression) and determined by `split_seed`.

    Args:
        source: ``sst2`` or ``mnli``; a folder with GLUE's own files (``train.tsv`` and ``dev.tsv``, or
            ``dev_matched.tsv`` and ``dev_mismatched.tsv``); a .tsv, .csv, .json or .jsonl file, also .gz,
            with a header; a folder of such files by the names train, dev and test; a folder written by
            ``datasets``; or a Hugging Face id (``user/name``, ``user/name:config``, ``hf:name``).
        test: file with the test part.
        validation: file with the validation part.
        text_column: column of the texts, if its name is not one of the usual ones.
        pair_column: column of the second text of each pair, with `text_column`.
        label_column: column of the labels, if its name is not one of the usual ones.
        regression: labels are numbers to predict, not classes.
        validation_fraction: share of the training texts, less those held out as test part.
        test_fraction: share of the training texts.
        split_seed: settles which texts are held out.
        cache_dir: where ``datasets`` keeps downloads; its own place when None.

    Raises:
        WideNetError: the source does not exist, cannot be downloaded or read, or cannot be split.
    """
    check_fractions(validation_fraction=validation_fraction, test_fraction=test_fraction)
    if pair_column is not None and text_column is None:
        raise WideNetError(f"pair_column={pair_column} needs text_column, the column of the first texts")
    found = _read_source(source, cache_dir)
    columns = _find_columns(found.train, text_column, pair_column, label_column)
    tables, origin = {"train": found.train}, {"train": "own"}
    if test is not None:
        tables["test"], origin["test"] = _open_file(Path(test).expanduser()), test
    elif found.test is not None and _is_labelled(found.test, columns.label):
        tables["test"], origin["test"] = found.test, "own"
    else:
        tables |= found.dev
        origin |= dict.fromkeys(found.dev, "own (the development part)")
    if validation is not None:
        tables["validation"], origin["validation"] = _open_file(Path(validation).expanduser()), validation
    elif "test" in found.dev and tables["test"] is not found.dev["test"]:
        tables["validation"], origin["validation"] = found.dev["test"], "own"
    examples = {name: _read_examples(table, columns, regression) for name, table in tables.items()}
    class_names = None if regression else _class_names(source, found.train, columns.label, examples["train"].labels)
    parts = {name: part.numbered(class_names) for name, part in examples.items()}
    skipped = sum(part.skipped for part in examples.values())

    for name, fraction in (("test", test_fraction), ("validation", validation_fraction)):
        if name in parts or (name == "test" and "matched" in parts):
            continue
        kept, held = _hold_out(source, parts["train"], class_names, name, fraction, split_seed)
        parts[name], parts["train"] = parts["train"].subset(held), parts["train"].subset(kept)
        origin[name] = f"held out of train, {fraction}, seed {split_seed}"
    # from here on in one order, whatever was held out
    names = ["train", "validation", *(name for name in parts if name not in ("train", "validation"))]
    contents = [[name, parts[name].first, parts[name].second, parts[name].labels.tolist()] for name in names]
    split = {
        "source": source,
        "seed": split_seed,
        "sizes": {name: len(parts[name]) for name in names},
        "origin": {name: origin[name] for name in names},
        "skipped_rows": skipped,
        "digest": digest([class_names, *contents]),
    }
    return SentenceData(
        parts["train"], parts["validation"], {name: parts[name] for name in names[2:]}, class_names, split
    )


def check_fractions(**fractions: float) -> None:
    """Raise WideNetError unless each share of the training part lies between 0 and 1."""
    for name, fraction in fractions.items():
        if not 0 < fraction < 1:
            raise WideNetError(f"{name} must lie between 0 and 1 (both excluded), not {fraction}")


def digest(contents: list[Any]) -> str:
    """Return the SHA-256 of JSON-able values."""
    total = hashlib.sha256()
    for value in contents:
        total.update(json.dumps(value).encode() + b"\n")
    return total.hexdigest()


# ---- files ----


@dataclass
class _Table:
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
        raise WideNetError(f"{path} does not exist") from error
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


def _suffix(path: Path) -> str:
    return Path(path.stem).suffix if path.suffix == ".gz" else path.suffix


def _open_file(path: Path) -> _Table:
    if _suffix(path) not in SUFFIXES:
        raise WideNetError(f"{path} is not a file of a known kind: {', '.join(SUFFIXES)}, each also with .gz")
    text = read_text(path)
    if _suffix(path) in (".json", ".jsonl"):
        return _open_json(path, text)
    lines = _tsv_lines(text) if _suffix(path) == ".tsv" else _csv_lines(path, text)
    header = [name.strip() for name in next(lines)[1]]

    def rows(columns: Sequence[str]) -> Iterator[tuple[int, list[Any]]]:
        wanted = [header.index(column) for column in columns]
        for number, cells in lines:
            if len(cells) != len(header):
                raise WideNetError(
                    f"line {number} of {path} has {len(cells)} columns, but its header has {len(header)}"
                )
            yield number, [cells[index] for index in wanted]

    return _Table(str(path), header, rows)


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


def _open_json(path: Path, text: str) -> _Table:
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
                    raise WideNetError(f"{place} {number} of {path} lacks {column!r}; it has {_listed(record)}")
            yield number, [record[column] for column in columns]

    return _Table(str(path), list(records[0][1]), rows, place)


def _listed(names: Iterable[str]) -> str:
    text = ", ".join(names)
    return text if len(text) <= 200 else text[:197] + "..."


# ---- sources ----


@dataclass
class _Parts:
    """What a source holds before any part is held out; `dev` by the names which its parts have as test parts."""

    train: _Table
    dev: dict[str, _Table]
    test: _Table | None = None


def _read_source(source: str, cache_dir: str | None) -> _Parts:
    path = Path(source).expanduser()
    if source in NAMES or not source or not path.exists():
        return _settle(source, _hub_parts(source, cache_dir))
    if path.is_file():
        return _Parts(_open_file(path), {})
    if is_saved(path):
        return _settle(source, _hub_parts(source, cache_dir))
    parts: dict[str, _Table] = {}
    for file in sorted(path.iterdir()):
        name = file.name.partition(".")[0]
        if _suffix(file) in SUFFIXES and (name in ("train", "test") or DEV_PART.fullmatch(name)):
            if name in parts:
                raise WideNetError(
                    f"{source} has both {Path(parts[name].name).name} and {file.name}; keep one of them"
                )
            parts[name] = _open_file(file)
    if not parts:
        raise WideNetError(f"{source} has no train.tsv, and no train.csv, train.json or train.jsonl")
    return _settle(source, parts)


def _settle(source: str, parts: dict[str, _Table]) -> _Parts:
    """Tell training, validation and test parts apart by their names."""
    if "train" not in parts:
        raise WideNetError(f"{source} has the parts {', '.join(parts)}, but none called train")
    dev: dict[str, _Table] = {}
    for name, table in parts.items():
        match = DEV_PART.fullmatch(name)
        if match:
            if (match[1] or "test") in dev:
                raise WideNetError(f"{source} has two development parts, {dev[match[1] or 'test'].name} and {name}")
            dev[match[1] or "test"] = table
    return _Parts(parts["train"], dev, parts.get("test"))


def _is_labelled(test: _Table, label: str) -> bool:
    """Whether a test part has labels: those of public sets are often kept secret."""
    if label not in test.columns:
        return False
    return test.class_names is None or any(value is not None for _, (value,) in test.rows([label]))


def is_saved(folder: Path) -> bool:
    """Whether ``datasets`` can load a folder: written by ``save_to_disk``, or of parquet or arrow files."""
    names = ("dataset_dict.json", "state.json", "*.parquet", "*.arrow", "*/*.parquet", "*/*.arrow")
    return any(any(folder.glob(name)) for name in names)


def load_tables(source: str, names: Mapping[str, tuple[str, ...]], cache_dir: str | None) -> dict[str, Any]:
    """Return the parts of a Hugging Face data set by name.

    Args:
        source: one of `names`, a folder for which :func:`is_saved` holds, or an id on the hub.
        names: public names, each with its id and, where it has several, its configuration.
        cache_dir: where downloads are kept.
    """
    path = Path(source).expanduser()
    saved = False
    if source in names:
        place = names[source]
    elif source and path.is_dir():
        saved, place = any((path / name).is_file() for name in ("dataset_dict.json", "state.json")), (str(path),)
    elif source.startswith("hf:"):
        place = tuple(source.removeprefix("hf:").split(":", 1))
    elif re.fullmatch(r"\w[\w.-]*/\w[\w.-]*(:[\w.-]+)?", source):
        if path.parent.is_dir():  # a mistyped path rather than an id; without network the hub takes long
            raise WideNetError(f"{source} does not exist; as a Hugging Face id it is hf:{source}")
        place = tuple(source.split(":", 1))
    elif source[:1] in ("", ".", "~") or "/" in source or path.suffix:
        raise WideNetError(f"{source!r} does not exist")
    else:
        raise WideNetError(f"{unknown('data set', source, names)} A folder or a file can be given, too: data=PATH.")
    try:
        import datasets
    except ImportError as error:
        raise WideNetError(f"{source} needs the package datasets: pip install 'widenet[datasets]'") from error
    try:
        loaded = datasets.load_from_disk(*place) if saved else datasets.load_dataset(*place, cache_dir=cache_dir)
    except Exception as error:  # requests', httpx's, pyarrow's and datasets' own errors have no common base
        if path.is_dir() and source not in names:
            raise WideNetError(f"{source} cannot be read as a data set ({reason(error)})") from error
        raise WideNetError(
            f"{source} could not be loaded from the Hugging Face hub ({reason(error)}); "
            f"a local folder with its files can be given instead: data=FOLDER"
        ) from error
    return dict(loaded) if isinstance(loaded, dict) else {"train": loaded}


def _hub_parts(source: str, cache_dir: str | None) -> dict[str, _Table]:
    return {name: _hub_table(source, name, table) for name, table in load_tables(source, NAMES, cache_dir).items()}


def _hub_table(source: str, part: str, dataset: Any) -> _Table:
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

    return _Table(f"the {part} part of {source}", list(dataset.features), rows, "row", class_names)


# ---- from rows to numbers ----


@dataclass(frozen=True)
class _Columns:
    first: str
    second: str | None
    label: str


def _find_columns(table: _Table, text: str | None, pair: str | None, label: str | None) -> _Columns:
    """Return the columns the user named; where there is no name, those with a usual one."""

    def has(*columns: str) -> bool:
        return all(column in table.columns for column in columns)

    if text is None:
        text = next((name for name in TEXT_COLUMNS if has(name)), None)
        text, pair = next((names for names in PAIR_COLUMNS if has(*names)), (text, None))
    label = label or next((name for name in LABEL_COLUMNS if has(name)), None)
    usual = [*TEXT_COLUMNS, *("+".join(names) for names in PAIR_COLUMNS)]
    for column, what, option, names in (
        (text, "texts", "text_column", usual),
        (label, "labels", "label_column", LABEL_COLUMNS),
    ):
        if column is None:
            raise WideNetError(
                f"{table.name} has no column of {what} ({', '.join(names)}); its columns are "
                f"{_listed(table.columns)}; data.{option} names another"
            )
    assert text is not None and label is not None
    return _Columns(text, pair, label)


@dataclass
class _Examples:
    """The rows of one table; `lines` tells where they stand in it."""

    table: _Table
    first: list[str]
    second: list[str] | None
    labels: list[Any]
    lines: list[int]
    skipped: int

    def numbered(self, class_names: list[str] | None) -> Sentences:
        """Return the texts with the labels' numbers."""
        if class_names is None:
            return Sentences(self.first, self.second, np.array(self.labels, dtype=np.float32))
        numbers = {name: number for number, name in enumerate(class_names)}
        for line, label in zip(self.lines, self.labels, strict=True):
            if label not in numbers:
                raise self.table.error(
                    line, f"has a label {label!r} which the training part lacks; it has {_listed(class_names)}"
                )
        return Sentences(self.first, self.second, np.array([numbers[label] for label in self.labels], dtype=np.int64))


def _read_examples(table: _Table, columns: _Columns, regression: bool) -> _Examples:
    texts = [column for column in (columns.first, columns.second) if column is not None]
    wanted = [*texts, columns.label]
    for column in wanted:
        if column not in table.columns:
            raise WideNetError(f"{table.name} has no column {column!r}; its columns are {_listed(table.columns)}")
    found = _Examples(table, [], [] if columns.second else None, [], [], 0)
    for line, values in table.rows(wanted):
        label = values[-1]
        # the annotators of MNLI and SNLI did not agree: "-" in their own files, -1 (here None) on the hub
        if (label == "-" and columns.label == "gold_label") or (label is None and table.class_names is not None):
            found.skipped += 1
            continue
        for column, value in zip(texts, values, strict=False):
            problem = check_text(value)
            if problem:
                raise table.error(line, f"cannot be used: its {column!r} {problem}")
        found.first.append(values[0])
        if found.second is not None:
            found.second.append(values[1])
        try:
            found.labels.append(_target(label) if regression else _class(label))
        except ValueError as error:
            raise table.error(line, f"has the {columns.label!r} {label!r}, which {error}") from error
        found.lines.append(line)
    if not found.labels:
        raise WideNetError(f"{table.name} has no labelled rows")
    return found


def _class(label: Any) -> str:
    """Return a label's class name; ValueError says why there is none."""
    if isinstance(label, float) and label.is_integer():  # a column of whole numbers, read as floats
        label = int(label)
    if not isinstance(label, str | int):
        raise ValueError("is no class name or whole number (numbers to predict need data.regression=true)")
    name = str(label).strip()
    if not name:
        raise ValueError("is empty")
    return name


def _target(label: Any) -> float:
    """Return a number to predict; ValueError says why there is none."""
    try:
        number = float(label)
    except (TypeError, ValueError):
        raise ValueError("is not a number") from None
    if not abs(number) <= float(np.finfo(np.float32).max):  # NaN, too
        raise ValueError("is not a finite number")
    return number


def _class_names(source: str, table: _Table, column: str, labels: list[str]) -> list[str]:
    """Return the classes of the training part: whole numbers in their own order, then names."""
    found = set(labels)
    if len(found) < 2:
        raise WideNetError(f"{source} has only one class ({labels[0]!r}); at least two are needed")
    if table.class_names and column in table.class_names:
        return table.class_names[column]
    return sorted(found, key=lambda name: (0, int(name), name) if re.fullmatch(r"-?\d+", name) else (1, 0, name))


def _hold_out(
    source: str, train: Sentences, class_names: list[str] | None, name: str, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices into the training part as (kept, held out), both sorted."""
    from sklearn.model_selection import train_test_split

    size, labels = max(round(fraction * len(train)), 1), None
    if class_names is not None:
        labels = train.labels
        present, counts = np.unique(labels, return_counts=True)
        if counts.min() < 2:
            small = class_names[present[counts.argmin()]]
            hint = "; numbers to predict need data.regression=true" if len(present) > 20 else ""
            raise WideNetError(
                f"class {small!r} of {source} has too few rows: one to hold out as {name} part and one to train on "
                f"are needed{hint}"
            )
        size = max(size, len(present))  # at least one row per class: more than the fraction of a small set
    try:
        kept, held = train_test_split(np.arange(len(train)), test_size=size, stratify=labels, random_state=seed)
    except ValueError as error:
        raise WideNetError(
            f"{name}_fraction={fraction} cannot be held out of {source}, which has {len(train)} rows to train on "
            f"({reason(error)})"
        ) from error
    if class_names is not None:
        lost = np.setdiff1d(train.labels, train.labels[kept])
        if len(lost):
            raise WideNetError(f"{name}_fraction={fraction} leaves no training row of class {class_names[lost[0]]!r}")
    return np.sort(kept), np.sort(held)


# ---- batches ----


class SentenceBatches(Dataset):
    """Tokenised texts as batches: input_ids, attention_mask, token_type_ids [N, L] and labels [N].

    Everything is tokenised once, here; a batch is padded, on the right, to its own longest text.

    Args:
        sentences: the texts.
        tokenizer: a fast tokenizer; token_type_ids are made if it has them.
        max_length: tokens, with the special ones; of a pair, the longer text is cut first.

    Attributes:
        truncated: how many texts or pairs were cut.
        lengths: int64 [n], tokens of each.
    """

    def __init__(self, sentences: Sentences, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        special = tokenizer.num_special_tokens_to_add(pair=sentences.second is not None)
        if max_length <= special:
            raise WideNetError(f"max_length must be more than the {special} special tokens, not {max_length}")
        self.sentences = sentences
        self.truncated = 0
        names = [name for name in ("input_ids", "token_type_ids") if name in tokenizer.model_input_names]
        # name: (rows of numbers, what pads them)
        self._columns: dict[str, tuple[list[np.ndarray], int]] = {
            name: ([], pad_id(tokenizer) if name == "input_ids" else 0) for name in names
        }
        for start in range(0, len(sentences), TOKENISE_AT_ONCE):
            block = slice(start, start + TOKENISE_AT_ONCE)
            second = None if sentences.second is None else sentences.second[block]
            encoded = tokenizer(sentences.first[block], second, truncation="longest_first", max_length=max_length)
            assert encoded.encodings is not None
            self.truncated += sum(bool(encoding.overflowing) for encoding in encoded.encodings)
            for name, (rows, _) in self._columns.items():
                rows += [np.array(row, dtype=np.int32) for row in encoded[name]]
        self.lengths = np.array([len(row) for row in self._columns["input_ids"][0]])

    def __len__(self) -> int:
        return len(self.sentences)

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        """Return a whole batch; DataLoader asks for it when the collator passes it through."""
        batch = {name: pad_rows([rows[i] for i in indices], pad) for name, (rows, pad) in self._columns.items()}
        batch["attention_mask"] = pad_rows([np.ones(self.lengths[i]) for i in indices], 0)
        return batch | {"labels": torch.from_numpy(self.sentences.labels[np.asarray(indices)])}


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return what fills short rows; attention masks it, so any number does where there is no such token."""
    return 0 if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)


def pad_rows(rows: list[np.ndarray], value: int) -> Tensor:
    """Return rows of different lengths as int64 [N, L], filled up on the right."""
    padded = np.full((len(rows), max(map(len, rows))), value, dtype=np.int64)
    for line, row in zip(padded, rows, strict=True):
        line[: len(row)] = row
    return torch.from_numpy(padded)
