"""Labelled sentences and pairs: what is read and how it is split, every refusal, and batches by hand."""

import csv
import gzip
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.utils.data import DataLoader
from transformers import BertTokenizer

from widenet.data.text.sentences import SentenceBatches, SentenceData, Sentences, SentencesSection, load_sentences
from widenet.errors import WideNetError

CLS, SEP = 2, 3


@pytest.fixture(scope="module")
def tokenizer() -> BertTokenizer:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]
    return BertTokenizer(vocab={word: number for number, word in enumerate(words)})


def write(path: Path, lines: list[str]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(line + "\n" for line in lines).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


def load(source: str, **options: Any) -> SentenceData:
    return load_sentences(SentencesSection(source=source, **options))


def rows(count: int = 20, start: int = 0) -> list[str]:
    """Return rows of a sentence and its label, 0 and 1 in turn."""
    return [f"sentence {number}\t{number % 2}" for number in range(start, start + count)]


def tsv(path: Path, count: int = 20, start: int = 0) -> str:
    return write(path, ["sentence\tlabel", *rows(count, start)])


def everything(data: SentenceData) -> dict[str, Any]:
    """Return every text with its label's name."""
    found = {}
    for part in (data.train, data.validation, *data.tests.values()):
        names = part.labels.tolist() if data.class_names is None else [data.class_names[i] for i in part.labels]
        found |= dict(zip(part.first, names, strict=True))
    return found


# ---- splits ----


def test_one_file_is_split_by_class_without_overlap(tmp_path: Path) -> None:
    data = load(tsv(tmp_path / "train.tsv", 100), validation_fraction=0.1, test_fraction=0.2)
    assert data.split["sizes"] == {"train": 72, "validation": 8, "test": 20}
    assert data.class_names == ["0", "1"] and data.train.second is None
    for part in (data.train, data.validation, data.tests["test"]):
        assert part.labels.mean() == 0.5 and part.labels.dtype == np.int64
    assert everything(data) == {f"sentence {number}": str(number % 2) for number in range(100)}
    assert data.split["origin"] == {
        "train": "own",
        "validation": "held out of train, 0.1, seed 0",
        "test": "held out of train, 0.2, seed 0",
    }
    assert json.loads(json.dumps(data.split)) == data.split


def test_split_depends_on_the_seed_and_the_content_alone(tmp_path: Path) -> None:
    source = tsv(tmp_path / "train.tsv")
    first, again, other = load(source), load(source), load(source, split_seed=1)
    assert first.split == again.split and first.train.first == again.train.first
    assert first.split["digest"] != other.split["digest"]
    moved = load(tsv(tmp_path / "elsewhere.tsv.gz"))
    assert moved.split["digest"] == first.split["digest"]
    changed = [row.replace("sentence 3\t", "sentence three\t") for row in rows()]
    assert load(write(tmp_path / "b.tsv", ["sentence\tlabel", *changed])).split["digest"] not in (
        first.split["digest"],
        other.split["digest"],
    )


def test_test_and_validation_files(tmp_path: Path) -> None:
    train, test = tsv(tmp_path / "train.tsv"), tsv(tmp_path / "dev.tsv", 6, 100)
    data = load(train, test=test)
    assert data.split["sizes"] == {"train": 18, "validation": 2, "test": 6}
    assert data.split["origin"]["test"] == test
    assert data.tests["test"].first == [f"sentence {number}" for number in range(100, 106)]
    data = load(train, test=test, validation=tsv(tmp_path / "val.tsv", 4, 200))
    assert data.split["sizes"] == {"train": 20, "validation": 4, "test": 6}


def test_subset() -> None:
    pairs = Sentences(["a", "b", "c"], ["d", "e", "f"], np.array([0, 1, 0]))
    chosen = pairs.subset(np.array([2, 1]))
    assert (chosen.first, chosen.second, chosen.labels.tolist(), len(chosen)) == (["c", "b"], ["f", "e"], [0, 1], 2)


@pytest.mark.parametrize("option", ["validation_fraction", "test_fraction"])
@pytest.mark.parametrize("value", [0, 1, float("nan")])
def test_fraction_out_of_range(option: str, value: float) -> None:
    with pytest.raises(ValidationError, match=rf"{option}\n.*(greater|less) than"):
        load("sst2", **{option: value})


# ---- folders ----


def test_folder_of_glue(tmp_path: Path) -> None:
    tsv(tmp_path / "train.tsv")
    tsv(tmp_path / "dev.tsv", 4, 100)
    write(tmp_path / "test.tsv", ["index\tsentence", "0\tsecret"])  # GLUE keeps its labels
    data = load(str(tmp_path))
    assert data.split["sizes"] == {"train": 18, "validation": 2, "test": 4}
    assert data.split["origin"]["test"] == "own (the development part)"
    # a labelled test part, or file, leaves the development part to pick checkpoints
    tsv(tmp_path / "test.tsv", 6, 200)
    for options in ({}, {"test": str(tmp_path / "test.tsv")}):
        data = load(str(tmp_path), **options)
        assert data.split["sizes"] == {"train": 20, "validation": 4, "test": 6}
        assert data.split["origin"]["validation"] == "own"


def test_folder_of_mnli(tmp_path: Path) -> None:
    header = "index\tsentence1_parse\tsentence1\tsentence2\tlabel1\tgold_label"
    classes = ["neutral", "entailment", "contradiction"]
    texts = [f"{n}\t(ROOT\tone {n}\ttwo {n}\tneutral\t{classes[n % 3]}" for n in range(30)]
    write(tmp_path / "train.tsv", [header, *texts, "30\t(ROOT\tone\ttwo\tneutral\t-"])
    write(tmp_path / "dev_matched.tsv", [header, texts[0], "1\t(\tone\ttwo\tneutral\t-", "2\t(\tx\ty\tneutral\t-"])
    write(tmp_path / "dev_mismatched.tsv", [header, *texts[1:3]])
    write(tmp_path / "test_matched.tsv", [header.removesuffix("\tgold_label"), "1\t(\tone\ttwo\tneutral"])
    data = load(str(tmp_path))
    assert data.class_names == ["contradiction", "entailment", "neutral"]
    assert data.split["sizes"] == {"train": 27, "validation": 3, "matched": 1, "mismatched": 2}
    assert data.split["skipped_rows"] == 3
    assert list(data.tests) == ["matched", "mismatched"]
    assert data.tests["mismatched"].second == ["two 1", "two 2"]
    assert data.tests["mismatched"].labels.tolist() == [1, 0]


def test_folders_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(WideNetError, match=r"has no train.tsv, and no train.csv"):
        load(str(tmp_path))
    tsv(tmp_path / "dev.tsv")
    with pytest.raises(WideNetError, match="has the parts dev, but none called train"):
        load(str(tmp_path))
    tsv(tmp_path / "train.tsv")
    tsv(tmp_path / "val.tsv")
    with pytest.raises(WideNetError, match="has two development parts"):
        load(str(tmp_path))
    tsv(tmp_path / "train.tsv.gz")
    with pytest.raises(WideNetError, match=r"has both train.tsv and train.tsv.gz"):
        load(str(tmp_path))


# ---- files ----


def test_tsv_takes_everything_between_tabs_as_it_stands(tmp_path: Path) -> None:
    texts = ['an "open quote', "“x”  two spaces ", "line\u2028separator and \x85", "naïve 東京 👍", "'", "a\rb"]
    source = tmp_path / "train.tsv"
    lines = ["\ufeffsentence\tlabel", *(f"{text}\t{n % 2}" for n, text in enumerate(texts * 4)), ""]
    source.write_bytes("\r\n".join(lines).encode())
    assert everything(load(str(source))) == {text: str(n % 2) for n, text in enumerate(texts)}


def test_csv_and_json_say_the_same(tmp_path: Path) -> None:
    records = [{"text": f'{n}, "quoted",\n{n % 3} lines\u2028', "label": n % 2} for n in range(20)]
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["label", "text"])
        writer.writeheader()
        writer.writerows(records)
    (tmp_path / "a.json").write_text(json.dumps(records))
    write(tmp_path / "a.jsonl", [json.dumps(record, ensure_ascii=False) for record in records])
    write(tmp_path / "lines.json.gz", [json.dumps(record) for record in records])
    sources = ("a.csv", "a.json", "a.jsonl", "lines.json.gz")
    found = [load(str(tmp_path / source)) for source in sources]
    assert everything(found[0]) == {record["text"]: str(record["label"]) for record in records}
    assert len({data.split["digest"] for data in found}) == 1


