"""Extractive question answering: questions in SQuAD's format, from a name, a folder or a file."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from widenet.data.section import AtLeastOne, Place
from widenet.data.text.tables import check_text, digest, is_dataset, load_tables, parse_json, read_text
from widenet.data.text.tokenizer import Length, TextSection
from widenet.errors import WideNetError

# name: arguments of datasets.load_dataset
NAMES = {"squad1": ("rajpurkar/squad",), "squad2": ("rajpurkar/squad_v2",)}
FILES = (("train-v1.1.json", "dev-v1.1.json"), ("train-v2.0.json", "dev-v2.0.json"))
LISTED = 3  # bad answers that an error shows


class QuestionsSection(TextSection):
    """Questions about contexts, in SQuAD's format."""

    source: Place | None
    """squad1, squad2; a SQuAD JSON file, or a folder with SQuAD's own files; or a Hugging Face id."""
    test: Place | None = None
    """File with the test part; null: the source's development part, or held out."""
    max_length: Length = 384
    """Tokens of a window: question, context and special tokens."""
    doc_stride: AtLeastOne = 128
    """Tokens from the start of a window to the start of the next."""
    n_best: AtLeastOne = 20
    """Starts, ends and answers of a question that are considered."""
    max_answer_length: AtLeastOne = 30
    """Tokens of the longest answer."""
    skip_bad_answers: bool = False
    """Leave out answers that are not where they should be, and questions left without any, instead of stopping."""


@dataclass(frozen=True)
class Question:
    """A question about a context.

    Attributes:
        answers: reference answers as (text, start); ``context[start : start + len(text)] == text``.
        impossible: whether the context does not answer it; then there are no answers.
        title: of the article which the context is from; may be empty.
    """

    id: str
    question: str
    context: str
    answers: list[tuple[str, int]]
    impossible: bool = False
    title: str = ""


@dataclass(frozen=True)
class QuestionData:
    """Three disjoint parts of one set of questions.

    Attributes:
        train, validation, test: the parts.
        has_impossible: whether some questions have no answer, as in SQuAD 2.0.
        split: JSON-able record: ``source``, ``seed``, ``sizes`` and ``origin`` of the parts,
            ``skipped_answers``, and a ``digest`` which is equal only if the split is the same.
        skipped: answers left out because they are not where they should be in their context.
    """

    train: list[Question]
    validation: list[Question]
    test: list[Question]
    has_impossible: bool
    split: dict[str, Any]
    skipped: int


def load_questions(section: QuestionsSection) -> QuestionData:
    """Load questions and settle their training, validation and test parts.

    The source is ``squad1`` or ``squad2`` (a folder of such a name is ``./squad1``); a SQuAD JSON file, also
    .gz; a folder with SQuAD's own files (``train-v1.1.json`` and ``dev-v1.1.json``, or those of v2.0) or
    written by ``datasets``; or a Hugging Face id.

    The test part is the section's test file, or the development part of the source (SQuAD's test part is not
    public), or held out. What is held out of the training part are whole articles, so that no context is
    in two parts; they are determined by the split seed.

    An answer must stand in its context, to the character, where its file says. White space around it is
    cut off, and its start moved along, since no token stands for white space.

    Args:
        section: the ``data`` section of a recipe.

    Raises:
        WideNetError: the source does not exist, cannot be downloaded or read, or cannot be split.
    """
    source, test, split_seed = str(section.source), section.test, section.split_seed
    readers = _read_parts(source, section.cache_dir)
    origin = dict.fromkeys(readers, "own")
    if "test" in readers:
        origin["test"] = "own (the development part)"
    if test is not None:
        readers["test"], origin["test"] = _Reader(test), test
        readers["test"].read_file(Path(test).expanduser())
    parts = {name: reader.finish(section.skip_bad_answers) for name, reader in readers.items()}
    for name, fraction in (("test", section.test_fraction), ("validation", section.validation_fraction)):
        if name not in parts:
            parts["train"], parts[name] = _hold_out_articles(source, parts["train"], name, fraction, split_seed)
            origin[name] = f"held out of train by article, {fraction}, seed {split_seed}"
    names = ("train", "validation", "test")
    skipped = sum(len(reader.bad) for reader in readers.values())
    contents = [
        [name, [[each.id, each.question, each.context, each.answers, each.title] for each in parts[name]]]
        for name in names
    ]
    split = {
        "source": source,
        "seed": split_seed,
        "sizes": {name: len(parts[name]) for name in names},
        "origin": {name: origin[name] for name in names},
        "skipped_answers": skipped,
        "digest": digest(contents),
    }
    has_impossible = any(question.impossible for part in parts.values() for question in part)
    return QuestionData(parts["train"], parts["validation"], parts["test"], has_impossible, split, skipped)


