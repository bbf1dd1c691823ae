"""The command line: what each command prints, and that every mistake is one line and exit code 2."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

import widenet_cli
from widenet.models.presets import create_model, list_models
from widenet.recipes import list_recipes, load_recipe
from widenet.runs.run import Run as RunFolder
from widenet.tasks.images import ImageClassification
from widenet.training.callbacks import Clock
from widenet.training.run import train

TINY = [
    "model.image_size=8",
    "model.patch_size=2",
    "model.hidden_size=32",
    "model.num_hidden_layers=2",
    "model.num_attention_heads=2",
    "model.intermediate_size=32",
    "training.batch_size=256",
    "epochs=1",
]


Command = Callable[..., Any]  # the fixture `widenet` of conftest.py


def run_script(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "widenet_cli", *words], cwd=cwd, capture_output=True, text=True, check=False
    )


def picture(path: Path, size: tuple[int, int] = (12, 10)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(str(path))).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run `run`, and with folders of images and of damaged runs to make mistakes with."""
    root = tmp_path_factory.mktemp("cli")
    train(load_recipe("digits", TINY), root / "run")
    for name in ("cat", "dog"):
        for index in range(6):
            picture(root / "photos" / name / f"{index}.png")
    for index in range(6):
        picture(root / "one-class" / "cat" / f"{index}.png")
    (root / "empty").mkdir()
    shutil.copytree(root / "photos", root / "truncated")
    broken = root / "truncated/cat/3.png"
    broken.write_bytes(broken.read_bytes()[:80])
    shutil.copytree(root / "photos", root / "text")
    (root / "text/dog/2.png").write_text("no image")
    (root / "foreign").mkdir()
    (root / "foreign/thesis.txt").write_text("years of work")
    (root / "file").write_text("x")
    (root / "broken.yaml").write_text("a: [1")
    for name, model_type in (("bert", "bert"), ("no-weights", "widenet_vision")):
        (root / name).mkdir()
        described = {"model_type": model_type, "architectures": ["WideNetForImageClassification"]}
        (root / name / "config.json").write_text(json.dumps(described))
    shutil.copytree(root / "run", root / "no-checkpoints", ignore=shutil.ignore_patterns("checkpoints"))
    shutil.copytree(root / "run", root / "incomplete", ignore=shutil.ignore_patterns("checkpoints"))
    tensors = load_file(root / "run/model.safetensors")
    del tensors["classifier.bias"]
    save_file(tensors, root / "incomplete/model.safetensors", metadata={"format": "pt"})
    shutil.copytree(root / "run", root / "no-processor", ignore=shutil.ignore_patterns("checkpoints", "pre*"))
    return root


