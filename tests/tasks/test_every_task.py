"""Every task goes through all that a user can do with a run; so does the one that ``docs/add-a-task.md`` adds."""

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from transformers import BertConfig, BertModel, ViTConfig, ViTForImageClassification

from widenet import Run, WideNetError, export_onnx
from widenet.data.text.tokenizer import train_wordpiece
from widenet.recipes import load_recipe
from widenet.recipes.schema import RECIPES
from widenet.tasks import TASKS, find_task, metric_of

ROOT = Path(__file__).parent.parent.parent
BOOK = ROOT / "tests/files/northanger.txt"
PAGE = (ROOT / "docs/add-a-task.md").read_text(encoding="utf-8")
TINY = [
    *("model.hidden_size=32", "model.num_hidden_layers=2", "model.num_attention_heads=2"),
    "model.intermediate_size=32",
]
TEXT = ["model=widenet-text-tiny", *TINY, "model.vocab_size=200", "data.max_length=16", "training.batch_size=16"]
STEPS = "training.max_steps=3"

# name: the recipe, its overrides, and what is predicted with which options; None without a head
CASES: dict[str, tuple[str, list[str], tuple[list[str], dict[str, Any]] | None]] = {
    "image-classification": ("digits", TINY, (["photos/0.png"], {"top": 2})),
    "image-regression": ("image-regression.yaml", ["data=photos", *TINY], (["photos/0.png"], {})),
    "pretraining": (
        "mlm-text",
        ["data=book.txt", *TEXT, "data.validation_fraction=0.1", "data.test_fraction=0.1", "training.eval_steps=0"],
        (["she was [MASK] ."], {"top": 2}),
    ),
    "text-classification": ("text-classification", ["data=rows.tsv", *TEXT], (["a good day"], {"top": 2})),
    "question-answering": (
        "question-answering",
        ["data=questions.json", *TEXT, "data.doc_stride=4"],
        (["where ?"], {"context": "it was in Bath ."}),
    ),
    "text-distillation": ("distill-text", ["data=book.txt", "model=bert", "data.max_length=16"], None),
    "image-distillation": ("distill-images", ["data=digits", "model=vit"], (["photos/0.png"], {"top": 2})),
}


@pytest.fixture(scope="module", autouse=True)
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with data and dense models for all tasks, and the task of the page."""
    here, rng = tmp_path_factory.mktemp("here"), np.random.default_rng(0)
    text = BOOK.read_text(encoding="utf-8")[:20_000]
    (here / "book.txt").write_text(text, encoding="utf-8")
    (here / "rows.tsv").write_text("sentence\tlabel\n" + "a good day\tgood\na bad day\tbad\n" * 30)
    asked = [
        {
            "title": f"{number}",
            "paragraphs": [
                {
                    "context": f"it was in Bath {number}",
                    "qas": [
                        {"id": str(number), "question": "where ?", "answers": [{"text": "Bath", "answer_start": 10}]}
                    ],
                }
            ],
        }
        for number in range(40)
    ]
    (here / "questions.json").write_text(json.dumps({"data": asked}))
    (here / "photos").mkdir()
    rows = ["file,number"]
    for number in range(60):
        bright = int(rng.integers(20, 230))
        Image.new("RGB", (16, 16), (bright,) * 3).save(here / f"photos/{number}.png")
        rows.append(f"{number}.png,{bright / 255}")
    (here / "photos/labels.csv").write_text("\n".join(rows) + "\n")
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    tokenizer = train_wordpiece([text], 200)
    bert = BertConfig(**sizes, intermediate_size=32, vocab_size=len(tokenizer), max_position_embeddings=16)
    torch.manual_seed(0)
    BertModel(bert).save_pretrained(here / "bert")
    tokenizer.save_pretrained(here / "bert")
    vit = ViTConfig(**sizes, intermediate_size=32, image_size=8, patch_size=4, num_labels=10)
    ViTForImageClassification(vit).save_pretrained(here / "vit")

    python, yaml = (re.search(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL) for kind in ("python", "yaml"))
    assert python and yaml
    (here / "image_regression.py").write_text(python[1])
    (here / "image-regression.yaml").write_text(yaml[1])
    spec = spec_from_file_location("image_regression", here / "image_regression.py")
    assert spec and spec.loader
    module = module_from_spec(spec)
    sys.modules["image_regression"] = module
    spec.loader.exec_module(module)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield here
    for registry in (TASKS, RECIPES, sys.modules):
        registry.pop("image-regression" if registry is not sys.modules else "image_regression", None)


def test_every_task_has_a_case() -> None:
    assert set(CASES) == set(TASKS)


@pytest.mark.parametrize("name", CASES)
def test_a_task_goes_through_everything(name: str, tmp_path: Path, widenet: Callable[..., Any]) -> None:
    recipe, overrides, prediction = CASES[name]
    run = tmp_path / "run"

    trained = widenet("train", recipe, *overrides, STEPS, "--output", str(run))
    assert trained.code == 0, trained.err
    metrics, task = Run(run).metrics, find_task(name)
    assert metrics["task"] == name == load_recipe(recipe).task
    assert Run(run).task is task
    headline = {key: metric_of(task, key).text(metrics["test"][""][key]) for key in metrics["headline"]}
    assert headline

    # every place shows the same value in the same way
    evaluated = widenet("evaluate", str(run))
    compared = widenet("compare", str(run), str(run))
    assert widenet("report", str(run)).code == 0
    page, card = (run / "report.html").read_text(), ModelCard.load(run / "README.md")
    for key, text in headline.items():
        for place in (trained.out, evaluated.out, compared.out, page, card.content):
            assert text in place, (key, text)
        assert metric_of(task, key).title in page
    assert Run(run).metrics["test"][""].keys() == metrics["test"][""].keys()
    assert json.loads(widenet("evaluate", str(run), "--json").out)["test"][""].keys() == metrics["test"][""].keys()

    if prediction is None:
        assert card.data.pipeline_tag == "feature-extraction"
        assert widenet("predict", str(run), "a text").code == 2
    else:
        inputs, options = prediction
        (found,) = Run(run).predict(inputs, **options)
        assert found.input == inputs[0]
        assert (found.value is None) == bool(found.answers)
        flags = ["--context", options["context"]] if "context" in options else []
        shown = widenet("predict", str(run), *inputs, *flags)
        assert shown.code == 0 and shown.out.startswith(inputs[0])
        assert widenet("predict", str(run), *inputs, "--pair", "x", "--context", "y").code == 2  # of no task

    export_onnx(run, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").stat().st_size > 1000


def test_a_name_is_taken_once() -> None:
    with pytest.raises(WideNetError, match="the task 'pretraining' is Pretraining"):
        type("Other", (TASKS["question-answering"],), {"name": "pretraining"})


def test_an_unknown_task_is_not_taken_for_another(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("name: x\ntask: image-clasification\n")
    with pytest.raises(WideNetError, match="unknown task 'image-clasification'; did you mean 'image-classification'"):
        load_recipe(str(tmp_path / "recipe.yaml"))
    (tmp_path / "recipe.yaml").write_text("name: x\n")
    with pytest.raises(WideNetError, match="the recipe lacks task, one of "):
        load_recipe(str(tmp_path / "recipe.yaml"))
    shutil.copytree("bert", tmp_path / "bert")
    with pytest.raises(WideNetError, match="holds a 'bert' model"):
        Run(tmp_path / "bert").predict(["a text"])