@pytest.mark.parametrize(
    ("columns", "pair"),
    [
        ("sentence", False),
        ("text", False),
        ("review", False),
        ("question passage", True),
        ("question sentence", True),
        ("sentence1 sentence2", True),
        ("premise hypothesis", True),
        ("question1 question2", True),
    ],
)
@pytest.mark.parametrize("label", ["label", "labels", "gold_label"])
def test_columns_are_found_by_name(tmp_path: Path, columns: str, pair: bool, label: str) -> None:
    names = columns.split()
    lines = ["\t".join([f"first {n}", str(n % 2), "other", *([f"second {n}"] if pair else [])]) for n in range(20)]
    data = load(write(tmp_path / "a.tsv", ["\t".join([names[0], label, "index", *names[1:]]), *lines]))
    assert data.train.first[0].startswith("first")
    assert data.train.second == ([text.replace("first", "second") for text in data.train.first] if pair else None)


def test_columns_that_are_named(tmp_path: Path) -> None:
    lines = [f"text {n}\tone {n}\ttwo {n}\t{n % 2}\tsame" for n in range(20)]
    source = write(tmp_path / "a.tsv", ["sentence\t#1\t#2\tis_duplicate\tlabel", *lines])
    data = load(source, text_column="#1", pair_column="#2", label_column="is_duplicate")
    assert data.train.first[0].startswith("one") and data.train.second is not None
    assert load(source, text_column="#2", label_column="is_duplicate").train.second is None
    with pytest.raises(WideNetError, match=r"a.tsv has no column '#3'; its columns are sentence, #1, #2"):
        load(source, text_column="#3")
    with pytest.raises(WideNetError, match="pair_column=#2 needs text_column"):
        load(source, pair_column="#2")


