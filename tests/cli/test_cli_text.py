"""The command line for text: what each command prints, and that every mistake is one line and exit code 2."""

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers.utils import logging

from widenet.data.text.tokenizer import train_wordpiece
from widenet.recipes import load_recipe
from widenet.training.run import train

BOOK = Path(__file__).parent.parent / "files/northanger.txt"
SMALL = [
    *("model=widenet-text-tiny", "model.hidden_size=32", "model.num_attention_heads=2", "model.embedding_size=16"),
    *("model.intermediate_size=32", "model.vocab_size=300", "model.max_position_embeddings=64", "data.max_length=64"),
]
PEOPLE = ["Catherine", "Isabella", "Henry", "John"]
PLACES = ["Bath", "London", "Oxford", "Fullerton"]


Command = Callable[..., Any]  # the fixture `widenet` of conftest.py


def sentences(path: Path, labels: tuple[str, ...] = ("bad", "good"), count: int = 60) -> None:
    rng = random.Random(0)
    rows = [
        f"{rng.choice(PEOPLE)} was {label} at {rng.choice(PLACES)}.\t{label}"
        for label in (labels[index % len(labels)] for index in range(count))
    ]
    path.write_text("\n".join(["sentence\tlabel", *rows]) + "\n", encoding="utf-8")


def squad(articles: int, shift: int = 0, impossible: bool = False) -> str:
    """Return questions in SQuAD's format, the answers of which are `shift` characters away from their place."""
    data = []
    for article in range(articles):
        rng = random.Random(article)
        lives = dict(zip(rng.sample(PEOPLE, 3), rng.sample(PLACES, 3), strict=True))
        context = " ".join(f"{name} lives in {place}." for name, place in lives.items())
        questions = [
            {
                "id": f"{article}-{name}",
                "question": f"Where does {name} live?",
                "answers": [{"text": place, "answer_start": context.index(place) + shift}],
            }
            for name, place in lives.items()
        ]
        if impossible:
            nobody = {"question": "Where does Frederick live?", "answers": [], "is_impossible": True}
            questions.append({"id": f"{article}-nobody", **nobody})
        data.append({"title": f"article {article}", "paragraphs": [{"context": context, "qas": questions}]})
    return json.dumps({"version": "test", "data": data})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a run of each text task, and with material to make mistakes with."""
    root, cache = tmp_path_factory.mktemp("cli"), tmp_path_factory.mktemp("cache")
    logging.disable_progress_bar()
    (root / "book.txt").write_text(BOOK.read_text(encoding="utf-8")[:40_000], encoding="utf-8")
    sentences(root / "good.tsv")
    sentences(root / "other.tsv", ("dull", "fine", "great"))
    (root / "squad.json").write_text(squad(10))
    (root / "squad2.json").write_text(squad(10, impossible=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        few = "training.max_steps=2"
        train(load_recipe("mlm-text", [f"data={root / 'book.txt'}", *SMALL, few]), root / "pre")
        start = [f"model={root / 'pre'}", "data.max_length=48", few]
        train(load_recipe("text-classification", [f"data={root / 'good.tsv'}", *start]), root / "cls")
        train(load_recipe("question-answering", [f"data={root / 'squad.json'}", *start]), root / "qa")

        for name, content in {
            "empty.txt": b"",
            "blank.txt": b" \n\t\n",
            "binary.txt": b"some text\0\x01\x02",
            "latin1.txt": b"a caf\xe9",
            "short.txt": b"No one would have supposed her.",
            "empty.tsv": b"",
            "header.tsv": b"sentence\tlabel\n",
            "columns.tsv": b"sentence\tlabel\ngood\t1\nbad\t0\tand more\n",
            "nameless.tsv": b"words\tclass\ngood\t1\nbad\t0\n",
            "one-class.tsv": b"sentence\tlabel\ngood\t1\nfine\t1\n",
            "latin1.tsv": b"sentence\tlabel\ncaf\xe9\t1\n",
            "unknown-label.tsv": b"sentence\tlabel\nIt was good.\tgood\nIt was odd.\todd\n",
            "numbers.tsv": b"sentence\tlabel\nIt was good.\t0.5\nIt was odd.\t1.5\nIt was bad.\tno\n",
            "broken.json": b'{"data": [',
            "list.json": b"[]",
            "no-questions.json": b'{"data": []}',
            "shifted.json": squad(4, shift=1).encode(),
            "one-article.json": squad(1).encode(),
            "photo.png": b"\x89PNG",
        }.items():
            (root / name).write_bytes(content)
        (root / "empty").mkdir()
        for name, described in {
            "vision": {"model_type": "widenet_vision", "architectures": ["WideNetForImageClassification"]},
            "bert": {"model_type": "bert"},
            "no-weights": {"model_type": "widenet_text", "architectures": ["WideNetForPreTraining"]},
        }.items():
            (root / name).mkdir()
            (root / name / "config.json").write_text(json.dumps(described))
        (root / "vision/model.safetensors").write_bytes(b"")
        words = [f"word{number}" for number in range(600)]
        train_wordpiece(words, 800).save_pretrained(root / "tokenizer")
        no_checkpoints = shutil.ignore_patterns("checkpoints")
        shutil.copytree(root / "cls", root / "bare", ignore=shutil.ignore_patterns("checkpoints", "re*", "metrics*"))
        shutil.copytree(root / "cls", root / "no-tokenizer", ignore=shutil.ignore_patterns("checkpoints", "token*"))
        shutil.copytree(root / "cls", root / "strange", ignore=no_checkpoints)
        for file in (root / "tokenizer").iterdir():
            shutil.copy(file, root / "strange")
        (root / "foreign").mkdir()
        (root / "foreign/thesis.txt").write_text("years of work")
        (root / "some-seeds").mkdir()
        shutil.copytree(root / "cls", root / "some-seeds/seed-1")
        yield root
    logging.enable_progress_bar()


@pytest.fixture
def here(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make that folder the current one; no test may change it."""
    monkeypatch.chdir(trained)
    return trained