# ---- reading ----


def _read_parts(source: str, cache_dir: str | None) -> dict[str, "_Reader"]:
    """Return the training part, and the test part if there is one."""
    path = Path(source).expanduser()
    readers = {"train": _Reader(source)}
    if source not in NAMES and source and path.is_file():
        readers["train"].read_file(path)
        return readers
    if source not in NAMES and source and path.is_dir() and not is_dataset(path):
        files = [(train, dev) for train, dev in FILES if (path / train).is_file()]
        if len(files) != 1:
            problem = "has both" if files else "has neither"
            raise WideNetError(f"{source} {problem} {FILES[0][0]} and {FILES[1][0]}; name one: data=FILE test=FILE")
        readers["train"].read_file(path / files[0][0])
        if (path / files[0][1]).is_file():
            readers["test"] = _Reader(source)
            readers["test"].read_file(path / files[0][1])
        return readers
    tables = load_tables(source, NAMES, cache_dir)
    dev = next((tables[name] for name in ("validation", "dev", "test") if name in tables), None)
    if "train" not in tables:
        raise WideNetError(f"{source} has the parts {', '.join(tables)}, but none called train")
    readers["train"].read_table(tables["train"], "train")
    if dev is not None:
        readers["test"] = _Reader(source)
        readers["test"].read_table(dev, "development")
    return readers


