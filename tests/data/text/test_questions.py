"""Questions in SQuAD's format, and windows over their contexts: positions worked by hand."""

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.utils.data import DataLoader
from transformers import BertTokenizer

from widenet.data.text.questions import Question, QuestionData, QuestionsSection, load_questions
from widenet.data.text.windows import QuestionBatches, Windows, make_windows
from widenet.errors import WideNetError

LETTERS = "abcdefghij"
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, "?", "cafe", "##s", "is", "東", "京", "!"]
CLS, SEP = 2, 3


@pytest.fixture(scope="module")
def tokenizer() -> BertTokenizer:
    return BertTokenizer(vocab={word: number for number, word in enumerate(VOCABULARY)})


def ask(context: str, *answers: tuple[str, int], question: str = "a ?", impossible: bool = False) -> Question:
    return Question("q", question, context, list(answers), impossible)


def answer_text(windows: Windows, window: int, question: Question) -> str:
    """Return what the token positions of a window stand for in the original context."""
    assert windows.start_positions is not None and windows.end_positions is not None
    first = windows.context_start[window]
    offsets = windows.offsets[window]
    start = offsets[windows.start_positions[window] - first, 0]
    return question.context[start : offsets[windows.end_positions[window] - first, 1]]


# ---- windows ----

TEN = " ".join(LETTERS)  # token i is letter i, at character 2i


def test_windows_by_hand(tokenizer: BertTokenizer) -> None:
    # 8 tokens less [CLS] a ? [SEP] and the last [SEP]: room for 3, moving on by 2
    windows = make_windows(tokenizer, [ask(TEN, ("d e", 6))], max_length=8, doc_stride=2, training=True)
    shown = ["".join(tokenizer.convert_ids_to_tokens(ids[4:-1])) for ids in windows.input_ids]
    assert shown == ["abc", "cde", "efg", "ghi", "ij"]
    assert all(list(ids[:4]) == [CLS, 5, 15, SEP] and ids[-1] == SEP for ids in windows.input_ids)
    assert windows.context_start.tolist() == [4] * 5 and windows.question.tolist() == [0] * 5
    assert windows.offsets[1].tolist() == [[4, 5], [6, 7], [8, 9]]
    # "d e" ends the second window; the first has neither, the third only "e"
    assert windows.start_positions is not None and windows.end_positions is not None
    assert windows.start_positions.tolist() == [0, 5, 0, 0, 0]
    assert windows.end_positions.tolist() == [0, 6, 0, 0, 0]
    assert windows.cut_questions == 0


def test_max_context_by_hand(tokenizer: BertTokenizer) -> None:
    windows = make_windows(tokenizer, [ask(TEN)], max_length=8, doc_stride=2, training=False)
    # Windows abc cde efg ghi ij. The lesser of left and right context: c 0 in "abc" and 0 in "cde", both of
    # length 3: the earlier. So are e and g. i is 0 in "ghi" and 0 in "ij", which is shorter.
    shown = [flags.tolist() for flags in windows.max_context]
    assert shown == [[True] * 3, [False, True, True], [False, True, True], [False, True, True], [False, True]]
    # Room for 4, moving on by 1: abcd bcde …: c has 1 to its right in "abcd" and 1 to its left in "bcde"
    windows = make_windows(tokenizer, [ask(TEN)], max_length=9, doc_stride=1, training=False)
    assert windows.max_context[0].tolist() == [True, True, True, False]  # d: 0 here, 1 in "bcde"
    assert windows.max_context[1].tolist() == [False, False, True, False]
    assert windows.start_positions is None and windows.end_positions is None


@pytest.mark.parametrize(("max_length", "doc_stride"), [(8, 2), (9, 1), (9, 4), (12, 3), (64, 5)])
def test_every_token_has_one_window_with_most_context(
    tokenizer: BertTokenizer, max_length: int, doc_stride: int
) -> None:
    windows = make_windows(tokenizer, [ask(TEN)], max_length, doc_stride, training=False)
    kept = [offsets[flags] for offsets, flags in zip(windows.offsets, windows.max_context, strict=True)]
    assert sorted(np.concatenate(kept)[:, 0].tolist()) == [2 * number for number in range(10)]


