"""The report: what the page shows, what it leaves out and says so, and that it needs nothing from elsewhere."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import pytest
from nested import nest
from torch.utils.tensorboard import SummaryWriter

from widenet.config import WideNetConfig, WideNetTextConfig, WideNetVisionConfig
from widenet.errors import WideNetError
from widenet.reports import read_scalars, write_report

RECIPE = """name: tiny
description: two & <three>
task: image-classification
seed: 3
data: {source: digits}
model: {name: widenet-digits}
training: {epochs: 2}
"""


def tiny_config(**overrides: Any) -> WideNetVisionConfig:
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    return WideNetVisionConfig(**{**sizes, "image_size": 8, "patch_size": 4, "num_labels": 3, **overrides})


def tiny_metrics(**overrides: Any) -> dict[str, Any]:
    metrics = {
        "recipe": "tiny",
        "model": "widenet-tiny",
        "accuracy": 0.875,
        "balance_loss": 1.25,
        "class_accuracy": {"cat": 0.5, "<b>dog</b>": 0.25, "emu": 1.0},
        "expert_load": [[0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.25, 0.25]],
        "test_images": 16,
        "validation_accuracy": 0.75,
        "parameters": 12345,
        "active_parameters": 6789,
        "flops": 4_000_000,
        "active_flops": 2_000_000,
        "epochs": 2.0,
        "best_epoch": 2.0,
        "seconds": 75.2,
        "seed": 3,
        "split": {
            "source": "folder & co",
            "seed": 5,
            "sizes": {"train": 1000, "validation": 8, "test": 16},
            "origin": {"train": "own", "test": "held out of train, 0.2, seed 5"},
            "digest": "abcdef",
        },
        "versions": {"python": "3.11", "torch": "2.9"},
        "commit": "c0ffee",
    }
    return {**metrics, **overrides}


def write_logs(logs: Path, epochs: list[float], first_step: int = 10, **scalars: list[float]) -> None:
    """Write curves as the Trainer's TensorBoard callback does: ``train_loss=`` becomes the tag train/loss."""
    with SummaryWriter(str(logs)) as writer:
        for index, epoch in enumerate(epochs):
            step = first_step * (index + 1)
            writer.add_scalar("train/epoch", epoch, step)
            for name, values in scalars.items():
                writer.add_scalar(name.replace("_", "/", 1), values[index], step)


def write_run(run: Path, config: WideNetConfig | None = None, logs: bool = True, **metrics: Any) -> Path:
    run.mkdir(parents=True)
    (config or tiny_config()).save_pretrained(run)
    (run / "recipe.yaml").write_text(RECIPE)
    (run / "metrics.json").write_text(json.dumps(nest(tiny_metrics(**metrics))))
    if logs:
        curves = {"train_loss": [2.0, 1.0], "eval_loss": [1.5, 0.5], "train_accuracy": [0.25, 0.5]}
        curves |= {"eval_accuracy": [0.5, 0.75], "train_balance_loss": [1.25, 1.125]}
        write_logs(run / "logs", [1.0, 2.0], **curves)
    return run