# ---- mistakes ----

NEW = ["--output", "new"]
MLM = ["train", "mlm-text", *SMALL, *NEW]
CLS = ["train", "text-classification", "data=good.tsv", *SMALL, *NEW]
QA = ["train", "question-answering", "data=squad.json", *SMALL, *NEW]
TUNE = ["train", "text-classification", "data=good.tsv", "model=./pre", "data.max_length=48", "epochs=1"]

MISTAKES: list[tuple[list[str], str]] = [
    # corpus
    (MLM, "needs data=: a text file, or a folder of them"),
    ([*MLM, "data=none.txt"], "'none.txt' does not exist"),
    ([*MLM, "data=./none"], "'./none' does not exist"),
    ([*MLM, "data=wikipedia-book"], "did you mean 'wikipedia-books'"),
    ([*MLM, "data="], "needs data="),
    ([*MLM, "data=empty.txt"], "empty.txt is empty"),
    ([*MLM, "data=blank.txt"], "blank.txt is empty"),
    ([*MLM, "data=empty"], "empty has no text files"),
    ([*MLM, "data=binary.txt"], "binary.txt is binary, not text: byte 9"),
    ([*MLM, "data=latin1.txt"], "latin1.txt is not UTF-8: byte 5"),
    ([*MLM, "data=short.txt"], "at least 3 are needed"),
    ([*MLM, "data=book.txt", "data.max_length=8"], "max_length must be at least 11"),
    ([*MLM, "data=book.txt", "data.max_length=65"], "data.max_length=65 is more than max_position_embeddings=64"),
    ([*MLM, "data=book.txt", "data.mask_rate=1"], "data.mask_rate=1"),
    ([*MLM, "data=book.txt", "data.masking=word"], "data.masking='word'"),
    ([*MLM, "data=book.txt", "data.documents=page"], "data.documents='page'"),
    ([*MLM, "data=book.txt", "data.cache_dir=photo.png"], "cache"),
    # tokenizer
    ([*MLM, "data=book.txt", "model.vocab_size=20"], "vocab_size=20 is too small"),
    ([*MLM, "data=book.txt", "data.tokenizer=./none"], "tokenizer folder './none' does not exist"),
    ([*MLM, "data=book.txt", "data.tokenizer=empty"], "empty has no tokenizer"),
    ([*MLM, "data=book.txt", "data.tokenizer=book.txt"], "book.txt is a file"),
    ([*MLM, "data=book.txt", "data.tokenizer=tokenizer", "model.vocab_size=300"], "tokens, but the model has 300"),
    ([*CLS, "data.tokenizer=tokenizer", "model.vocab_size=300"], "tokens, but the model has 300"),
    ([*TUNE, *NEW, "data.tokenizer=tokenizer"], "the tokenizer of tokenizer has"),
    # model
    (["train", "sst2", "data=good.tsv", *NEW], "needs model=: the folder of a pretrained model"),
    ([*MLM, "data=book.txt", "model=widenet-text-tinny"], "did you mean 'widenet-text-tiny'"),
    ([*MLM, "data=book.txt", "model=widenet-digits"], "recipe mlm-text cannot train widenet-digits"),
    ([*MLM, "data=book.txt", "model=./none"], "none does not exist"),
    ([*MLM, "data=book.txt", "model=./vision"], "'widenet_vision'"),
    ([*MLM, "data=book.txt", "model=./bert"], "'bert'"),
    ([*MLM, "data=book.txt", "model=./no-weights"], "no model.safetensors"),
    ([*MLM, "data=book.txt", "model.image_size=8"], "unknown config field 'image_size'"),
    ([*MLM, "data=book.txt", "model.num_labels=3"], "model.num_labels follows from the data"),
    ([*MLM, "data=book.txt", "model.vocab_size=many"], "vocab_size"),
    ([*CLS, "model.problem_type=regression"], "model.problem_type follows from the data"),
    ([*TUNE, *NEW, "model.hidden_size=64"], "[64] was asked for"),
    ([*TUNE, *NEW, "model.num_experts=8"], "was asked for"),
    ([*TUNE, *NEW, "model.hiden_size=64"], "did you mean 'hidden_size'"),
    ([*TUNE, *NEW, "data.max_length=65"], "data.max_length=65 is more than max_position_embeddings=64"),
    ([*TUNE, *NEW, "data.max_length=128", "model.max_position_embeddings=128"], "position_embeddings"),
    (["train", "digits", "model=./pre", *NEW], "'widenet_text'"),
    (["train", "digits", "model=widenet-text-tiny", *NEW], "recipe digits cannot train widenet-text-tiny"),
    # keys of another task
    ([*MLM, "data=book.txt", "data.doc_stride=3"], "unknown key 'data.doc_stride'"),
    ([*MLM, "data=book.txt", "training.mixup=0.2"], "unknown key 'training.mixup'"),
    (["train", "digits", "data.max_length=3", *NEW], "unknown key 'data.max_length'"),
    # sentences
    (["train", "text-classification", *NEW], "needs data="),
    ([*CLS, "data=none.tsv"], "'none.tsv' does not exist"),
    ([*CLS, "data=photo.png"], "photo.png is not a file of a known kind"),
    ([*CLS, "data=empty"], "empty has no train.tsv"),
    ([*CLS, "data=empty.tsv"], "empty.tsv is empty"),
    ([*CLS, "data=header.tsv"], "header.tsv has no labelled rows"),
    ([*CLS, "data=columns.tsv"], "line 3 of columns.tsv has 3 columns, but its header has 2"),
    ([*CLS, "data=nameless.tsv"], "data.text_column names another"),
    ([*CLS, "data=nameless.tsv", "data.text_column=words"], "data.label_column names another"),
    ([*CLS, "data=one-class.tsv"], "only one class ('1')"),
    ([*CLS, "data=latin1.tsv"], "latin1.tsv is not UTF-8: byte 0xe9 at position 18 (line 2)"),
    ([*CLS, "data.test=unknown-label.tsv"], "line 3 of unknown-label.tsv has a label 'odd'"),
    ([*CLS, "data.test=none.tsv"], "'none.tsv' does not exist"),
    ([*CLS, "data=numbers.tsv", "data.regression=true"], "line 4 of numbers.tsv has the 'label' 'no'"),
    ([*CLS, "data.test_fraction=0.999"], "test_fraction=0.999"),
    ([*CLS, "data.pair_column=label"], "needs text_column"),
    # questions
    ([*QA, "data=broken.json"], "broken.json is not JSON"),
    ([*QA, "data=list.json"], "list.json is not in SQuAD's format"),
    ([*QA, "data=no-questions.json"], "no questions"),
    ([*QA, "data=good.tsv"], "good.tsv is not JSON"),
    ([*QA, "data=shifted.json"], "shifted.json has 12 answer(s) that are not where they should be"),
    ([*QA, "data=shifted.json", "data.skip_bad_answers=true"], "shifted.json has no questions"),
    ([*QA, "data=one-article.json"], "one-article.json: it has 1 article(s)"),
    ([*QA, "data=empty"], "train-v1.1.json"),
    ([*QA, "data.doc_stride=0"], "data.doc_stride=0"),
    # output folders
    ([*TUNE, "--output", "cls"], "already holds a run"),
    ([*TUNE, "--output", "cls", "--resume", "seed=1"], "not"),
    ([*TUNE, "--output", "pre", "--overwrite"], "--overwrite would delete pre, which holds model"),
    ([*TUNE, "--output", "foreign"], "not empty"),
    # seeds
    ([*TUNE, *NEW, "--seeds", "0"], "seeds=0 must be at least 1"),
    ([*TUNE, *NEW, "--seeds", "-1"], "seeds=-1 must be at least 1"),
    ([*TUNE, *NEW, "--seeds", "2", "seed=4294967295"], "seed=4294967295"),
    ([*TUNE, *NEW, "--seeds", "2", "--resume"], "nothing to resume"),
    ([*TUNE, *NEW, "--seeds", "2", "--resume", "--overwrite"], "exclude each other"),
    ([*TUNE, "--output", "some-seeds", "--seeds", "2"], "some-seeds/seed-1 already holds a run"),
    ([*TUNE, "--output", "some-seeds", "--seeds", "2", "--resume", "epochs=3"], "not"),
    ([*TUNE, "--output", "cls", "--seeds", "2"], "cls holds a run of one seed"),
    ([*TUNE, "--output", "cls", "--seeds", "2", "--overwrite"], "cls holds a run of one seed"),
    ([*TUNE, "--output", "foreign", "--seeds", "2"], "not empty"),
    ([*TUNE, "--output", "foreign", "--seeds", "2", "--overwrite"], "not empty"),
    ([*TUNE, "--output", "good.tsv", "--seeds", "2"], "good.tsv is a file"),
    ([*TUNE, *NEW, "--seeds", "2", "data=columns.tsv"], "line 3 of columns.tsv"),
    # evaluate
    (["evaluate", "cls", "data=other.tsv"], "do not match the model: the data have 3 classes (dull, fine, great)"),
    (["evaluate", "cls", "data=columns.tsv"], "line 3 of columns.tsv"),
    (["evaluate", "cls", "data=squad.json"], "squad.json"),
    (["evaluate", "cls", "data.regression=true"], "does not predict numbers"),
    (["evaluate", "cls", "data.max_length=65"], "max_position_embeddings=64"),
    (["evaluate", "cls", "data.test=unknown-label.tsv"], "'odd'"),
    (["evaluate", "cls", "data.split_seed=1"], "no longer split"),
    (["evaluate", "qa", "data=good.tsv"], "good.tsv is not JSON"),
    (["evaluate", "qa", "data.test=none.json"], "none.json"),
    (["evaluate", "pre", "data=empty.txt"], "empty.txt is empty"),
    (["evaluate", "bare"], "name one with data="),
    (["evaluate", "no-tokenizer"], "no-tokenizer has no tokenizer"),
    (["evaluate", "strange"], "the tokenizer of strange has"),
    (["evaluate", "foreign"], "no config.json"),
    # predict
    (["predict", "cls", ""], "empty text"),
    (["predict", "cls", "It was good.", "  "], "empty text"),
    (["predict", "cls", "It was good.", "--pair", ""], "empty text"),
    (["predict", "cls", "It was good.", "--top", "0"], "top=0"),
    (["predict", "cls", "It was good.", "--context", "It was."], "context is for question-answering, but cls"),
    (["predict", "pre", "It was [MASK].", "--pair", "It was."], "pair is for text-classification, but pre"),
    (["predict", "pre", "It was good."], "'It was good.' has no [MASK]"),
    (["predict", "pre", "word " * 100 + "[MASK]"], "has no [MASK] among the tokens that the model reads"),
    (["predict", "pre", ""], "empty text"),
    (["predict", "qa", "Where?"], "--context TEXT or @FILE"),
    (["predict", "qa", "Where?", "--context", "@none.txt"], "none.txt cannot be read"),
    (["predict", "qa", "Where?", "--context", "@latin1.txt"], "latin1.txt cannot be read"),
    (["predict", "qa", "Where?", "--context", "@empty"], "empty cannot be read"),
    (["predict", "qa", "Where?", "--context", "@"], "cannot be read"),
    (["predict", "qa", "Where?", "--context", "@empty.txt"], "empty text"),
    (["predict", "qa", "Where?", "--context", ""], "empty text"),
    (["predict", "qa", "", "--context", "It was."], "empty text"),
    (["predict", "qa", "Where?", "--context", "It was.", "--top", "0"], "top=0"),
    (["predict", "no-tokenizer", "It was good."], "no-tokenizer has no tokenizer"),
    (["predict", "strange", "It was good."], "the tokenizer of strange has"),
    (["predict", "bert", "It was good."], "'bert'"),
    (["predict", "none", "It was good."], "does not exist"),
    (["predict", "vision", "photo.png"], "photo.png is not an image"),
]


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


@pytest.mark.parametrize(("words", "expected"), MISTAKES, ids=[" ".join(words)[-80:] for words, _ in MISTAKES])
def test_a_mistake_is_one_line_and_nothing_is_lost(
    widenet: Command, here: Path, words: list[str], expected: str
) -> None:
    before = listing(here)
    result = widenet(*words)
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith("widenet: ")
    assert result.err.count("\n") == 1
    assert expected in result.err
    assert listing(here) == before