# ---- labels ----


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["10", "9", "-1"], ["-1", "9", "10"]),
        ([10, 9, -1], ["-1", "9", "10"]),
        ([1.0, 0.0], ["0", "1"]),
        ([True, False], ["False", "True"]),
        (["pos", "neg", " pos "], ["neg", "pos"]),
        (["b", "2", "10"], ["2", "10", "b"]),
    ],
)
def test_class_names_are_sorted(tmp_path: Path, labels: list[Any], names: list[str]) -> None:
    lines = [json.dumps({"text": str(n), "label": labels[n % len(labels)]}) for n in range(30)]
    data = load(write(tmp_path / "a.jsonl", lines))
    assert data.class_names == names
    assert Counter(everything(data).values()) == Counter(str(labels[n % len(labels)]).strip() for n in range(30)) or (
        labels == [1.0, 0.0]
    )


def test_regression(tmp_path: Path) -> None:
    lines = [f"text {n}\t{n / 4 - 2}" for n in range(20)]
    data = load(write(tmp_path / "a.tsv", ["sentence\tlabel", *lines]), regression=True)
    assert data.class_names is None and data.train.labels.dtype == np.float32
    assert everything(data) == {f"text {n}": n / 4 - 2 for n in range(20)}
    assert data.split["sizes"] == {"train": 14, "validation": 2, "test": 4}


@pytest.mark.parametrize(
    ("label", "problem"),
    [
        ("nan", "is not a finite number"),
        ("inf", "finite"),
        ("1e39", "finite"),
        ("x", "is not a number"),
        ("", "not a"),
    ],
)
def test_bad_number(tmp_path: Path, label: str, problem: str) -> None:
    source = write(tmp_path / "a.tsv", ["sentence\tlabel", "good\t1", f"bad\t{label}", "good\t2"])
    with pytest.raises(WideNetError, match=f"line 3 of .*a.tsv has the 'label' '{label}', which .*{problem}"):
        load(source, regression=True)