@pytest.mark.parametrize(("max_length", "doc_stride"), [(8, 2), (9, 4), (12, 3), (64, 5)])
def test_windows_are_those_of_the_tokenizer(tokenizer: BertTokenizer, max_length: int, doc_stride: int) -> None:
    windows = make_windows(tokenizer, [ask(TEN)], max_length, doc_stride, training=False)
    room = max_length - 5
    slow = tokenizer(
        "a ?",
        TEN,
        truncation="only_second",
        max_length=max_length,
        stride=room - min(room, doc_stride),
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    assert [ids.tolist() for ids in windows.input_ids] == slow["input_ids"]
    for offsets, mapping in zip(windows.offsets, slow["offset_mapping"], strict=True):
        assert [tuple(pair) for pair in offsets.tolist()] == mapping[4:-1]


def test_answers_at_the_edges(tokenizer: BertTokenizer) -> None:
    whole = ask(TEN, ("a", 0))
    for text, start, want in (("a", 0, (4, 4)), ("j", 18, (13, 13)), (TEN, 0, (4, 13))):
        windows = make_windows(tokenizer, [ask(TEN, (text, start))], 15, 4, training=True)
        assert len(windows) == 1 and windows.start_positions is not None and windows.end_positions is not None
        assert (windows.start_positions[0], windows.end_positions[0]) == want
        assert answer_text(windows, 0, whole) == text


def test_only_the_first_reference_is_trained_on(tokenizer: BertTokenizer) -> None:
    windows = make_windows(tokenizer, [ask(TEN, ("b", 2), ("a", 0))], 15, 4, training=True)
    assert answer_text(windows, 0, ask(TEN)) == "b"


def test_an_answer_inside_a_token_gets_that_token(tokenizer: BertTokenizer) -> None:
    question = ask("is cafes !", ("afe", 4))
    windows = make_windows(tokenizer, [question], 15, 4, training=True)
    assert answer_text(windows, 0, question) == "cafe"


def test_impossible_questions_point_at_cls(tokenizer: BertTokenizer) -> None:
    windows = make_windows(tokenizer, [ask(TEN, impossible=True)], 8, 2, training=True)
    assert windows.start_positions is not None and not windows.start_positions.any()


@pytest.mark.parametrize(
    ("context", "answer"),
    [
        ("is  \t cafe\n\n is !", "cafe\n\n is"),  # white space as it stands
        ("is café !", "café"),  # one character for é
        ("is cafe\u0301 !", "cafe\u0301"),  # e and a combining accent, which the tokenizer drops
        ("is cafe\u0301\u0323 !", "cafe\u0301\u0323"),
        ("is CAFÉ!", "CAFÉ"),
        ("cafe 👍🏽 is", "👍🏽"),  # one sign of two code points
        ("cafe ❤️ is", "❤️"),  # a heart and a variation selector
        ("👩‍👩‍👧 cafe is", "cafe"),
        ("是東京is", "東京"),
        ("is\u00a0cafe\u2003is", "cafe\u2003is"),
        ("cafe\u200b is", "is"),
    ],
)
def test_offsets_are_those_of_the_original(tokenizer: BertTokenizer, context: str, answer: str) -> None:
    question = ask(context, (answer, context.index(answer)))
    windows = make_windows(tokenizer, [question], 32, 16, training=True)
    assert answer_text(windows, 0, question) == answer


def test_a_long_question_leaves_half_of_the_window(tokenizer: BertTokenizer) -> None:
    long = ask("a b c", ("b", 2), question=TEN)
    short = ask("a b c", ("b", 2), question="a b c")
    windows = make_windows(tokenizer, [long, short], max_length=10, doc_stride=9, training=True)
    # (10 − 3) // 2 = 3 tokens of the question, and 4 of the context
    assert [ids.tolist() for ids in windows.input_ids] == [[CLS, 5, 6, 7, SEP, 5, 6, 7, SEP]] * 2
    assert windows.cut_questions == 1 and answer_text(windows, 0, long) == "b"


def test_no_token_is_left_out_where_the_stride_is_longer_than_the_room(tokenizer: BertTokenizer) -> None:
    windows = make_windows(tokenizer, [ask(TEN)], max_length=8, doc_stride=100, training=False)
    starts = np.concatenate(windows.offsets)[:, 0].tolist()
    assert starts == [2 * number for number in range(10)]


def test_a_context_without_tokens_has_a_window(tokenizer: BertTokenizer) -> None:
    windows = make_windows(tokenizer, [ask("", impossible=True), ask(" ", impossible=True)], 8, 2, training=True)
    assert [ids.tolist() for ids in windows.input_ids] == [[CLS, 5, 15, SEP, SEP]] * 2
    assert [offsets.shape for offsets in windows.offsets] == [(0, 2)] * 2
    assert len(make_windows(tokenizer, [], 8, 2, training=True)) == 0


@pytest.mark.parametrize(
    ("max_length", "doc_stride", "message"), [(4, 2, "max_length must be .* not 4"), (8, 0, "doc_stride .* not 0")]
)
def test_window_that_cannot_be(tokenizer: BertTokenizer, max_length: int, doc_stride: int, message: str) -> None:
    with pytest.raises(WideNetError, match=message):
        make_windows(tokenizer, [ask(TEN)], max_length, doc_stride, training=True)


# ---- batches ----


def test_batches_are_padded_to_their_longest(tokenizer: BertTokenizer) -> None:
    asked = [ask("a b c d", ("d", 6)), ask("e", ("e", 0), question="a")]
    windows = make_windows(tokenizer, asked, 16, 8, training=True)
    (batch,) = DataLoader(QuestionBatches(windows, tokenizer), batch_size=2, collate_fn=lambda batch: batch)
    assert batch["input_ids"].tolist() == [
        [CLS, 5, 15, SEP, 5, 6, 7, 8, SEP],
        [CLS, 5, SEP, 9, SEP, 0, 0, 0, 0],
    ]
    assert batch["attention_mask"].tolist() == [[1] * 9, [1] * 5 + [0] * 4]
    assert batch["token_type_ids"].tolist() == [[0] * 4 + [1] * 5, [0] * 3 + [1] * 2 + [0] * 4]
    assert batch["start_positions"].tolist() == [7, 3] and batch["end_positions"].tolist() == [7, 3]
    assert {values.dtype for values in batch.values()} == {torch.int64}

    evaluated = QuestionBatches(make_windows(tokenizer, asked, 16, 8, training=False), tokenizer)
    second = evaluated.__getitems__([1])
    assert set(second) == {"input_ids", "attention_mask", "token_type_ids", "window"}
    assert second["window"].tolist() == [1] and second["input_ids"].shape == (1, 5) and len(evaluated) == 2


def test_token_types_are_left_out_where_the_tokenizer_has_none() -> None:
    vocab = {word: number for number, word in enumerate(VOCABULARY)}
    tokenizer = BertTokenizer(vocab=vocab, model_input_names=["input_ids", "attention_mask"])
    batches = QuestionBatches(make_windows(tokenizer, [ask(TEN)], 16, 8, training=False), tokenizer)
    assert set(batches.__getitems__([0])) == {"input_ids", "attention_mask", "window"}


# ---- reading ----


def squad(articles: int = 6, impossible: bool = False, prefix: str = "q") -> dict[str, Any]:
    """Return a file of as many articles, with two contexts each and two questions on either."""
    data = []
    for article in range(articles):
        paragraphs = []
        for number in range(2):
            context = f"{prefix} article {article}, paragraph {number}"
            answer = {"text": str(article), "answer_start": context.index(str(article))}
            first = {"id": f"{prefix}{article}{number}0", "question": "which article?", "answers": [answer]}
            second = {**first, "id": f"{prefix}{article}{number}1"}
            if impossible:
                second = {**second, "is_impossible": True, "answers": [], "plausible_answers": [answer]}
            paragraphs.append({"context": context, "qas": [first, second]})
        data.append({"title": f"{prefix} {article}", "paragraphs": paragraphs})
    return {"version": "1.1", "data": data}


def load(source: str, **options: Any) -> QuestionData:
    return load_questions(QuestionsSection(source=source, **options))


def write(path: Path, content: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return str(path)


def test_file_is_split_by_article(tmp_path: Path) -> None:
    data = load(write(tmp_path / "train.json", squad()), validation_fraction=0.2, test_fraction=0.2)
    # 24 questions, 4 an article: 0.2 · 24 = 5 have room for one article; so have 0.2 · 20 = 4
    assert data.split["sizes"] == {"train": 16, "validation": 4, "test": 4}
    parts = (data.train, data.validation, data.test)
    for field in ("context", "title"):
        sets = [{getattr(question, field) for question in part} for part in parts]
        assert not (sets[0] & sets[1] or sets[0] & sets[2] or sets[1] & sets[2])
    assert data.split["origin"]["test"] == "held out of train by article, 0.2, seed 0"
    assert not data.has_impossible and data.skipped == 0
    assert json.loads(json.dumps(data.split)) == data.split
    for question in (question for part in parts for question in part):
        for text, start in question.answers:
            assert question.context[start : start + len(text)] == text


def test_split_depends_on_the_seed_alone(tmp_path: Path) -> None:
    source = write(tmp_path / "train.json", squad())
    first, again, other = load(source), load(source), load(source, split_seed=3)
    assert first == again and first.split["digest"] != other.split["digest"]


def test_a_context_in_two_articles_keeps_them_together(tmp_path: Path) -> None:
    content = squad(4)
    content["data"][3]["paragraphs"][0]["context"] = content["data"][0]["paragraphs"][0]["context"]
    for question in content["data"][3]["paragraphs"][0]["qas"]:
        question["answers"] = [{"text": "0", "answer_start": 10}]
    source = write(tmp_path / "train.json", content)
    for seed in range(5):
        data = load(source, split_seed=seed)
        together = [{question.title for question in part} for part in (data.train, data.validation, data.test)]
        assert sum(bool(titles & {"q 0", "q 3"}) for titles in together) == 1


def test_articles_without_a_title_are_told_apart_by_context(tmp_path: Path) -> None:
    content = squad(2)
    for article in content["data"]:
        del article["title"]
    data = load(write(tmp_path / "train.json.gz", content), validation_fraction=0.4, test_fraction=0.3)
    assert data.split["sizes"] == {"train": 4, "validation": 2, "test": 2}


def test_test_file(tmp_path: Path) -> None:
    train = write(tmp_path / "train.json", squad())
    test = write(tmp_path / "test.json", squad(2, impossible=True, prefix="t"))
    data = load(train, test=test)
    assert data.split["sizes"] == {"train": 20, "validation": 4, "test": 8}
    assert data.split["origin"]["test"] == test and data.has_impossible
    assert [question.impossible for question in data.test[:2]] == [False, True] and data.test[1].answers == []


@pytest.mark.parametrize("version", ["1.1", "2.0"])
def test_folder_of_squad(tmp_path: Path, version: str) -> None:
    write(tmp_path / f"train-v{version}.json", squad(impossible=version == "2.0"))
    write(tmp_path / f"dev-v{version}.json", squad(2, prefix="d"))
    data = load(str(tmp_path))
    assert data.split["sizes"] == {"train": 20, "validation": 4, "test": 8}
    assert data.has_impossible == (version == "2.0")
    assert data.split["origin"]["test"] == "own (the development part)"


def test_folder_of_both_or_neither(tmp_path: Path) -> None:
    with pytest.raises(WideNetError, match=r"has neither train-v1.1.json and train-v2.0.json"):
        load(str(tmp_path))
    for version in ("1.1", "2.0"):
        write(tmp_path / f"train-v{version}.json", squad())
    with pytest.raises(WideNetError, match=r"has both train-v1.1.json and train-v2.0.json; name one"):
        load(str(tmp_path))


def test_folder_of_datasets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")

    def table(content: dict[str, Any]) -> Any:
        rows = [
            {
                "id": question["id"],
                "title": article["title"],
                "context": paragraph["context"],
                "question": question["question"],
                "answers": {
                    "text": [answer["text"] for answer in question["answers"]],
                    "answer_start": [answer["answer_start"] for answer in question["answers"]],
                },
            }
            for article in content["data"]
            for paragraph in article["paragraphs"]
            for question in paragraph["qas"]
        ]
        return datasets.Dataset.from_list(rows)

    parts = {"train": squad(impossible=True), "validation": squad(2, prefix="d")}
    datasets.DatasetDict({name: table(part) for name, part in parts.items()}).save_to_disk(str(tmp_path / "saved"))
    files = [write(tmp_path / f"{name}.json", part) for name, part in parts.items()]
    saved, plain = load(str(tmp_path / "saved")), load(files[0], test=files[1])
    assert (saved.train, saved.validation, saved.test) == (plain.train, plain.validation, plain.test)
    assert saved.split["digest"] == plain.split["digest"] and saved.has_impossible


# ---- answers that are not where they should be ----


def with_answers(path: Path, *answers: tuple[str, Any]) -> str:
    content = squad()
    content["data"][0]["paragraphs"][0]["context"] = " one  two three"
    questions = content["data"][0]["paragraphs"][0]["qas"]
    questions[0]["answers"] = [{"text": text, "answer_start": start} for text, start in answers]
    questions[1]["answers"] = [{"text": "two", "answer_start": 6}]
    return write(path, content)


@pytest.mark.parametrize(
    ("answer", "found"),
    [(("two", 5), "' tw'"), (("Two", 6), "'two'"), (("three", 11), "'hree'"), (("two", -3), "''"), (("", 3), "''")],
)
def test_bad_answer(tmp_path: Path, answer: tuple[str, int], found: str) -> None:
    source = with_answers(tmp_path / "train.json", answer, ("one", 1))
    with pytest.raises(WideNetError) as error:
        load(source)
    assert str(error.value) == (
        f"{source} has 1 answer(s) that are not where they should be: q000: expected {answer[0]!r}, found {found} at "
        f"{answer[1]}; data.skip_bad_answers=true leaves them out"
    )
    data = load(source, skip_bad_answers=True)
    assert data.skipped == 1 and data.split["skipped_answers"] == 1 and sum(data.split["sizes"].values()) == 24
    everything = [question for part in (data.train, data.validation, data.test) for question in part]
    assert next(question for question in everything if question.id == "q000").answers == [("one", 1)]


def test_a_question_without_a_good_answer_is_left_out(tmp_path: Path) -> None:
    source = with_answers(tmp_path / "train.json", ("no", 0), ("way", 1), ("x" * 50, 2), ("y", 3))
    with pytest.raises(WideNetError) as error:
        load(source)
    assert "4 answer(s)" in str(error.value) and "'xxx" in str(error.value) and "...'" in str(error.value)
    assert "'y'" not in str(error.value) and "\n" not in str(error.value)  # three are listed
    data = load(source, skip_bad_answers=True)
    assert data.skipped == 4 and sum(data.split["sizes"].values()) == 23


def test_white_space_around_an_answer_is_cut_off(tmp_path: Path) -> None:
    data = load(with_answers(tmp_path / "train.json", ("  two ", 4)))
    everything = [question for part in (data.train, data.validation, data.test) for question in part]
    assert next(question for question in everything if question.id == "q000").answers == [("two", 6)]


# ---- what is no SQuAD ----


def broken(change: str) -> Any:
    content = squad()
    paragraph = content["data"][1]["paragraphs"][0]
    question = paragraph["qas"][1]
    match change:
        case "no data":
            return {"questions": []}
        case "list":
            return [1]
        case "article":
            content["data"][1] = "text"
        case "paragraphs":
            del content["data"][1]["paragraphs"]
        case "context":
            del paragraph["context"]
        case "context type":
            paragraph["context"] = 5
        case "surrogate":
            paragraph["context"] = "\ud800"
        case "qas":
            paragraph["qas"] = {}
        case "id":
            del question["id"]
        case "question":
            question["question"] = None
        case "answers":
            del question["answers"]
        case "text":
            question["answers"] = [{"answer_start": 3}]
        case "start":
            question["answers"] = [{"text": "q"}]
        case "start type":
            question["answers"] = [{"text": "q", "answer_start": "0"}]
        case "possible":
            question |= {"is_impossible": False, "answers": []}
        case "twice":
            question["id"] = paragraph["qas"][0]["id"]
        case "empty":
            content["data"] = []
    return content


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("no data", "is not in SQuAD's format: the file lacks the list 'data'"),
        ("list", "is not in SQuAD's format: the file lacks the list 'data'"),
        ("article", r"data\[1\] is not an object"),
        ("paragraphs", r"data\[1\] lacks the list 'paragraphs'"),
        ("context", r"the 'context' of data\[1\].paragraphs\[0\] is missing"),
        ("context type", r"the 'context' of data\[1\].paragraphs\[0\] is no text but 5"),
        ("surrogate", r"is not Unicode \(surrogates not allowed at character 0\)"),
        ("qas", r"data\[1\].paragraphs\[0\] lacks the list 'qas'"),
        ("id", r"data\[1\].paragraphs\[0\].qas\[1\] lacks 'id'"),
        ("question", r"the 'question' of data\[1\].paragraphs\[0\].qas\[1\] is missing"),
        ("answers", r"qas\[1\] lacks the list 'answers'"),
        ("text", r"the 'text' of data\[1\].paragraphs\[0\].qas\[1\].answers\[0\] is missing"),
        ("start", r"the 'answer_start' of .*answers\[0\] is no whole number but None"),
        ("start type", r"the 'answer_start' of .*answers\[0\] is no whole number but '0'"),
        ("possible", "question 'q101' has no answers, but is_impossible is not true"),
        ("twice", "has 2 questions with the id 'q100'"),
        ("empty", "has no questions"),
    ],
)
def test_not_squad(tmp_path: Path, change: str, message: str) -> None:
    source = write(tmp_path / "train.json", broken(change))
    with pytest.raises(WideNetError, match=message) as error:
        load(source)
    assert source in str(error.value) and "\n" not in str(error.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    file = tmp_path / "train.json"
    for content, message in (
        (b"", "is empty"),
        (b'{"data": [', "is not JSON: Expecting value at line 1 column 11"),
        (b'{"data":\n "\xff"}', r"is not UTF-8: byte 0xff at position 11 \(line 2\)"),
        (b"[" * 100_000, "is not JSON"),
    ):
        file.write_bytes(content)
        with pytest.raises(WideNetError, match=message):
            load(str(file))
    (tmp_path / "train.json.gz").write_bytes(b"no gzip")
    with pytest.raises(WideNetError, match="cannot be read"):
        load(str(tmp_path / "train.json.gz"))
    with pytest.raises(WideNetError, match=r"missing.json' does not exist"):
        load(write(file, squad()), test=str(tmp_path / "missing.json"))


def test_sources_that_do_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WideNetError, match=r"none.json' does not exist"):
        load(str(tmp_path / "none.json"))
    with pytest.raises(WideNetError, match=r"unknown data set 'squad'; did you mean 'squad[12]'"):
        load("squad")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(WideNetError, match=r"squad1 needs the package datasets: pip install 'widenet\[datasets\]'"):
        load("squad1")


def test_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    def fail(*names: str, **options: Any) -> None:
        assert names == ("rajpurkar/squad_v2",)
        raise ConnectionError("no\nnetwork")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(WideNetError, match=r"squad2 could not be loaded .*\(no network\); a local folder"):
        load("squad2")


def test_a_mistyped_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "training.json").touch()
    with pytest.raises(WideNetError, match=r"trianing.json' does not exist; did you mean '.*/training.json'\?"):
        load(str(tmp_path / "trianing.json"))


def test_nothing_to_hold_out(tmp_path: Path) -> None:
    source = write(tmp_path / "train.json", squad(1))
    with pytest.raises(WideNetError, match=r"test_fraction=0.2 cannot be held out of .* 1 article\(s\)"):
        load(source)
    with pytest.raises(WideNetError, match=r"validation_fraction=0.1 cannot be held out"):
        load(source, test=source)
    with pytest.raises(ValidationError, match=r"test_fraction\n.*less than 1"):
        load(source, test_fraction=1)