class _Reader:
    """Collects the questions of one part, and the answers that are not where they should be."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.questions: list[Question] = []
        self.bad: list[str] = []

    def read_file(self, path: Path) -> None:
        """Read a SQuAD file: data → paragraphs → qas → answers."""
        self.name = str(path)
        content = parse_json(path, read_text(path))
        for article, where in self._items(content, "data", "the file"):
            title = self._text(article, "title", where) if article.get("title") is not None else ""
            for paragraph, place in self._items(article, "paragraphs", where):
                context = self._text(paragraph, "context", place)
                for question, spot in self._items(paragraph, "qas", place):
                    answers = []
                    # SQuAD 2.0 leaves out the empty list of a question that has no answer
                    if "answers" in question or not question.get("is_impossible"):
                        for answer, point in self._items(question, "answers", spot):
                            answers.append((self._text(answer, "text", point), answer.get("answer_start"), point))
                    self._add(question, context, answers, title, spot)

    def read_table(self, table: Any, part: str) -> None:
        """Read a part of a data set that has the columns of SQuAD on the hub."""
        self.name = f"the {part} part of {self.name}"
        for number, row in enumerate(table.with_format(None)):
            where = f"row {number}"
            context = self._text(row, "context", where)
            found = row.get("answers")
            if not isinstance(found, dict) or not {"text", "answer_start"} <= set(found):
                raise WideNetError(
                    f"{self.name} is not like SQuAD: {where} lacks 'answers' with text and answer_start"
                )
            answers = [(text, start, where) for text, start in zip(found["text"], found["answer_start"], strict=True)]
            self._add(row, context, answers, str(row.get("title") or ""), where)

    def _items(self, holder: Any, key: str, where: str) -> Iterable[tuple[dict[str, Any], str]]:
        """Return the objects of the list at `key`, each with its place in the file."""
        items = holder.get(key) if isinstance(holder, dict) else None
        if not isinstance(items, list):
            raise WideNetError(f"{self.name} is not in SQuAD's format: {where} lacks the list {key!r}")
        place = key if where == "the file" else f"{where}.{key}"
        for number, item in enumerate(items):
            if not isinstance(item, dict):
                raise WideNetError(f"{self.name} is not in SQuAD's format: {place}[{number}] is not an object")
        return [(item, f"{place}[{number}]") for number, item in enumerate(items)]

    def _text(self, holder: dict[str, Any], key: str, where: str) -> str:
        problem = check_text(holder.get(key))
        if problem:
            raise WideNetError(f"{self.name} is not in SQuAD's format: the {key!r} of {where} {problem}")
        return str(holder[key])

    def _add(
        self, question: dict[str, Any], context: str, answers: list[tuple[str, Any, str]], title: str, where: str
    ) -> None:
        if question.get("id") is None:
            raise WideNetError(f"{self.name} is not in SQuAD's format: {where} lacks 'id'")
        name = str(question["id"])
        impossible = bool(question.get("is_impossible", not answers))
        if not impossible and not answers:
            raise WideNetError(f"{self.name}: question {name!r} has no answers, but is_impossible is not true")
        good = []
        for text, start, place in answers:
            if type(start) is not int:
                raise WideNetError(f"{self.name}: the 'answer_start' of {place} is no whole number but {start!r}")
            found = context[start : start + len(text)] if start >= 0 else ""
            if found != text or not text.strip():
                self.bad.append(f"{name}: expected {_quoted(text)}, found {_quoted(found)} at {start}")
            else:
                good.append((text.strip(), start + len(text) - len(text.lstrip())))
        if good or impossible:
            text = self._text(question, "question", where)
            self.questions.append(Question(name, text, context, [] if impossible else good, impossible, title))

    def finish(self, skip_bad_answers: bool) -> list[Question]:
        """Return the questions; WideNetError if answers are bad or predictions could not tell questions apart."""
        if self.bad and not skip_bad_answers:
            more = "; …" if len(self.bad) > LISTED else ""
            raise WideNetError(
                f"{self.name} has {len(self.bad)} answer(s) that are not where they should be: "
                f"{'; '.join(self.bad[:LISTED])}{more}; data.skip_bad_answers=true leaves them out"
            )
        if not self.questions:
            raise WideNetError(f"{self.name} has no questions")
        name, count = Counter(question.id for question in self.questions).most_common(1)[0]
        if count > 1:
            raise WideNetError(f"{self.name} has {count} questions with the id {name!r}; predictions need them apart")
        return self.questions


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")


def _hold_out_articles(
    source: str, questions: list[Question], name: str, fraction: float, seed: int
) -> tuple[list[Question], list[Question]]:
    """Return the questions as (kept, held out); an article, or a context that several share, is in one of them."""
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while parent.setdefault(key, key) != key:
            key = parent[key]
        return key

    for question in questions:
        context = "context " + question.context
        parent[root(context)] = root("title " + question.title if question.title else context)
    groups = [root("context " + question.context) for question in questions]
    sizes = Counter(groups)
    order = [list(sizes)[index] for index in np.random.default_rng(seed).permutation(len(sizes))]
    held: set[str] = set()
    # articles in random order, as long as they fit; the smallest one always does
    room = max(round(fraction * len(questions)), min(sizes.values()))
    for group in order:
        if sizes[group] <= room:
            held.add(group)
            room -= sizes[group]
    if len(held) == len(sizes):
        raise WideNetError(
            f"{name}_fraction={fraction} cannot be held out of {source}: it has {len(sizes)} article(s) to train on, "
            f"and an article is held out as a whole"
        )
    parts: tuple[list[Question], list[Question]] = ([], [])
    for question, group in zip(questions, groups, strict=True):
        parts[group in held].append(question)
    return parts