def test_label_which_the_training_part_lacks(tmp_path: Path) -> None:
    train = tsv(tmp_path / "train.tsv")
    test = write(tmp_path / "dev.tsv", ["sentence\tlabel", "fine\t1", "", "odd\t2"])
    with pytest.raises(WideNetError, match=r"line 4 of .*dev.tsv has a label '2' which .* lacks; it has 0, 1"):
        load(train, test=test)


# ---- refusals ----


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("a.tsv", [], "is empty"),
        ("a.json", [], "is empty"),
        ("a.tsv", ["sentence\tlabel"], "has no labelled rows"),
        ("a.json", ["[]"], "has no rows"),
        ("a.tsv", ["sentence\tlabel", "one\t1", "two"], "line 3 of .* has 1 columns, but its header has 2"),
        ("a.tsv", ["sentence\tlabel", "one\ttwo\t1"], "line 2 of .* has 3 columns"),
        ("a.csv", ["sentence,label", '"a', 'b",1', "one"], "line 4 of .* has 1 columns"),
        ("a.csv", ["sentence,label", "one,1", '"open,1', "two,1"], "line 3 of .* is not CSV"),
        ("a.tsv", ["words\tlabel", "one\t1"], r"no column of texts \(sentence, text, .*columns are words, label"),
        ("a.tsv", ["sentence\tclass", "one\t1"], "no column of labels .*columns are sentence, class; .*label_column"),
        ("a.tsv", ["sentence\tlabel", "one\t ", "two\t1"], "line 2 of .* has the 'label' ' ', which is empty"),
        ("a.tsv", ["sentence\tlabel", "one\t1", "two\t1"], r"has only one class \('1'\)"),
        ("a.tsv", ["sentence\tlabel", "a\t1", "b\t2", "c\t1"], "class '2' of .* has too few rows"),
        ("a.jsonl", ['{"text": "a", "label": 1}', "{"], "line 2 of .* is not a JSON object"),
        ("a.jsonl", ['{"text": "a", "label": 1}', "[1]"], "line 2 of .* is not a JSON object"),
        ("a.jsonl", ['{"text": "a", "label": 1}', '{"text": "a"}'], "line 2 of .* lacks 'label'; it has text"),
        ("a.json", ['[{"text": "a", "label": 1}, 5]'], "row 2 of .* is not a JSON object"),
        ("a.json", ["[", "{]"], "is not JSON: .* at line 2 column 2"),
        ("a.jsonl", ['{"text": 3, "label": 1}'], "line 1 of .* cannot be used: its 'text' is no text but 3"),
        ("a.jsonl", ['{"text": null, "label": 1}'], "its 'text' is missing"),
        ("a.jsonl", [r'{"text": "\ud800", "label": 1}'], "its 'text' is not Unicode"),
        ("a.jsonl", ['{"text": "a", "label": null}'], "has the 'label' None, which is no class name"),
        ("a.jsonl", ['{"text": "a", "label": 0.5}'], "has the 'label' 0.5, which .* data.regression=true"),
        ("a.jsonl", ['{"text": "a", "label": NaN}'], "has the 'label' nan, which"),
        ("a.txt", ["sentence\tlabel"], r"is not a file of a known kind: .tsv, .csv, .json, .jsonl"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, name: str, lines: list[str], message: str) -> None:
    source = write(tmp_path / name, lines)
    with pytest.raises(WideNetError, match=message) as error:
        load(source)
    assert source in str(error.value) and "\n" not in str(error.value)


def test_bytes_that_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "a.tsv"
    source.write_bytes("sentence\tlabel\nna\xefve\t1\n".encode("latin-1"))
    with pytest.raises(WideNetError, match=r"a.tsv is not UTF-8: byte 0xef at position 17 \(line 2\)"):
        load(str(source))
    tsv(tmp_path / "b.tsv.gz")
    cut = (tmp_path / "b.tsv.gz").read_bytes()[:-9]
    (tmp_path / "b.tsv.gz").write_bytes(cut)
    with pytest.raises(WideNetError, match=r"b.tsv.gz cannot be read"):
        load(str(tmp_path / "b.tsv.gz"))


