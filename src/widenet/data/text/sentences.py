"""Labelled sentences, or pairs of them, from a name, a folder or a file: split once, tokenised once.

Axes: N sentences of a batch, L tokens of the longest one.

Public test sets come without labels, so the development part of a source is its test part here, and the
validation part, by which checkpoints are picked, is held out of the training part.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from widenet.data.common import hold_out
from widenet.data.section import Place
from widenet.data.text.padding import pad_id, pad_rows
from widenet.data.text.tables import (
    SUFFIXES,
    Table,
    check_text,
    digest,
    hub_table,
    is_dataset,
    listed,
    load_tables,
    open_table,
    suffix,
)
from widenet.data.text.tokenizer import TextSection
from widenet.errors import WideNetError

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
DEV_PART = re.compile(r"(?:dev|val|valid|validation)(?:_(matched|mismatched))?")
TOKENISE_AT_ONCE = 1024  # texts; the tokenizer keeps what it cuts off, so whole sets take much memory


class SentencesSection(TextSection):
    """Sentences, or pairs of them, with labels or numbers."""

    source: Place | None
    """sst2, mnli; a .tsv, .csv, .json or .jsonl file, or a folder of them; or a Hugging Face id."""
    test: Place | None = None
    """File with the test part; null: the source's own, or held out."""
    validation: Place | None = None
    """File with the validation part; null: the source's own, or held out."""
    text_column: str | None = None
    """Column of the texts; null: found by its usual name."""
    pair_column: str | None = None
    """Column of the second text of each pair, beside text_column."""
    label_column: str | None = None
    """Column of the labels; null: found by its usual name."""
    regression: bool = False
    """Whether labels are numbers to predict, not classes."""


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


def load_sentences(section: SentencesSection) -> SentenceData:
    """Load labelled texts and settle their training, validation and test parts.

    The source is ``sst2`` or ``mnli`` (a folder of such a name is ``./sst2``); a folder with GLUE's own files
    (``train.tsv`` and ``dev.tsv``, or ``dev_matched.tsv`` and ``dev_mismatched.tsv``); a .tsv, .csv, .json or
    .jsonl file, also .gz, with a header; a folder of such files by the names train, dev and test; a folder
    written by ``datasets``; or a Hugging Face id (``user/name``, ``user/name:config``, ``hf:name``).

    The test part is, in this order: the section's test file; a labelled test part of the source; its development
    part; held out of its training part. A development part that is not the test part is the validation
    part (not MNLI's two). What is held out is stratified by class (not for regression) and determined by the
    split seed.

    Args:
        section: the ``data`` section of a recipe.

    Raises:
        WideNetError: the source does not exist, cannot be downloaded or read, or cannot be split.
    """
    source, test, validation, regression = str(section.source), section.test, section.validation, section.regression
    if section.pair_column is not None and section.text_column is None:
        raise WideNetError(f"pair_column={section.pair_column} needs text_column, the column of the first texts")
    found = _find_tables(source, section.cache_dir)
    columns = _find_columns(found.train, section.text_column, section.pair_column, section.label_column)
    tables, origin = {"train": found.train}, {"train": "own"}
    if test is not None:
        tables["test"], origin["test"] = open_table(Path(test).expanduser()), test
    elif found.test is not None and _is_labelled(found.test, columns.label):
        tables["test"], origin["test"] = found.test, "own"
    else:
        tables |= found.dev
        origin |= dict.fromkeys(found.dev, "own (the development part)")
    if validation is not None:
        tables["validation"], origin["validation"] = open_table(Path(validation).expanduser()), validation
    elif "test" in found.dev and tables["test"] is not found.dev["test"]:
        tables["validation"], origin["validation"] = found.dev["test"], "own"
    examples = {name: _read_examples(table, columns, regression) for name, table in tables.items()}
    class_names = None if regression else _class_names(source, found.train, columns.label, examples["train"].labels)
    parts = {name: part.numbered(class_names) for name, part in examples.items()}
    skipped = sum(part.skipped for part in examples.values())

    for name, fraction in (("test", section.test_fraction), ("validation", section.validation_fraction)):
        if name in parts or (name == "test" and "matched" in parts):
            continue
        kept, held = _hold_out_rows(source, parts["train"], class_names, name, fraction, section.split_seed)
        parts[name], parts["train"] = parts["train"].subset(held), parts["train"].subset(kept)
        origin[name] = f"held out of train, {fraction}, seed {section.split_seed}"
    # from here on in one order, whatever was held out
    names = ["train", "validation", *(name for name in parts if name not in ("train", "validation"))]
    contents = [[name, parts[name].first, parts[name].second, parts[name].labels.tolist()] for name in names]
    split = {
        "source": source,
        "seed": section.split_seed,
        "sizes": {name: len(parts[name]) for name in names},
        "origin": {name: origin[name] for name in names},
        "skipped_rows": skipped,
        "digest": digest([class_names, *contents]),
    }
    return SentenceData(
        parts["train"], parts["validation"], {name: parts[name] for name in names[2:]}, class_names, split
    )