@pytest.fixture
def here(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make that folder the current one; no test may change it."""
    monkeypatch.chdir(trained)
    return trained


# ---- what each command does ----


def test_help_and_listing_recipes_without_a_command(widenet: Command) -> None:
    for words in (["--help"], ["-h"], ["train", "--help"]):
        result = widenet(*words)
        assert result.code == 0
        assert "Usage" in result.out
    shown = widenet("--help").out
    for command in ("train", "evaluate", "predict", "models", "recipes", "compare", "report"):
        assert command in shown


def test_help_needs_no_pytorch(tmp_path: Path) -> None:
    program = (
        "import sys; sys.argv = ['widenet', '--help']\n"
        "import widenet_cli\n"
        "try: widenet_cli.main()\n"
        "except SystemExit as end: assert not end.code\n"
        "loaded = {'torch', 'transformers', 'numpy', 'timm', 'widenet'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage" in done.stdout


def test_models(widenet: Command) -> None:
    rows = json.loads(widenet("models", "--json").out)
    assert [row["model"] for row in rows] == list_models()
    by_name = {row["model"]: row for row in rows}
    assert by_name["widenet-b16"]["published"] is not None
    assert by_name["widenet-b16"]["parameters"] // 1_000_000 == 29
    assert by_name["widenet-b16"]["active_GFLOPs"] < by_name["widenet-b16"]["GFLOPs"]
    assert by_name["widenet-digits"]["published"] is None
    result = widenet("models")
    assert (result.code, result.err) == (0, "")
    for name in list_models():
        assert name in result.out


def test_models_of_the_paper(widenet: Command) -> None:
    rows = json.loads(widenet("models", "--paper", "--json").out)
    assert {row["table"] for row in rows} == {"1", "2", "3", "4", "5"}
    assert all(row["parameters"] > 1_000_000 for row in rows)
    assert len(widenet("models", "--paper").out.splitlines()) > len(rows)


def test_recipes(widenet: Command) -> None:
    rows = json.loads(widenet("recipes", "--json").out)
    assert [row["recipe"] for row in rows] == list_recipes()
    result = widenet("recipes")
    for name in list_recipes():
        assert name in result.out


def test_train_says_how_it_ended(widenet: Command, tmp_path: Path) -> None:
    output = tmp_path / "out"
    result = widenet("train", "digits", *TINY, "--output", str(output))
    assert result.code == 0
    metrics = json.loads((output / "metrics.json").read_text())
    *_, epoch, last = result.out.splitlines()
    assert "validation accuracy" in epoch
    assert f"test accuracy {metrics['test']['']['accuracy']:.2%} on 359 images" in last
    assert str(output) in last


def test_train_names_the_run_after_the_recipe(
    widenet: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert widenet("train", "digits", *TINY, "name=mine").code == 0
    assert (tmp_path / "runs/mine/metrics.json").is_file()


def test_evaluate(widenet: Command, here: Path) -> None:
    recorded = json.loads((here / "run/metrics.json").read_text())
    result = widenet("evaluate", "run", "--json", "training.eval_batch_size=64")
    assert json.loads(result.out)["test"][""]["accuracy"] == recorded["test"][""]["accuracy"]
    result = widenet("evaluate", "run", "training.eval_batch_size=64")
    assert (result.code, result.err) == (0, "")
    assert f"{recorded['test']['']['accuracy']:.2%}" in result.out


def test_evaluate_output(widenet: Command, here: Path, tmp_path: Path) -> None:
    assert widenet("evaluate", "run", "--output", str(tmp_path / "new")).code == 0
    assert json.loads((tmp_path / "new/metrics.json").read_text())["test"][""]["examples"] == 359


def test_predict(widenet: Command, here: Path) -> None:
    paths = ["photos/cat/1.png", "photos/dog/0.png"]
    rows = json.loads(widenet("predict", "run", *paths, "--json", "--top", "4").out)
    assert [row["image"] for row in rows] == paths
    assert [len(row["classes"]) for row in rows] == [4, 4]
    assert set(rows[0]["classes"][0]) == {"label", "probability"}
    lines = widenet("predict", "run", *paths).out.splitlines()
    assert [line.split(": ")[0] for line in lines] == paths
    best = rows[0]["classes"][0]
    assert lines[0].startswith(f"{paths[0]}: {best['label']} {best['probability']:.1%}  ")
    assert lines[0].count("%") == 3


def test_predict_takes_more_classes_than_there_are(widenet: Command, here: Path) -> None:
    rows = json.loads(widenet("predict", "run", "photos/cat/1.png", "--json", "--top", "99").out)
    assert len(rows[0]["classes"]) == 10


def test_report(widenet: Command, here: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    result = widenet("report", "run", "--output", str(page))
    assert result.out.strip() == str(page)
    assert page.read_text(encoding="utf-8").lstrip().lower().startswith("<!doctype html")


def test_compare(widenet: Command, here: Path) -> None:
    rows = json.loads(widenet("compare", "run", "no-checkpoints", "--json").out)
    assert [row["name"] for row in rows] == ["run", "no-checkpoints"]
    assert rows[0]["accuracy"] == rows[1]["accuracy"]
    result = widenet("compare", "run", "no-checkpoints")
    assert result.code == 0
    assert f"{rows[0]['accuracy']:.2%}" in result.out


def test_tables_are_not_cut_in_a_pipe(widenet: Command) -> None:
    rows = json.loads(widenet("recipes", "--json").out)
    assert all("…" not in line for line in widenet("recipes").out.splitlines())
    assert rows[0]["description"] in " ".join(widenet("recipes").out.split())


# ---- mistakes ----

TRAIN = ["train", "digits", *TINY, "--output", "new"]
AGAIN = ["train", "digits", *TINY, "--output"]

MISTAKES: list[tuple[list[str], str]] = [
    # recipe, key, value
    (["train", "digit"], "did you mean 'digits'"),
    (["train", "none.yaml"], "none.yaml"),
    (["train", "broken.yaml"], "not valid YAML"),
    ([*TRAIN, "training.epoch=3"], "did you mean 'training.epochs'"),
    ([*TRAIN, "epochs"], "key=value"),
    ([*TRAIN, "epochs=many"], "training.epochs='many'"),
    ([*TRAIN, "epochs=0"], "training.epochs=0"),
    ([*TRAIN, "training.learning_rate=-1"], "training.learning_rate=-1"),
    ([*TRAIN, "training.optimizer=adam"], "'adamw', 'lamb' or 'sgd'"),
    ([*TRAIN, "training.betas=[0.9,1]"], "training.betas"),
    ([*TRAIN, "training.precision=fp16", "training.device=cpu"], "fp16"),
    ([*TRAIN, "data.augment.auto_augment=foo"], "data.augment.auto_augment='foo'"),
    # model
    ([*TRAIN, "model=widenet-digit"], "did you mean 'widenet-digits'"),
    ([*TRAIN, "model.hiden_size=64"], "did you mean 'hidden_size'"),
    ([*TRAIN, "model.hidden_size=wide"], "hidden_size"),
    ([*TRAIN, "model.num_experts_per_tok=5"], "num_experts_per_tok=5"),
    ([*TRAIN, "model.num_routing_groups=3"], "num_routing_groups=3 must divide"),
    ([*TRAIN, "model.num_attention_heads=5"], "num_attention_heads=5 must divide"),
    ([*TRAIN, "model.patch_size=3"], "patch_size=3 must divide"),
    ([*TRAIN, "model.capacity_factor=0"], "capacity_factor=0"),
    ([*TRAIN, "model.moe_layers=[7]"], "block 7"),
    ([*TRAIN, "model.num_labels=3"], "num_labels"),
    ([*TRAIN, "model.num_channels=1"], "num_channels=1"),
    ([*TRAIN, "model=./none"], "none does not exist"),
    ([*TRAIN, "model=empty"], "no config.json"),
    ([*TRAIN, "model=bert"], "'bert'"),
    ([*TRAIN, "model=./run", "model.hidden_size=64"], "model.hidden_size=64"),
    (["train", "cifar10-finetune", "--output", "new"], "model="),
    # data
    ([*TRAIN, "data=digitz"], "did you mean 'digits'"),
    ([*TRAIN, "data=./none"], "'./none' does not exist"),
    ([*TRAIN, "data=empty"], "empty"),
    ([*TRAIN, "data=one-class"], "only one class"),
    ([*TRAIN, "data=truncated"], "truncated/cat/3.png is truncated"),
    ([*TRAIN, "data=text"], "text/dog/2.png is not an image"),
    ([*TRAIN, "data=file"], "file"),
    ([*TRAIN, "data.test_fraction=0.999"], "test_fraction=0.999"),
    (["train", "image-folder", "--output", "new"], "data="),
    # output folder
    ([*AGAIN, "run"], "`widenet train --resume run` goes on with it, --overwrite replaces it"),
    ([*AGAIN, "run", "--resume", "--overwrite"], "exclude each other"),
    ([*AGAIN, "run", "--resume", "seed=1"], "seed=0, not 1"),
    ([*AGAIN, "run", "--overwrite", "model=widenet-digit"], "did you mean"),
    ([*AGAIN, "new", "--resume"], "nothing to resume"),
    ([*AGAIN, "no-checkpoints", "--resume"], "no complete checkpoint"),
    ([*AGAIN, "foreign"], "not empty"),
    ([*AGAIN, "foreign", "--overwrite"], "not empty"),
    ([*AGAIN, "file"], "is a file"),
    ([*AGAIN, "file/new"], "cannot be written"),
    # trained models
    (["evaluate", "none"], "does not exist"),
    (["evaluate", "empty"], "no config.json"),
    (["evaluate", "bert"], "'bert'"),
    (["evaluate", "no-weights", "data=digits"], "no model.safetensors"),
    (["evaluate", "incomplete"], "classifier.bias"),
    (["evaluate", "no-processor"], "no preprocessor_config.json"),
    (["evaluate", "run", "data=photos"], "do not match the model"),
    (["evaluate", "run", "data.split_seed=1"], "no longer split"),
    (["evaluate", "run", "data.split_sed=1"], "did you mean"),
    (["evaluate", "run", "--output", "file"], "cannot be written"),
    (["predict", "none", "photos/cat/1.png"], "does not exist"),
    (["predict", "run", "none.png"], "none.png does not exist"),
    (["predict", "run", "text/dog/2.png"], "text/dog/2.png is not an image"),
    (["predict", "run", "truncated/cat/3.png"], "truncated/cat/3.png is truncated"),
    (["predict", "run", "empty"], "empty has no image files"),
    (["predict", "run", "@none.txt"], "none.txt cannot be read"),
    (["predict", "run", "photos/cat/1.png", "--top", "0"], "top=0"),
    (["report", "none"], "does not exist"),
    (["report", "empty"], "no metrics.json"),
    (["compare", "run", "empty"], "no metrics.json"),
]


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


@pytest.mark.parametrize(("words", "expected"), MISTAKES, ids=lambda value: " ".join(value)[:80])
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


def test_a_bug_is_not_taken_for_a_mistake(monkeypatch: pytest.MonkeyPatch, widenet: Command, here: Path) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr("widenet.runs.compare.compare_runs", broken)
    monkeypatch.setattr(sys, "argv", ["widenet", "compare", "run"])
    with pytest.raises(ValueError, match="a bug"):
        widenet_cli.main()


def test_no_library_adds_a_line(trained: Path) -> None:
    # in a process of its own, since pytest does not see what libraries log to the real stderr
    done = run_script("evaluate", "incomplete", cwd=trained)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "classifier.bias" in done.stderr


# ---- Ctrl-C ----


def test_ctrl_c_leaves_a_run_that_goes_on_as_it_says(tmp_path: Path) -> None:
    command = ["train", "digits", *TINY[:-1], "epochs=1000", "--output", "a run"]
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "widenet_cli", *command],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("epoch"):
                process.send_signal(signal.SIGINT)
                break
        _, err = process.communicate()
    assert process.returncode == 130
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert err.strip().endswith("To go on: widenet train --resume 'a run'")
    assert RunFolder(tmp_path / "a run").last_checkpoint() is not None


def interrupt(monkeypatch: pytest.MonkeyPatch, step: int, times: int) -> None:
    def on_step_begin(self: Any, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step + 1 == step:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Clock, "on_step_begin", on_step_begin)


def test_the_line_that_says_how_to_go_on_is_right(
    monkeypatch: pytest.MonkeyPatch, widenet: Command, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        interrupt(patch, step=3, times=1)
        result = widenet("train", "digits", *TINY, "--output", str(tmp_path / "a run"))
    assert result.code == 130
    assert "the run is saved" in result.err
    words = shlex.split(result.err.split("To go on: ")[1])
    assert words[0] == "widenet"
    assert widenet(*words[1:]).code == 0
    assert (tmp_path / "a run/metrics.json").is_file()


def test_ctrl_c_twice_before_anything_was_saved(
    monkeypatch: pytest.MonkeyPatch, widenet: Command, tmp_path: Path
) -> None:
    interrupt(monkeypatch, step=2, times=2)
    result = widenet("train", "digits", *TINY, "--output", str(tmp_path / "out"))
    assert result.code == 130
    assert "nothing was saved" in result.err
    assert "--resume" not in result.err


def test_ctrl_c_while_testing_keeps_the_run(monkeypatch: pytest.MonkeyPatch, widenet: Command, tmp_path: Path) -> None:
    def evaluate(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ImageClassification, "test", evaluate)
        result = widenet("train", "digits", *TINY, "--output", str(tmp_path / "out"))
    assert result.code == 130
    assert "--resume" in result.err
    assert widenet("train", "digits", *TINY, "--output", str(tmp_path / "out"), "--resume").code == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["trian"], "'train'"),
        (["--foo"], "--foo"),
        (["train"], "'RECIPE'"),
        (["train", "digits", "--sedes", "3"], "--seeds"),
        (["train", "digits", "--seeds", "x"], "'--seeds'"),
        (["predict", "run"], "INPUT"),
    ],
)
def test_a_wrong_command_line_is_one_line(widenet: Command, words: list[str], expected: str) -> None:
    result = widenet(*words)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("widenet: ")
    assert result.err.count("\n") == 1
    assert expected in result.err


def test_no_arguments_show_the_help(widenet: Command) -> None:
    result = widenet()
    assert "Usage" in result.out + result.err
    assert "train" in result.out + result.err


def test_widen(widenet: Command, tmp_path: Path) -> None:
    source, output = tmp_path / "dense", tmp_path / "wide"
    dense = create_model("vit-digits")
    dense.save_pretrained(source)
    words = ["widen", str(source), "--experts", "3", "--init", "0", "--group-size", "2", "--output", str(output)]
    result = widenet(*words, "--json")
    assert result.code == 0
    counts = {row["model"]: row["parameters"] for row in json.loads(result.out)}
    assert counts["source"] == sum(p.numel() for p in dense.parameters())
    config = json.loads((output / "config.json").read_text())
    assert (config["num_experts"], config["num_sharing_groups"], config["normalize_gates"]) == (3, 2, True)
    for changed, named in (
        ([], "exists already"),
        (["--output", str(tmp_path / "new"), "--experts", "0"], "num_experts=0"),
        (["--output", str(tmp_path / "new"), "--init", "block"], "did you mean 'blocks'"),
        (["--output", str(tmp_path / "new"), "--group-size", "3"], "group_size=3"),
    ):
        result = widenet(*words, *changed)
        assert result.code == 2 and result.err.count("\n") == 1 and named in result.err
        assert not (tmp_path / "new").exists()
    result = widenet("widen", str(tmp_path / "none"), "--output", str(tmp_path / "new"))
    assert result.code == 2 and "does not exist" in result.err