def test_too_little_to_hold_out(tmp_path: Path) -> None:
    numbers = [f"text {n}\t{n}.5" for n in range(30)]
    with pytest.raises(WideNetError, match=r"too few rows: .* data.regression=true"):
        load(write(tmp_path / "a.tsv", ["sentence\tlabel", *numbers]))
    with pytest.raises(WideNetError, match=r"cannot be held out of .*, which has 1 rows to train on"):
        load(write(tmp_path / "a.tsv", ["sentence\tlabel", numbers[0]]), regression=True)
    with pytest.raises(WideNetError, match=r"test_fraction=0.97 cannot be held out|leaves no training row"):
        load(tsv(tmp_path / "b.tsv"), test_fraction=0.97)


def test_sources_that_do_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    for source in (str(tmp_path / "none.tsv"), "./none", "none.tsv", "", "~/none/at/all", "data/none.tsv"):
        with pytest.raises(WideNetError, match="does not exist"):
            load(source)
    with pytest.raises(WideNetError, match=r"none.tsv' does not exist"):
        load(tsv(tmp_path / "train.tsv"), test="none.tsv")
    with pytest.raises(WideNetError, match="unknown data set 'sst'; did you mean 'sst2'"):
        load("sst")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(WideNetError, match=r"mnli needs the package datasets: pip install 'widenet\[datasets\]'"):
        load("mnli")


def test_a_mistyped_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "training.json").touch()
    with pytest.raises(WideNetError, match=r"trianing.json' does not exist; did you mean '.*/training.json'\?"):
        load(str(tmp_path / "trianing.json"))


# ---- the hub ----


def mnli_like() -> Any:
    datasets = pytest.importorskip("datasets")
    label = datasets.ClassLabel(names=["entailment", "neutral", "contradiction"])

    def part(labels: list[int]) -> Any:
        texts = {"premise": [f"one {n}" for n in range(len(labels))], "hypothesis": ["two"] * len(labels)}
        features = {"premise": datasets.Value("string"), "hypothesis": datasets.Value("string"), "label": label}
        return datasets.Dataset.from_dict({**texts, "label": labels}, features=datasets.Features(features))

    return datasets.DatasetDict(
        train=part([0, 1, 2] * 10 + [-1]),
        validation_matched=part([2, 1]),
        validation_mismatched=part([0, -1]),
        test_matched=part([-1, -1]),
    )


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("mnli", ("nyu-mll/glue", "mnli")),
        ("some/set", ("some/set",)),
        ("some/set:config", ("some/set", "config")),
        ("hf:set", ("set",)),
    ],
)
def test_hub(monkeypatch: pytest.MonkeyPatch, source: str, wanted: tuple[str, ...]) -> None:
    datasets = pytest.importorskip("datasets")
    calls = []

    def load_dataset(*names: str, cache_dir: str | None) -> Any:
        calls.append((names, cache_dir))
        return mnli_like()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    data = load(source, cache_dir="here")
    assert calls == [(wanted, "here")]
    assert data.class_names == ["entailment", "neutral", "contradiction"]  # in their own order
    assert data.split["sizes"] == {"train": 27, "validation": 3, "matched": 2, "mismatched": 1}
    assert data.split["skipped_rows"] == 2
    assert data.tests["matched"].labels.tolist() == [2, 1] and data.tests["matched"].second == ["two", "two"]


def test_folder_of_datasets(tmp_path: Path) -> None:
    parts = mnli_like()
    del parts["validation_mismatched"], parts["test_matched"]
    parts["validation"] = parts.pop("validation_matched")
    parts["test"] = parts["validation"].map(lambda row: {"label": -1})
    parts.save_to_disk(str(tmp_path / "saved"))
    data = load(str(tmp_path / "saved"))
    assert data.split["sizes"] == {"train": 27, "validation": 3, "test": 2}
    (tmp_path / "files").mkdir()
    parts["train"].to_parquet(str(tmp_path / "files" / "train.parquet"))
    data = load(str(tmp_path / "files"), cache_dir=str(tmp_path / "cache"))
    assert sum(data.split["sizes"].values()) == 30
    (tmp_path / "saved" / "dataset_dict.json").write_text("{")
    with pytest.raises(WideNetError, match="saved cannot be read as a data set"):
        load(str(tmp_path / "saved"))


