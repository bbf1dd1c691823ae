"""Text, from a book and a few lines of data to scores: tokenizer, pretraining, fine-tuning, predictions."""

import io
import json
import math
import random
import re
import shlex
import shutil
import signal
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, AutoModelForQuestionAnswering, pipeline
from transformers.utils import logging

import widenet_cli
from widenet.convert.folder import load_model
from widenet.data.text.questions import QuestionsSection, load_questions
from widenet.data.text.tokenizer import load_tokenizer, train_wordpiece
from widenet.errors import WideNetError
from widenet.models.text import WideNetForPreTraining, WideNetForQuestionAnswering
from widenet.recipes import Recipe, load_recipe
from widenet.runs.evaluate import evaluate_run
from widenet.runs.run import Run as RunFolder
from widenet.tasks import TASKS, metric_of
from widenet.tasks.metrics import Tally
from widenet.tasks.pretraining import Pretraining
from widenet.tasks.sentences import SentenceClassification
from widenet.tasks.squad import squad_scores
from widenet.training.callbacks import Clock
from widenet.training.run import Interrupted, train
from widenet.training.seeds import train_seeds

BOOK = Path(__file__).parent.parent / "files/northanger.txt"
# every kind of randomness that a step can have
SMALL = [
    *("model=widenet-text-tiny", "model.hidden_size=32", "model.num_attention_heads=2", "model.embedding_size=16"),
    *("model.intermediate_size=32", "model.vocab_size=400", "model.max_position_embeddings=48"),
    *("model.hidden_dropout_prob=0.1", "data.max_length=48"),
]
# 5 steps an epoch
PRE = [
    *(*SMALL, "data=book.txt", "data.validation_fraction=0.04", "data.test_fraction=0.04"),
    *("training.eval_steps=0", "training.batch_size=96", "training.learning_rate=5e-3", "epochs=2"),
]
TIMES = ("commit", "command", "seconds", "outside_step_fraction", "tokens_per_second", "examples_per_second")
NAMES = ["Catherine", "Isabella", "Henry", "John", "Eleanor", "James"]
PLACES = ["Bath", "London", "Oxford", "Fullerton", "Putney", "Salisbury"]
GOOD, BAD = ("happy", "pleased", "delighted"), ("sad", "sorry", "angry")