class Page(HTMLParser):
    """Collects a page's text, its tags with their attributes, and whether every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    def figures(self) -> list[str | None]:
        return [attrs["aria-label"] for tag, attrs in self.tags if tag == "svg"]


def read_page(run: Path) -> Page:
    return Page(write_report(run).read_text(encoding="utf-8"))


# ---- what the page shows ----


def test_the_page_shows_the_run(tmp_path: Path) -> None:
    page = read_page(write_run(tmp_path / "run"))
    assert page.open == []
    assert page.figures() == ["Loss", "Accuracy", "Balance loss", "Expert load per block"]
    for words in (
        "tiny widenet-tiny",
        "2 blocks of width 8; a mixture of 4 experts, 2 for each token, in every block",
        "Test accuracy 87.50% on 16 images",
        "75.00% of the weights kept, after epoch 2",
        "Parameters 12,345",
        "6,789 55% of all",
        "2 million 2,000,000; 4 million if every expert ran",
        "1 min 15 s 2 epochs",
        "Seed 3",
        "1/4 = 25%",
        "Most: expert 3 in block 0 with 40.0%. Least: expert 0 in block 0 with 10.0%.",
        "1.250, where 1 is perfectly balanced",
        "folder & co",
        "1,000 images (the source's own)",
        "16 images (held out of train, 0.2, seed 5)",
        "abcdef",
        "seed: 3",
        "c0ffee",
        "torch 2.9",
    ):
        assert words in page.text


def test_classes_come_worst_first(tmp_path: Path) -> None:
    text = read_page(write_run(tmp_path / "run")).text
    assert text.index("dog</b> 25.0%") < text.index("cat 50.0%") < text.index("emu 100.0%")
    assert "mean over 3 classes is 58.33%" in text  # (0.25 + 0.5 + 1) / 3


def test_of_many_classes_only_the_worst_are_listed(tmp_path: Path) -> None:
    accuracies = {f"class-{index:03}": index / 101 for index in range(101)}
    text = read_page(write_run(tmp_path / "run", class_accuracy=accuracies)).text
    assert re.findall(r"class-\d+", text) == [f"class-{index:03}" for index in range(20)]
    assert "Of more than 100 classes" in text


def test_balance_loss_is_shown_as_it_was_logged(tmp_path: Path) -> None:
    # The log holds the mean per routing operation.
    text = read_page(write_run(tmp_path / "run")).text
    assert "the mean per routing operation" in text and "1.25 " in text


def test_zero_is_a_value_and_not_a_gap(tmp_path: Path) -> None:
    text = read_page(write_run(tmp_path / "run", accuracy=0.0, seed=0)).text
    assert "Test accuracy 0.00%" in text and "Seed 0" in text


def test_curves_without_epochs_are_drawn_over_steps(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", logs=False)
    with SummaryWriter(str(run / "logs")) as writer:
        writer.add_scalar("train/loss", 1.0, 10)
    page = read_page(run)
    assert page.figures() == ["Loss", "Expert load per block"] and " step " in page.text


# ---- runs on text ----


def write_text_run(run: Path, curves: dict[str, list[float]], epochs: list[float], **metrics: Any) -> Path:
    """Write the run of a text task; ``curves`` by the names of :func:`write_logs`."""
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    run.mkdir()
    WideNetTextConfig(**sizes, embedding_size=4, vocab_size=50).save_pretrained(run)
    (run / "recipe.yaml").write_text(
        RECIPE.replace("image-classification", str(metrics["task"])).replace("digits}", "x, max_length: 96}", 1)
    )
    image_only = ("accuracy", "validation_accuracy", "class_accuracy", "test_images")
    common = {key: value for key, value in tiny_metrics().items() if key not in image_only}
    (run / "metrics.json").write_text(json.dumps(nest(common | metrics)))
    balance = {"train_balance_loss": [2.5] * len(epochs)}
    write_logs(run / "logs", epochs, **balance, **curves)
    return run


def test_pretraining_is_compared_with_guessing_by_frequency(tmp_path: Path) -> None:
    scores = {"mlm_loss": 3.25, "mlm_accuracy": 0.4, "sentence_order_accuracy": 0.75}
    run = write_text_run(
        tmp_path / "run",
        {
            "train_loss": [5.0, 4.0],
            "train_accuracy": [0.1, 0.2],
            "eval_loss": [4.5, 4.0],
            "eval_mlm_loss": [4.0, 3.5],
            "eval_mlm_accuracy": [0.3, 0.35],
            "eval_sentence_order_accuracy": [0.5, 0.75],
            "eval_unigram_loss": [6.125, 6.125],
        },
        [0.5, 1.0],  # validated within the epoch: over steps
        task="pretraining",
        headline=[*scores],
        **scores,
        validation_mlm_loss=3.5,
        best_epoch=0.5,
        unigram_loss=6.25,
        tokens_per_second=12345,
        test_segments=16,
        split={"source": "books", "sizes": {"train": 1000}, "tokens": {"train": 96000}, "documents": 7},
    )
    page = read_page(run)
    assert page.figures() == [
        *("Loss", "MLM loss", "MLM accuracy", "Sentence-order accuracy", "Balance loss", "Expert load per block")
    ]
    for words in (
        "Test MLM loss 3.250 on 16 segments; unigram loss 6.250",
        "Test MLM accuracy 40.00%",
        "Test sentence-order accuracy 75.00%",
        "Validation MLM loss 3.500 of the weights kept, after epoch 0.5",
        "2,000,000 for 96 tokens",
        "FLOPs per text, active",
        "12,345 tokens/s",
        "The line is the unigram loss",
        "MLM loss 3.250 3.500 Unigram loss 6.250 –",
        "the step whose weights were kept",
        "unigram",
        "chance",
        "on the test segments",
        "1,000 segments, 96,000 tokens",
        "documents 7",
    ):
        assert words in page.text
    assert " step " in page.text and "images" not in page.text and "Accuracy by class" not in page.text


def test_classification_shows_both_tests_of_mnli(tmp_path: Path) -> None:
    matched, mismatched = {"accuracy": 0.5, "macro_f1": 0.25, "loss": 1.0}, {"accuracy": 0.75, "macro_f1": 0.5}
    run = write_text_run(
        tmp_path / "run",
        {"train_loss": [1.0], "eval_loss": [1.0], "train_accuracy": [0.5], "eval_accuracy": [0.625]},
        [1.0],
        task="text-classification",
        headline=["accuracy"],
        **{f"matched_{key}": value for key, value in matched.items()},
        **{f"mismatched_{key}": value for key, value in mismatched.items()},
        matched_examples=20,
        validation_accuracy=0.625,
    )
    page = read_page(run)
    assert page.figures() == ["Loss", "Accuracy", "Balance loss", "Expert load per block"]
    assert "Test accuracy 50.00% on 20 texts; matched; mismatched 75.00%" in page.text
    assert "matched mismatched validation Accuracy 50.00% 75.00% 62.50% Macro F1 25.00% 50.00% –" in page.text
    assert "measured on the texts as trained on" in page.text and " epoch " in page.text


def test_regression_shows_correlations(tmp_path: Path) -> None:
    run = write_text_run(
        tmp_path / "run",
        {"train_loss": [1.0], "eval_pearson": [-0.25], "eval_spearman": [0.5]},
        [1.0],
        task="text-classification",
        headline=["pearson", "spearman"],
        pearson=-0.25,
        spearman=0.5,
        loss=2.0,
    )
    page = read_page(run)
    assert page.figures()[1:3] == ["Pearson correlation", "Spearman correlation"]
    assert "Test Pearson correlation -0.250" in page.text and "loss 2.000" in page.text.lower()


def test_question_answering_tells_answerable_from_unanswerable(tmp_path: Path) -> None:
    run = write_text_run(
        tmp_path / "run",
        {"train_loss": [1.0], "eval_f1": [50.0], "eval_exact": [40.0]},
        [1.0],
        task="question-answering",
        headline=["f1", "exact"],
        f1=60.0,
        exact=50.0,
        HasAns_f1=70.0,
        HasAns_exact=65.0,
        NoAns_f1=30.0,
        NoAns_exact=30.0,
        best_exact=55.0,
        best_exact_thresh=-1.5,
        best_f1=62.0,
        best_f1_thresh=0.25,
        validation_f1=50.0,
        test_questions=10,
    )
    page = read_page(run)
    assert page.figures() == ["Loss", "F1", "Exact match", "Balance loss", "Expert load per block"]
    for words in (
        "Test F1 60.00% on 10 questions",
        "Validation F1 50.00% of the weights kept",
        "test answerable unanswerable validation Exact match 50.00% 65.00% 30.00% – F1 60.00% 70.00% 30.00% 50.00%",
        "That threshold -1.500",
        "Exact match with the best threshold 55.00%",
        "on the test windows",
        "FLOPs per window",
    ):
        assert words in page.text


def test_the_summary_of_several_seeds_lists_them(tmp_path: Path) -> None:
    seeds = {"0": {"accuracy": 0.5}, "1": {"accuracy": 0.75}}
    (tmp_path / "metrics.json").write_text(json.dumps(nest({"accuracy": 0.625, "seeds": seeds})))
    text = read_page(tmp_path).text
    assert "Accuracy 0 50.00% 1 75.00%" in text and "median of 2 seeds" in text


# ---- what it leaves out ----


def test_without_logs(tmp_path: Path) -> None:
    page = read_page(write_run(tmp_path / "run", logs=False))
    assert page.figures() == ["Expert load per block"]
    assert "no TensorBoard logs" in page.text


def test_dense_model(tmp_path: Path) -> None:
    page = read_page(write_run(tmp_path / "run", tiny_config(moe_layers="none"), expert_load=[None, None]))
    assert page.figures() == ["Loss", "Accuracy"]
    assert "there is no balance loss" in page.text and "the model has no experts" in page.text
    assert "no mixture of experts" in page.text


def test_dense_blocks_keep_the_numbers_of_the_others(tmp_path: Path) -> None:
    config = tiny_config(moe_layers=[1])
    text = read_page(write_run(tmp_path / "run", config, expert_load=[None, [0.1, 0.2, 0.3, 0.4]])).text
    assert "Most: expert 3 in block 1" in text and "not shown have no experts" in text and "in 1 of them" in text


def test_metrics_alone_make_a_page(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text(json.dumps(nest({})))
    page = read_page(tmp_path)
    assert page.open == [] and page.figures() == []
    assert page.text.count("Left out: ") == 5  # scores, curves, expert load, data, recipe


def test_a_diverged_run_still_has_a_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", logs=False)
    write_logs(run / "logs", [1.0, 2.0], train_loss=[2.0, float("nan")], eval_loss=[float("inf"), float("nan")])
    page = read_page(run)
    assert page.figures() == ["Loss", "Expert load per block"] and "training diverged" in page.text


# ---- how it is made ----


def test_the_page_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    text = write_report(write_run(tmp_path / "run")).read_text(encoding="utf-8")
    page = Page(text)
    assert "http" not in text and "@import" not in text and "url(" not in text.replace("url(#", "")
    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "image", "iframe", "object"}
    references = {value for _, attrs in page.tags for key, value in attrs.items() if key.endswith(("href", "src"))}
    assert all(str(reference).startswith("#") for reference in references)
    assert str(tmp_path) not in text


def test_figures_follow_the_text_colour_and_keep_their_ids_apart(tmp_path: Path) -> None:
    text = write_report(write_run(tmp_path / "run")).read_text(encoding="utf-8")
    for svg in re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL):
        ElementTree.fromstring(svg.replace("<svg ", '<svg xmlns:xlink="x" ', 1))  # well-formed
        assert "currentColor" in svg and "#010203" not in svg and "<style" not in svg
    ids = [attrs["id"] for _, attrs in Page(text).tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:url\(|href=")#(\w+)', text)) <= set(ids)


def test_everything_is_escaped(tmp_path: Path) -> None:
    bad = "<script>alert('x')</script>"
    run = write_run(
        tmp_path / "run",
        recipe=bad,
        model=bad,
        class_accuracy={bad: 1.0},
        commit=bad,
        versions={bad: bad},
        split={"source": bad, "seed": bad, "sizes": {bad: 1}, "origin": {bad: bad}, "digest": bad},
    )
    (run / "recipe.yaml").write_text(RECIPE.replace("two & <three>", json.dumps(bad)))
    page = read_page(run)
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.text.count(bad) == 15 and page.open == []


def test_the_same_run_gives_the_same_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path / "run")
    first = write_report(run).read_bytes()
    monkeypatch.setitem(mpl.rcParams, "axes.facecolor", "red")  # a user's own style
    settings = dict(mpl.rcParams)
    second = write_report(run, tmp_path / "new" / "page.html")
    assert second.read_bytes() == first
    assert dict(mpl.rcParams) == settings
    assert [file.name for file in second.parent.iterdir()] == ["page.html"]  # nothing half-written beside it


def test_later_logs_win_where_a_resumed_run_overlaps(tmp_path: Path) -> None:
    write_logs(tmp_path, [1.0, 2.0], train_loss=[4.0, 3.0])
    with SummaryWriter(str(tmp_path), filename_suffix=".resumed") as writer:
        writer.add_scalar("train/loss", 2.0, 20)
        writer.add_scalar("train/loss", 1.0, 30)
    assert read_scalars(tmp_path)["train/loss"] == {10: 4.0, 20: 2.0, 30: 1.0}


def test_a_truncated_log_gives_what_it_still_holds(tmp_path: Path) -> None:
    write_logs(tmp_path, [1.0, 2.0], train_loss=[4.0, 3.0])
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-5])
    assert read_scalars(tmp_path)["train/loss"] == {10: 4.0}


# ---- errors ----


def test_errors_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(WideNetError, match="does not exist"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(WideNetError, match=r"no metrics.json; `widenet evaluate .*` tests it"):
        write_report(tmp_path)
    run = write_run(tmp_path / "run")
    (run / "report.html").mkdir()
    with pytest.raises(WideNetError, match="cannot be written"):
        write_report(run)
    assert not (run / "report.html.partial").exists()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", b"{"),
        ("config.json", b'{"model_type": "widenet_vision", "num_experts": "many"}'),
        ("config.json", b"[1]"),
        ("recipe.yaml", b"a: ["),
        ("recipe.yaml", b"\xff\xfe"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, file: str, content: bytes) -> None:
    run = write_run(tmp_path / "run")
    (run / file).write_bytes(content)
    with pytest.raises(WideNetError, match=re.escape(file)) as caught:
        write_report(run)
    assert "\n" not in str(caught.value)