def test_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    def fail(*names: str, **options: Any) -> None:
        raise ConnectionError("no\nnetwork")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(WideNetError, match=r"sst2 could not be loaded .*\(no network\); a local folder .*data=FOLDER"):
        load("sst2")


# ---- batches ----


def test_batches_of_sentences(tokenizer: BertTokenizer) -> None:
    batches = SentenceBatches(Sentences(["a b c d", "", "e"], None, np.array([1, 0, 1])), tokenizer, max_length=5)
    (batch,) = DataLoader(batches, batch_size=3, collate_fn=lambda batch: batch)
    assert batch["input_ids"].tolist() == [[CLS, 5, 6, 7, SEP], [CLS, SEP, 0, 0, 0], [CLS, 9, SEP, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1] * 5, [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]]
    assert not batch["token_type_ids"].any() and batch["labels"].tolist() == [1, 0, 1]
    assert {values.dtype for values in batch.values()} == {torch.int64}
    assert batches.truncated == 1 and batches.lengths.tolist() == [5, 2, 3] and len(batches) == 3
    assert batches.__getitems__([2, 1])["input_ids"].tolist() == [[CLS, 9, SEP], [CLS, SEP, 0]]


def test_batches_of_pairs(tokenizer: BertTokenizer) -> None:
    # Longest first, to 8 tokens with [CLS] and two [SEP]: 5 are left for 4 + 3 and for 1 + 5
    pairs = Sentences(["a b c d", "a", "a"], ["e f g", "b c d e f", "h"], np.array([0.5, -1, 2], dtype=np.float32))
    batches = SentenceBatches(pairs, tokenizer, max_length=8)
    batch = batches.__getitems__([0, 1, 2])
    first, second, third = batch["input_ids"].tolist()
    assert sorted([first.index(SEP) - 1, 8 - first.index(SEP) - 2]) == [2, 3]  # both are cut
    assert second == [CLS, 5, SEP, 6, 7, 8, 9, SEP]  # the longer one is cut
    assert third == [CLS, 5, SEP, 12, SEP, 0, 0, 0]
    assert batch["token_type_ids"].tolist()[1:] == [[0, 0, 0, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 0, 0, 0]]
    assert batches.truncated == 2
    assert batch["labels"].dtype == torch.float32 and batch["labels"].tolist() == [0.5, -1, 2]


def test_batches_are_those_of_the_tokenizer(tokenizer: BertTokenizer) -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(list("abcdefgh"), rng.integers(0, 12))) for _ in range(2500)]
    batches = SentenceBatches(Sentences(texts, texts[::-1], np.zeros(2500, dtype=np.int64)), tokenizer, 12)
    chosen = rng.permutation(2500)[:64].tolist()
    wanted = tokenizer(
        [texts[i] for i in chosen],
        [texts[2499 - i] for i in chosen],
        truncation="longest_first",
        max_length=12,
        padding=True,
        return_tensors="pt",
    )
    found = batches.__getitems__(chosen)
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        assert torch.equal(found[name], wanted[name])
    assert batches.truncated == sum(
        len(a.split()) + len(b.split()) > 9 for a, b in zip(texts, texts[::-1], strict=True)
    )


def test_room_for_no_text(tokenizer: BertTokenizer) -> None:
    with pytest.raises(WideNetError, match="max_length must be more than the 2 special tokens, not 2"):
        SentenceBatches(Sentences(["a"], None, np.array([0])), tokenizer, 2)
    with pytest.raises(WideNetError, match="more than the 3 special tokens, not 3"):
        SentenceBatches(Sentences(["a"], ["b"], np.array([0])), tokenizer, 3)


def test_token_types_are_left_out_where_the_tokenizer_has_none() -> None:
    words = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "a": 5}
    plain = BertTokenizer(vocab=words, model_input_names=["input_ids", "attention_mask"])
    batch = SentenceBatches(Sentences(["a"], None, np.array([0])), plain, 8).__getitems__([0])
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