@pytest.fixture(scope="module", autouse=True)
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Put the corpus where tests run, its cache not into the home folder, and nothing on the terminal."""
    here = tmp_path_factory.mktemp("here")
    (here / "book.txt").write_text(BOOK.read_text(encoding="utf-8")[:60_000], encoding="utf-8")
    logging.disable_progress_bar()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
    logging.enable_progress_bar()


def comparable(metrics: Any) -> Any:
    """Return nested metrics without what differs from run to run."""
    if not isinstance(metrics, dict):
        return metrics
    return {key: comparable(value) for key, value in metrics.items() if key not in TIMES}


def flat(rows: list[list[float]]) -> list[float]:
    return [value for row in rows for value in row]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def refusal(*arguments: Any, **options: Any) -> str:
    """Return the message with which training is refused, which must be one line."""
    with pytest.raises(WideNetError) as caught:
        train(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def interrupted(monkeypatch: pytest.MonkeyPatch, chosen: Recipe, folder: Path, step: int) -> None:
    """Train until Ctrl-C arrives in this step, counted from 1."""

    def on_step_begin(self: Any, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step + 1 == step:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Clock, "on_step_begin", on_step_begin)
        with pytest.raises(Interrupted):
            train(chosen, folder)
    checkpoint = RunFolder(folder).last_checkpoint()
    assert checkpoint is not None
    assert checkpoint.name == f"checkpoint-{step}"
    assert not (folder / "metrics.json").exists()


# ---- data ----


def sentences(path: Path, count: int, seed: int = 0, labels: tuple[str, str] = ("bad", "good")) -> Path:
    """Write sentences with a label that one word of each tells."""
    rng = random.Random(seed)
    rows = []
    for index in range(count):
        word = rng.choice(GOOD if index % 2 else BAD)
        rows.append(f"{rng.choice(NAMES)} was {word} at {rng.choice(PLACES)}.\t{labels[index % 2]}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["sentence\tlabel", *rows]) + "\n", encoding="utf-8")
    return path


def pairs(path: Path, count: int, seed: int) -> Path:
    """Write pairs in MNLI's columns: the second sentence follows from the first, contradicts it, or does neither."""
    rng = random.Random(seed)
    rows = ["sentence1\tsentence2\tgold_label"]
    for index in range(count):
        name, there = rng.choice(NAMES), rng.choice(PLACES)
        label = ("entailment", "neutral", "contradiction")[index % 3]
        second = {"entailment": f"{name} was there.", "neutral": "It rained.", "contradiction": f"{name} was not."}
        rows.append(f"{name} was at {there}.\t{second[label]}\t{label}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def squad(path: Path, articles: int, seed: int = 0, impossible: bool = False) -> Path:
    """Write questions in SQuAD's format; of 2.0, one in four has no answer."""
    data = []
    for article in range(articles):
        rng = random.Random(100 * seed + article)
        lives = dict(zip(rng.sample(NAMES, 3), rng.sample(PLACES, 3), strict=True))
        context = " ".join(f"{name} lives in {place}." for name, place in lives.items())
        asked: list[dict[str, Any]] = [
            {
                "id": f"{seed}-{article}-{name}",
                "question": f"Where does {name} live?",
                "answers": [{"text": place, "answer_start": context.index(place)}],
            }
            for name, place in lives.items()
        ]
        if impossible:
            nobody = {"question": "Who has ever been in Rome?", "answers": [], "is_impossible": True}
            asked.append({"id": f"{seed}-{article}-nobody", **nobody})
        data.append({"title": f"article {seed} {article}", "paragraphs": [{"context": context, "qas": asked}]})
    path.write_text(json.dumps({"version": "test", "data": data}), encoding="utf-8")
    return path


# ---- runs that the tests share; none of them may change one ----

Run = tuple[Path, dict[str, Any]]


def pretraining(*overrides: str) -> Recipe:
    return load_recipe("mlm-text", [*PRE, *overrides])


@pytest.fixture(scope="module")
def pretrained(quiet: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Tokenizer and model, made of a book."""
    folder = tmp_path_factory.mktemp("runs") / "pretrained"
    return folder, train(pretraining(), folder)


@pytest.fixture(scope="module")
def tuning(pretrained: Run) -> list[str]:
    return [
        *(f"model={pretrained[0]}", "data.max_length=24", "training.batch_size=16", "training.learning_rate=1e-2"),
        *("training.warmup_epochs=0.2", "model.hidden_dropout_prob=0"),
    ]


@pytest.fixture(scope="module")
def classified(tuning: list[str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A classifier, fine-tuned from the pretrained model; its recipe is `train.tsv`'s."""
    root = tmp_path_factory.mktemp("runs")
    data = sentences(root / "train.tsv", 200)
    recipe = load_recipe("text-classification", [*tuning, f"data={data}", "epochs=5"])
    return root / "out", train(recipe, root / "out")


@pytest.fixture(scope="module")
def answered(tuning: list[str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """SQuAD 1.1."""
    root = tmp_path_factory.mktemp("runs")
    chosen = [f"data={squad(root / 'train.json', 30)}", "data.doc_stride=8", "epochs=2"]
    return root / "out", train(load_recipe("question-answering", [*tuning, *chosen]), root / "out")


@pytest.fixture(scope="module")
def answered2(tuning: list[str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """SQuAD 2.0; contexts are longer than a window."""
    root = tmp_path_factory.mktemp("runs")
    chosen = [f"data={squad(root / 'train.json', 30, impossible=True)}", "data.doc_stride=8", "epochs=2"]
    return root / "out", train(load_recipe("question-answering", [*tuning, *chosen]), root / "out")


# ---- the whole chain ----


def test_pretraining_leaves_every_file(pretrained: Run) -> None:
    folder, _ = pretrained
    assert {path.name for path in folder.iterdir()} == {
        *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
        *("recipe.yaml", "metrics.json", "README.md", "logs", "checkpoints"),
    }
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"checkpoint-5", "checkpoint-10"}
    assert any((folder / "logs").rglob("events.out.tfevents.*"))
    assert load_recipe(str(folder / "recipe.yaml")) == pretraining().with_absolute_paths()
    tokenizer = load_tokenizer(folder)
    assert (len(tokenizer), tokenizer.model_max_length) == (400, 48)
    config = json.loads((folder / "config.json").read_text())
    assert (config["vocab_size"], config["architectures"]) == (400, ["WideNetForPreTraining"])


@pytest.mark.parametrize("name", ["pretrained", "classified", "answered", "answered2"])
def test_the_card_of_a_run(
    name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, metrics = request.getfixturevalue(name)
    card = ModelCard.load(folder / "README.md")
    found = {(each.dataset_split, each.metric_name): each.metric_value for each in card.data.eval_results}
    for key in metrics["headline"]:
        title = metric_of(TASKS[metrics["task"]], key).title
        assert found["test", title] == metrics["test"][""][key]
        assert found["validation", title] == metrics["validation"][key]
    monkeypatch.chdir(folder)
    exec(re.findall(r"```python\n(import widenet.*?)```", card.text, re.DOTALL)[0], {})
    assert capsys.readouterr().out.startswith("[")
    for words in re.findall(r"`widenet (predict \. [^`]+)`", card.text):
        monkeypatch.setattr(sys, "argv", ["widenet", *shlex.split(words)])
        with pytest.raises(SystemExit) as caught:
            widenet_cli.main()
        assert not caught.value.code and capsys.readouterr().out


def test_pretraining_metrics_are_complete_and_consistent(pretrained: Run) -> None:
    folder, returned = pretrained
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics == json.loads(json.dumps(returned))
    assert set(metrics) == {
        *("recipe", "task", "headline", "model", "test", "validation", "training", "split", "versions", "commit")
    }
    scores = {"mlm_loss", "mlm_accuracy", "unigram_loss", "sentence_order_loss", "sentence_order_accuracy", "loss"}
    assert set(metrics["validation"]) == scores
    assert set(metrics["test"][""]) == scores | {"balance_loss", "expert_load", "examples", "examples_per_second"}
    assert (metrics["recipe"], metrics["task"], metrics["model"]["name"]) == (
        "mlm-text",
        "pretraining",
        "widenet-text-tiny",
    )
    assert metrics["headline"] == ["mlm_loss", "mlm_accuracy", "sentence_order_accuracy"]
    assert (metrics["training"]["epochs"], metrics["training"]["steps"], metrics["training"]["best_epoch"]) == (
        2.0,
        10,
        2.0,
    )
    assert metrics["test"][""]["mlm_loss"] < math.log(400)  # better than knowing nothing
    assert 4 < metrics["test"][""]["unigram_loss"] < math.log(400)
    assert metrics["test"][""]["sentence_order_loss"] == pytest.approx(
        math.log(2), abs=0.05
    )  # which takes longer to learn
    assert metrics["test"][""]["examples"] == metrics["split"]["sizes"]["test"]
    assert metrics["training"]["tokens_per_second"] > 0
    assert metrics["model"]["active_parameters"] < metrics["model"]["parameters"]
    for shares in metrics["test"][""]["expert_load"]:
        assert sum(shares) == pytest.approx(1)


def test_the_tie_is_saved_once_and_kept(pretrained: Run) -> None:
    folder, metrics = pretrained
    for file in (folder / "model.safetensors", *folder.glob("checkpoints/*/model.safetensors")):
        tensors = load_file(file)
        assert "masked_lm.decoder.weight" not in tensors
        assert sum(tensor.numel() for tensor in tensors.values()) == metrics["model"]["parameters"]
    model = load_model(folder, WideNetForPreTraining)
    assert model.masked_lm.decoder.weight is model.model.embeddings.word_embeddings.weight


def test_the_best_checkpoint_is_loaded_with_its_tie(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = iter([-1.0, -2.0])
    kept: list[Pretraining] = []

    def validate(task: Pretraining) -> dict[str, float]:
        kept.append(task)
        return {**dict.fromkeys(task.headline, 0.0), "selection": next(found)}

    monkeypatch.setattr(Pretraining, "validate", validate)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        metrics = train(pretraining(), tmp_path)
    assert metrics["training"]["best_epoch"] == 1.0
    best = load_file(tmp_path / "checkpoints/checkpoint-5/model.safetensors")
    for name, tensor in load_file(tmp_path / "model.safetensors").items():
        assert torch.equal(tensor, best[name]), name
    model = kept[0].model
    assert model.masked_lm.decoder.weight is model.model.embeddings.word_embeddings.weight
    assert torch.equal(model.masked_lm.decoder.weight, best["model.embeddings.word_embeddings.weight"])


@pytest.mark.parametrize("name", ["pretrained", "classified", "answered", "answered2"])
def test_evaluated_again_a_run_reaches_the_same(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    folder, metrics = request.getfixturevalue(name)
    before = contents(folder)
    again = evaluate_run(folder, [], tmp_path)
    assert comparable(again) == json.loads(json.dumps(comparable(metrics)))
    assert contents(folder) == before
    for file in ("predictions.json", "nbest_predictions.json", "null_odds.json"):
        assert (tmp_path / file).exists() == (folder / file).exists()
        if (folder / file).exists():
            assert (tmp_path / file).read_bytes() == (folder / file).read_bytes()
    small = evaluate_run(folder, ["training.eval_batch_size=7"])  # what batches hold, and their padding, is no matter
    for key in metrics["headline"]:
        assert small["test"][""][key] == pytest.approx(metrics["test"][""][key], abs=1e-5)
    assert flat(small["test"][""]["expert_load"]) == pytest.approx(flat(metrics["test"][""]["expert_load"]), abs=1e-3)
    assert small["test"][""]["balance_loss"] == pytest.approx(
        metrics["test"][""]["balance_loss"], rel=0.2
    )  # which is of a batch


def test_classification_learns_and_predicts_as_it_scores(classified: Run, tmp_path: Path) -> None:
    folder, metrics = classified
    assert {path.name for path in folder.iterdir()} == {
        *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
        *("recipe.yaml", "metrics.json", "README.md", "logs", "checkpoints"),
    }
    assert set(metrics["test"][""]) >= {"accuracy", "macro_f1", "loss", "balance_loss", "expert_load"}
    assert (metrics["headline"], metrics["test"][""]["examples"]) == (["accuracy"], 40)
    assert metrics["test"][""]["accuracy"] > 0.8  # and 0.5 by guessing
    other = sentences(tmp_path / "other.tsv", 50, seed=1)
    lines = [line.split("\t") for line in other.read_text().splitlines()[1:]]
    found = RunFolder(folder).predict([text for text, _ in lines], batch_size=7)
    right = sum(each.answers[0][0] == label for each, (_, label) in zip(found, lines, strict=True))
    scored = evaluate_run(folder, [f"data.test={other}"])  # another test file, of no part of the data
    assert scored["test"][""]["examples"] == 50
    assert scored["test"][""]["accuracy"] == pytest.approx(right / 50)
    assert sum(probability for _, probability in found[0].answers) == pytest.approx(1)


@pytest.mark.parametrize("name", ["answered", "answered2"])
def test_official_predictions_score_as_the_metrics_say(name: str, request: pytest.FixtureRequest) -> None:
    folder, metrics = request.getfixturevalue(name)
    predictions = json.loads((folder / "predictions.json").read_text())
    questions = load_questions(QuestionsSection(source=str(folder.parent / "train.json"))).test
    assert set(predictions) == {question.id for question in questions}
    scores = squad_scores(questions, predictions)
    prefixes = {"": "", "answerable": "HasAns_", "unanswerable": "NoAns_"}
    for part, found in metrics["test"].items():
        for key in {"f1", *metrics["headline"], "total"} & set(found):
            assert scores[f"{prefixes[part]}{key}"] == pytest.approx(found[key]), (part, key)
    best = {
        name: entries[0]["text"]
        for name, entries in json.loads((folder / "nbest_predictions.json").read_text()).items()
    }
    assert best == predictions


def test_squad1_metrics(answered: Run) -> None:
    folder, metrics = answered
    assert metrics["headline"] == ["f1", "exact_match"]
    assert list(metrics["test"]) == [""]
    assert set(metrics["validation"]) == {"f1", "exact_match", "total"}
    assert metrics["test"][""]["examples"] == metrics["test"][""]["total"] == 18
    assert not (folder / "null_odds.json").exists()
    assert "" not in json.loads((folder / "predictions.json").read_text()).values()


def test_squad2_metrics_and_predictions(answered2: Run) -> None:
    folder, metrics = answered2
    assert metrics["headline"] == ["f1", "exact"]
    assert [scores["total"] for scores in metrics["test"].values()] == [24, 18, 6]
    for key in ("exact", "f1"):
        whole, some, none = (metrics["test"][part][key] for part in ("", "answerable", "unanswerable"))
        assert whole == pytest.approx((18 * some + 6 * none) / 24)
        assert metrics["test"][""][f"best_{key}"] >= whole - 1e-9
    odds = json.loads((folder / "null_odds.json").read_text())
    predictions = json.loads((folder / "predictions.json").read_text())
    assert set(odds) == set(predictions)
    assert {name for name, text in predictions.items() if not text} == {name for name in odds if odds[name] > 0}
    # the threshold that is said to be best gives the score that is said to be best
    questions = load_questions(QuestionsSection(source=str(folder.parent / "train.json"))).test
    nbest = json.loads((folder / "nbest_predictions.json").read_text())
    answers = {name: next(entry["text"] for entry in entries if entry["text"]) for name, entries in nbest.items()}
    for key in ("exact", "f1"):
        scores = squad_scores(questions, answers, odds, null_threshold=metrics["test"][""][f"best_{key}_thresh"])
        assert scores[key] == pytest.approx(metrics["test"][""][f"best_{key}"])


def test_answers_of_a_run(answered: Run, answered2: Run) -> None:
    asked, context = (
        ["Where does Henry live?", "Who has ever been in Rome?"],
        "Henry lives in Bath. John lives in Oxford.",
    )
    for found in RunFolder(answered[0]).predict(asked, context=context, top=3, doc_stride=4):
        assert len(found.answers) == 3
        assert all(text and text in context for text, _ in found.answers)
    second = RunFolder(answered2[0]).predict(asked, context=context, top=30)
    assert all("" in dict(found.answers) for found in second)  # trained on questions without an answer
    without = RunFolder(answered2[0]).predict(asked, context=context, top=30, with_impossible=False)
    assert not any("" in dict(found.answers) for found in without)
    bare = shutil.copytree(answered2[0], answered2[0].parent / "bare", ignore=shutil.ignore_patterns("metrics*"))
    assert not any("" in dict(found.answers) for found in RunFolder(bare).predict(asked, context=context, top=30))


# ---- the same again ----


@pytest.mark.parametrize("step", [3, 10])
def test_interrupted_pretraining_ends_as_if_it_had_not_been(
    monkeypatch: pytest.MonkeyPatch, pretrained: Run, tmp_path: Path, step: int
) -> None:
    interrupted(monkeypatch, pretraining(), tmp_path, step)
    metrics = train(pretraining(), tmp_path, resume=True)
    assert weights(tmp_path) == weights(pretrained[0])
    assert comparable(metrics) == comparable(pretrained[1])


def test_interrupted_between_steps_that_validate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    chosen = pretraining("training.eval_steps=2", "training.max_steps=5")
    metrics = train(chosen, tmp_path / "whole")
    interrupted(monkeypatch, chosen, tmp_path / "cut", 3)
    assert comparable(train(chosen, tmp_path / "cut", resume=True)) == comparable(metrics)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_same_seed_same_run_with_any_number_of_workers(pretrained: Run, tmp_path: Path) -> None:
    torch.manual_seed(99)  # what happened before must not matter
    train(pretraining("data.num_workers=1"), tmp_path / "same")
    assert weights(tmp_path / "same") == weights(pretrained[0])
    other = train(pretraining("seed=1", "training.max_steps=2"), tmp_path / "other")
    assert other["split"] == pretrained[1]["split"]  # which has a seed of its own


def test_interrupted_fine_tuning_ends_as_if_it_had_not_been(
    monkeypatch: pytest.MonkeyPatch, classified: Run, tmp_path: Path
) -> None:
    chosen = load_recipe(str(classified[0] / "recipe.yaml"))
    interrupted(monkeypatch, chosen, tmp_path, 4)
    assert comparable(train(chosen, tmp_path, resume=True)) == comparable(classified[1])
    assert weights(tmp_path) == weights(classified[0])


def test_a_worker_process_does_not_change_question_answering(answered2: Run, tmp_path: Path) -> None:
    metrics = train(load_recipe(str(answered2[0] / "recipe.yaml"), ["data.num_workers=1"]), tmp_path)
    assert comparable(metrics) == comparable(answered2[1])
    assert weights(tmp_path) == weights(answered2[0])


# ---- steps ----


def lines_of(chosen: Recipe, folder: Path) -> tuple[list[str], dict[str, Any]]:
    text = io.StringIO()
    metrics = train(chosen, folder, console=Console(file=text, width=200))
    return text.getvalue().splitlines(), metrics


def test_validation_every_few_steps_and_after_the_last(tmp_path: Path) -> None:
    lines, metrics = lines_of(pretraining("training.eval_steps=3", "training.max_steps=7"), tmp_path)
    assert metrics["training"]["steps"] == 7
    assert lines[0].startswith("mlm-text: widenet-text-tiny, ")
    assert len(lines) == 4  # steps 3, 6 and 7
    for line in lines[1:]:
        for part in ("loss", "balance", "training accuracy", "validation MLM loss", "sentence-order accuracy"):
            assert part in line
    assert len({line.split("  validation")[0] for line in lines[1:]}) == 3  # each with its own training loss


def test_fewer_steps_than_between_validations(tmp_path: Path) -> None:
    lines, metrics = lines_of(pretraining("training.eval_steps=100", "training.max_steps=2"), tmp_path)
    assert (metrics["training"]["steps"], len(lines)) == (2, 2)
    assert "training accuracy" in lines[1]
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"checkpoint-2"}


def test_more_steps_than_epochs_say(tmp_path: Path) -> None:
    text = io.StringIO()
    chosen = pretraining("training.max_steps=6", "epochs=1")
    metrics = train(chosen, tmp_path, console=Console(file=text, width=200, force_terminal=True))
    assert (metrics["training"]["steps"], metrics["training"]["epochs"]) == (6, 1.2)
    assert "1.2/2 " in text.getvalue()  # of the epochs that 6 steps take
    assert "segments/s" in text.getvalue()


def test_batches_of_one_and_larger_than_the_set(tmp_path: Path) -> None:
    one = train(pretraining("training.batch_size=1", "training.max_steps=3"), tmp_path / "one")
    assert one["training"]["epochs"] == pytest.approx(3 / one["split"]["sizes"]["train"], abs=5e-4)
    assert train(pretraining("training.batch_size=9999", "epochs=1"), tmp_path / "all")["training"]["steps"] == 1


def test_early_stopping(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    losses = iter([3.0, 4.0, 5.0, 6.0])

    def validate(task: Pretraining) -> dict[str, float]:
        return {**dict.fromkeys(task.headline, 0.0), "selection": -next(losses)}

    monkeypatch.setattr(Pretraining, "validate", validate)
    chosen = pretraining("training.eval_steps=2", "training.max_steps=10", "training.early_stopping_patience=2")
    metrics = train(chosen, tmp_path)
    assert (metrics["training"]["steps"], metrics["training"]["best_epoch"]) == (6, pytest.approx(2 / 5))


def test_pretraining_without_sentence_order_and_with_single_tokens(tmp_path: Path) -> None:
    few = ["training.max_steps=2", "data.sentence_order=false", "data.masking=token"]
    metrics = train(pretraining(*few), tmp_path)
    assert metrics["headline"] == ["mlm_loss", "mlm_accuracy"]
    assert not any("sentence_order" in key for key in metrics)
    assert comparable(evaluate_run(tmp_path, [])) == json.loads(json.dumps(comparable(metrics)))


# ---- kinds of sentences ----


def test_two_development_parts(
    tuning: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    pairs(tmp_path / "mnli/train.tsv", 60, 0)
    pairs(tmp_path / "mnli/dev_matched.tsv", 12, 1)
    pairs(tmp_path / "mnli/dev_mismatched.tsv", 15, 2)
    chosen = [*tuning, f"data={tmp_path / 'mnli'}", "training.max_steps=0", "training.warmup_steps=0", "epochs=1"]
    words = ["train", "mnli", *chosen, "training.gradient_accumulation_steps=1", "--output", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["widenet", *words])
    with pytest.raises(SystemExit) as end:
        widenet_cli.main()
    assert not end.value.code
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert metrics["split"]["sizes"] == {"train": 54, "validation": 6, "matched": 12, "mismatched": 15}
    assert {part: scores["examples"] for part, scores in metrics["test"].items()} == {"matched": 12, "mismatched": 15}
    assert metrics["test"]["mismatched"]["loss"] != metrics["test"]["matched"]["loss"]
    for scores in metrics["test"].values():
        assert {"accuracy", "macro_f1", "loss", "balance_loss", "expert_load"} <= set(scores)
    *_, last = capsys.readouterr().out.splitlines()
    for part in ("matched", "mismatched"):
        assert f"{part} accuracy {metrics['test'][part]['accuracy']:.2%}  " in last.replace(" on 27", "  on 27")
    (found,) = RunFolder(tmp_path / "out").predict(["Henry was at Bath."], pair="Henry was there.")
    assert {name for name, _ in found.answers} == {"entailment", "neutral", "contradiction"}
    (other,) = RunFolder(tmp_path / "out").predict(["Henry was at Bath."], pair="It rained.")
    assert dict(found.answers) != dict(other.answers)  # the second text is read


def test_regression(tuning: list[str], tmp_path: Path) -> None:
    data = sentences(tmp_path / "numbers.tsv", 120, labels=("-1.5", "2"))
    chosen = [*tuning, f"data={data}", "data.regression=true", "epochs=4"]
    lines, metrics = lines_of(load_recipe("text-classification", chosen), tmp_path / "out")
    assert metrics["headline"] == ["pearson", "spearman"]
    assert metrics["test"][""]["pearson"] > 0.5
    assert metrics["test"][""]["loss"] < 1.75**2  # of the mean, between the two numbers: 1.75 off
    assert "training accuracy" not in lines[1]  # nothing is right or wrong
    assert "accuracy" not in metrics["test"][""]
    sad, happy = RunFolder(tmp_path / "out").predict(["Henry was sad at Bath.", "Henry was happy at Bath."])
    assert sad.value is not None
    assert happy.value is not None
    assert sad.value < happy.value
    assert sad.answers == []
    assert comparable(evaluate_run(tmp_path / "out", [])) == json.loads(json.dumps(comparable(metrics)))
    # and on with the same numbers: the head is kept
    again = [*tuning, f"data={data}", f"model={tmp_path / 'out'}", "data.regression=true", "training.max_steps=1"]
    train(load_recipe("text-classification", [*again, "training.learning_rate=1e-12"]), tmp_path / "again")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "again"))
    assert torch.allclose(after["classifier.weight"], before["classifier.weight"])


def test_texts_that_are_cut_are_counted(tuning: list[str], tmp_path: Path) -> None:
    data = sentences(tmp_path / "train.tsv", 40)
    text = data.read_text().replace("Henry", "Henry " * 30)
    data.write_text(text)
    long = text.count("Henry " * 30)
    chosen = load_recipe("text-classification", [*tuning, f"data={data}", "training.max_steps=1"])
    lines, _ = lines_of(chosen, tmp_path / "out")
    assert long > 0
    assert lines[1] == f"{long} texts are cut at data.max_length=24 tokens"
    short, cut = RunFolder(tmp_path / "out").predict(["Henry was sad.", "Henry " * 30])
    assert (short.cut, cut.cut) == (False, True)


# ---- several seeds ----


def test_seeds(classified: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = load_recipe(str(classified[0] / "recipe.yaml"), ["epochs=1"])
    summary = train_seeds(chosen, tmp_path / "out", 3)
    each = {seed: json.loads((tmp_path / f"out/seed-{seed}/metrics.json").read_text()) for seed in range(3)}
    for key in ("accuracy", "loss", "macro_f1"):
        for part in (lambda metrics: metrics["test"][""], lambda metrics: metrics["validation"]):
            assert part(summary)[key] == sorted(part(metrics)[key] for metrics in each.values())[1]
    assert summary["seeds"] == {str(seed): {"accuracy": each[seed]["test"][""]["accuracy"]} for seed in range(3)}
    assert len({metrics["test"][""]["loss"] for metrics in each.values()}) == 3
    assert (summary["training"]["steps"], summary["test"][""]["examples"]) == (each[0]["training"]["steps"], 40)
    assert type(summary["training"]["steps"]) is int
    assert json.loads((tmp_path / "out/metrics.json").read_text()) == summary

    # a half-finished one: seed 0 is done, seed 1 was interrupted, seed 2 not begun
    shutil.copytree(tmp_path / "out/seed-0", tmp_path / "half/seed-0")
    interrupted(monkeypatch, chosen.model_copy(update={"seed": 1}), tmp_path / "half/seed-1", 4)
    before = contents(tmp_path / "half/seed-0")
    with pytest.raises(WideNetError, match="seed-0 already holds a run; --resume goes on"):
        train_seeds(chosen, tmp_path / "half", 3)
    again = train_seeds(chosen, tmp_path / "half", 3, resume=True)
    assert contents(tmp_path / "half/seed-0") == before
    assert again["seeds"] == summary["seeds"]
    assert comparable(again) == comparable(summary)
    # one more seed, without the others anew; with other settings, nothing
    with pytest.raises(WideNetError, match=r"training\.epochs=1\.0, not 0\.5; it may only grow"):
        train_seeds(load_recipe(str(classified[0] / "recipe.yaml"), ["epochs=0.5"]), tmp_path / "half", 4, resume=True)
    assert not (tmp_path / "half/seed-3").exists()
    # longer, and all of them are
    shutil.copytree(tmp_path / "half", tmp_path / "long")
    long = train_seeds(
        load_recipe(str(classified[0] / "recipe.yaml"), ["epochs=2"]), tmp_path / "long", 3, resume=True
    )
    every = [RunFolder(tmp_path / f"long/seed-{seed}").metrics["training"]["epochs"] for seed in range(3)]
    assert every == [2.0] * 3 and long["training"]["epochs"] == 2.0
    fewer = train_seeds(chosen, tmp_path / "half", 1, overwrite=True)
    assert list(fewer["seeds"]) == ["0"]
    assert weights(tmp_path / "half/seed-0") == weights(tmp_path / "out/seed-0")


# ---- from one model to the next ----

FROZEN = ["training.learning_rate=1e-12", "training.weight_decay=0", "training.max_steps=1"]


@pytest.mark.parametrize("task", ["text-classification", "question-answering"])
def test_fine_tuning_keeps_the_encoder(task: str, pretrained: Run, tuning: list[str], tmp_path: Path) -> None:
    data = sentences(tmp_path / "train.tsv", 40) if task == "text-classification" else squad(tmp_path / "q.json", 8)
    train(load_recipe(task, [*tuning, f"data={data}", *FROZEN]), tmp_path / "out")
    before, after = (load_file(folder / "model.safetensors") for folder in (pretrained[0], tmp_path / "out"))
    head = {"classifier.weight", "classifier.bias"} if task == "text-classification" else {"span.weight", "span.bias"}
    assert set(after) - set(before) == head
    for name in set(after) - head:
        assert torch.allclose(after[name], before[name], atol=1e-9), name
    encoder = {name for name in before if name.startswith(("model.encoder", "model.embeddings"))}
    assert encoder <= set(after)
    weight = next(after[name] for name in head if name.endswith("weight"))
    assert 0.01 < weight.std() < 0.03  # drawn anew, with σ = 0.02
    names = ("tokenizer.json",)
    assert all((tmp_path / "out" / name).read_bytes() == (pretrained[0] / name).read_bytes() for name in names)


def test_a_head_is_kept_for_the_same_classes_only(classified: Run, tuning: list[str], tmp_path: Path) -> None:
    before = load_file(classified[0] / "model.safetensors")
    kept = {}
    for name, labels in (("same", ("bad", "good")), ("other", ("dull", "fine"))):
        data = sentences(tmp_path / f"{name}.tsv", 40, labels=labels)
        chosen = [*tuning, f"model={classified[0]}", f"data={data}", *FROZEN]
        train(load_recipe("text-classification", chosen), tmp_path / name)
        after = load_file(tmp_path / name / "model.safetensors")
        kept[name] = torch.allclose(after["classifier.weight"], before["classifier.weight"], atol=1e-9)
        encoder = "model.encoder.experts.0.up_proj"
        assert torch.allclose(after[encoder], before[encoder], atol=1e-9)
        config = json.loads((tmp_path / name / "config.json").read_text())
        assert list(config["id2label"].values()) == list(labels)
    assert kept == {"same": True, "other": False}


def test_pretraining_goes_on_from_a_pretrained_model(pretrained: Run, tmp_path: Path) -> None:
    without = [override for override in PRE if not override.startswith("model")]
    train(load_recipe("mlm-text", [*without, f"model={pretrained[0]}", *FROZEN]), tmp_path / "out")
    before, after = (load_file(folder / "model.safetensors") for folder in (pretrained[0], tmp_path / "out"))
    assert set(after) == set(before)
    for name, tensor in after.items():
        assert torch.allclose(tensor, before[name], atol=1e-9), name


def test_a_preset_with_a_tokenizer_of_ones_own(pretrained: Run, tmp_path: Path) -> None:
    tokenizer = train_wordpiece(["some words of a small book", "and some more of them"], 300)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    tokens = len(tokenizer)
    assert tokens < 300
    data = sentences(tmp_path / "train.tsv", 40)
    without = [override for override in SMALL if not override.startswith("model.vocab_size")]
    chosen = [*without, f"data={data}", f"data.tokenizer={tmp_path / 'tokenizer'}", "training.max_steps=1"]
    train(load_recipe("text-classification", chosen), tmp_path / "out")
    assert json.loads((tmp_path / "out/config.json").read_text())["vocab_size"] == tokens
    assert load_tokenizer(tmp_path / "out").get_vocab() == tokenizer.get_vocab()
    # a vocabulary that is asked for must fit it; a padded one does
    padded = train(
        load_recipe("text-classification", [*chosen, f"model.vocab_size={tokens + 9}"]), tmp_path / "padded"
    )
    assert (
        padded["model"]["parameters"]
        == json.loads((tmp_path / "out/metrics.json").read_text())["model"]["parameters"] + 9 * 16
    )
    for size in (tokens - 1, tokens + 128):
        message = refusal(load_recipe("text-classification", [*chosen, f"model.vocab_size={size}"]), tmp_path / "new")
        assert f"has {tokens} tokens, but the model has {size}" in message
    # nor does another model's tokenizer fit
    other = [*chosen, f"model={pretrained[0]}"]
    other = [override for override in other if not override.startswith("model.")]
    message = refusal(load_recipe("text-classification", other), tmp_path / "new")
    assert f"has {tokens} tokens, but the model has 400" in message
    assert not (tmp_path / "new").exists()


def test_a_tokenizer_is_trained_for_a_preset(tmp_path: Path) -> None:
    data = sentences(tmp_path / "train.tsv", 60)
    few = ["model.vocab_size=150", "training.max_steps=1"]
    train(load_recipe("text-classification", [*SMALL, f"data={data}", *few]), tmp_path / "out")
    tokenizer = load_tokenizer(tmp_path / "out")
    assert tokenizer.tokenize("Catherine was HAPPY") == ["catherine", "was", "happy"]
    assert json.loads((tmp_path / "out/config.json").read_text())["vocab_size"] == 150
    assert len(tokenizer) <= 150


def test_positions_bound_the_length(pretrained: Run, tuning: list[str], tmp_path: Path) -> None:
    data = sentences(tmp_path / "train.tsv", 40)
    for name, chosen in (("text-classification", tuning), ("mlm-text", PRE)):
        message = refusal(load_recipe(name, [*chosen, f"data={data}", "data.max_length=49"]), tmp_path / "out")
        assert message == "data.max_length=49 is more than max_position_embeddings=48"
    assert not (tmp_path / "out").exists()


# ---- padding ----


def test_padding_is_outside_the_experts_load_and_the_balance_loss(classified: Run) -> None:
    folder, _ = classified
    recipe = load_recipe(str(folder / "recipe.yaml"))
    task = TASKS[recipe.task].reload(recipe, RunFolder(folder).model(), RunFolder(folder).processor())
    assert isinstance(task, SentenceClassification)
    sizes = task.parts["test"].lengths
    assert sizes.min() < sizes.max()
    # the texts of one batch, and the same one by one, without any padding
    by_hand = torch.zeros(2, 4)
    for index in range(len(sizes)):
        batch = task.parts["test"].__getitems__([index])
        with torch.no_grad():
            output = task.model(batch["input_ids"], token_type_ids=batch["token_type_ids"], output_routing=True)
        for block, record in enumerate(output.routing):
            assert len(record.experts) == sizes[index]
            by_hand[block] += torch.bincount(record.experts.flatten(), minlength=4)
    metrics = {"test": task.test()}
    shares = (by_hand / by_hand.sum(1, keepdim=True)).flatten().tolist()
    assert flat(metrics["test"][""]["expert_load"]) == pytest.approx(shares)

    # a batch that is half padding: the mean balance of the batch is that of its tokens
    batch = task.parts["test"].__getitems__(list(range(8)))
    wide = {name: torch.nn.functional.pad(value, (0, 20)) for name, value in batch.items() if name != "labels"}
    found = {}
    for name, inputs in (("tight", batch), ("wide", wide)):
        tally = Tally(task.model.config)
        with torch.no_grad():
            output = task.model(**{key: inputs[key] for key in task.inputs}, output_routing=True)
        tally.add_routing(output, 8, inputs["attention_mask"])
        found[name] = tally.routing()
    assert found["wide"]["balance_loss"] == pytest.approx(found["tight"]["balance_loss"], rel=1e-5)
    assert flat(found["wide"]["expert_load"]) == pytest.approx(flat(found["tight"]["expert_load"]))


# ---- transformers ----


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Iterator[list[str]]:
    """Collect what transformers has to say, at the level that a user has."""
    lines: list[str] = []
    yield lines
    lines += capfd.readouterr().err.splitlines()
    assert not [line for line in lines if "LOAD REPORT" in line or "MISSING" in line or "UNEXPECTED" in line]


def test_fill_mask_pipeline(pretrained: Run, said: list[str]) -> None:
    text = "She was a [MASK] of the house."
    filled = pipeline("fill-mask", model=str(pretrained[0]))(text, top_k=4)
    (expected,) = RunFolder(pretrained[0]).predict([text], top=4)
    assert [(each["token_str"], pytest.approx(each["score"])) for each in filled] == expected.answers
    model = AutoModelForMaskedLM.from_pretrained(pretrained[0])
    tensors = load_file(pretrained[0] / "model.safetensors")
    state = model.state_dict()
    assert {name for name in tensors if name not in state} == {
        *("sentence_order.weight", "sentence_order.bias", "model.pooler.weight", "model.pooler.bias")
    }
    assert all(torch.equal(state[name], tensor) for name, tensor in tensors.items() if name in state)
    assert torch.equal(state["masked_lm.decoder.weight"], tensors["model.embeddings.word_embeddings.weight"])


def test_several_masks(pretrained: Run) -> None:
    found = RunFolder(pretrained[0]).predict(["A [MASK] of [MASK].", "It was [MASK]."], top=2)
    assert [each.input for each in found] == ["A [MASK] of [MASK].", "A [MASK] of [MASK].", "It was [MASK]."]
    assert found[0].answers != found[1].answers


def test_text_classification_pipeline(classified: Run, said: list[str]) -> None:
    text = "Eleanor was delighted at Bath."
    scored = pipeline("text-classification", model=str(classified[0]))(text, top_k=None)
    (expected,) = RunFolder(classified[0]).predict([text])
    assert {each["label"]: pytest.approx(each["score"], abs=1e-6) for each in scored} == dict(expected.answers)
    assert expected.answers[0][0] == "good"


def test_question_answering_of_transformers(answered: Run, said: list[str]) -> None:
    # transformers has no pipeline for it any more; the model and the tokenizer of a run still load by themselves
    model = AutoModelForQuestionAnswering.from_pretrained(answered[0]).eval()
    assert isinstance(model, WideNetForQuestionAnswering)
    question, context = "Where does Henry live?", "Henry lives in Bath."
    tokenizer = load_tokenizer(answered[0])
    encoded = tokenizer(question, context, return_tensors="pt", return_offsets_mapping=True)
    offsets, kinds = encoded.pop("offset_mapping")[0], encoded.sequence_ids()
    with torch.no_grad():
        output = model(**encoded)
    inside = [index for index, kind in enumerate(kinds) if kind == 1]
    pairs_ = [(i, j) for i in inside for j in inside if i <= j]
    first, last = max(pairs_, key=lambda pair: float(output.start_logits[0, pair[0]] + output.end_logits[0, pair[1]]))
    (found,) = RunFolder(answered[0]).predict([question], context=context)
    assert context[offsets[first, 0] : offsets[last, 1]] == found.answers[0][0]