# ---- sources ----


@dataclass
class _Parts:
    """What a source holds before any part is held out; `dev` by the names which its parts have as test parts."""

    train: Table
    dev: dict[str, Table]
    test: Table | None = None


def _find_tables(source: str, cache_dir: str | None) -> _Parts:
    path = Path(source).expanduser()
    if source in NAMES or not source or not path.exists():
        return _settle(source, _hub_parts(source, cache_dir))
    if path.is_file():
        return _Parts(open_table(path), {})
    if is_dataset(path):
        return _settle(source, _hub_parts(source, cache_dir))
    parts: dict[str, Table] = {}
    for file in sorted(path.iterdir()):
        name = file.name.partition(".")[0]
        if suffix(file) in SUFFIXES and (name in ("train", "test") or DEV_PART.fullmatch(name)):
            if name in parts:
                raise WideNetError(
                    f"{source} has both {Path(parts[name].name).name} and {file.name}; keep one of them"
                )
            parts[name] = open_table(file)
    if not parts:
        raise WideNetError(f"{source} has no train.tsv, and no train.csv, train.json or train.jsonl")
    return _settle(source, parts)


def _settle(source: str, parts: dict[str, Table]) -> _Parts:
    """Tell training, validation and test parts apart by their names."""
    if "train" not in parts:
        raise WideNetError(f"{source} has the parts {', '.join(parts)}, but none called train")
    dev: dict[str, Table] = {}
    for name, table in parts.items():
        match = DEV_PART.fullmatch(name)
        if match:
            if (match[1] or "test") in dev:
                raise WideNetError(f"{source} has two development parts, {dev[match[1] or 'test'].name} and {name}")
            dev[match[1] or "test"] = table
    return _Parts(parts["train"], dev, parts.get("test"))


def _is_labelled(test: Table, label: str) -> bool:
    """Whether a test part has labels: those of public sets are often kept secret."""
    if label not in test.columns:
        return False
    return test.class_names is None or any(value is not None for _, (value,) in test.rows([label]))


def _hub_parts(source: str, cache_dir: str | None) -> dict[str, Table]:
    return {name: hub_table(source, name, table) for name, table in load_tables(source, NAMES, cache_dir).items()}


# ---- from rows to numbers ----


@dataclass(frozen=True)
class _Columns:
    first: str
    second: str | None
    label: str


def _find_columns(table: Table, text: str | None, pair: str | None, label: str | None) -> _Columns:
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
                f"{listed(table.columns)}; data.{option} names another"
            )
    assert text is not None and label is not None
    return _Columns(text, pair, label)


@dataclass
class _Examples:
    """The rows of one table; `lines` tells where they stand in it."""

    table: Table
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
                    line, f"has a label {label!r} which the training part lacks; it has {listed(class_names)}"
                )
        return Sentences(self.first, self.second, np.array([numbers[label] for label in self.labels], dtype=np.int64))


def _read_examples(table: Table, columns: _Columns, regression: bool) -> _Examples:
    texts = [column for column in (columns.first, columns.second) if column is not None]
    wanted = [*texts, columns.label]
    for column in wanted:
        if column not in table.columns:
            raise WideNetError(f"{table.name} has no column {column!r}; its columns are {listed(table.columns)}")
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


def _class_names(source: str, table: Table, column: str, labels: list[str]) -> list[str]:
    """Return the classes of the training part: whole numbers in their own order, then names."""
    found = set(labels)
    if len(found) < 2:
        raise WideNetError(f"{source} has only one class ({labels[0]!r}); at least two are needed")
    if table.class_names and column in table.class_names:
        return table.class_names[column]
    return sorted(found, key=lambda name: (0, int(name), name) if re.fullmatch(r"-?\d+", name) else (1, 0, name))


def _hold_out_rows(
    source: str, train: Sentences, class_names: list[str] | None, name: str, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices into the training part as (kept, held out), both sorted."""
    if class_names is not None:
        present, counts = np.unique(train.labels, return_counts=True)
        if counts.min() < 2:
            small = class_names[present[counts.argmin()]]
            hint = "; numbers to predict need data.regression=true" if len(present) > 20 else ""
            raise WideNetError(
                f"class {small!r} of {source} has too few rows: one to hold out as {name} part and one to train on "
                f"are needed{hint}"
            )
    return hold_out(source, train.labels, class_names, name, fraction, seed, "row")


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
