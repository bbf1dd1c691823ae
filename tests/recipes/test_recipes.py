"""Recipes: what ships is valid, every value can be overridden, and every mistake is one line."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from widenet.data.text.corpus import CorpusSection
from widenet.data.text.tokenizer import TextSection
from widenet.errors import WideNetError
from widenet.models.presets import create_config, list_models
from widenet.recipes import RECIPES, Recipe, build_recipe, list_recipes, load_recipe, parse_yaml, recipe_keys

IMAGES = ["cifar10", "cifar10-finetune", "digits", "distill-images", "fashion-mnist", "image-folder", "imagenet-1k"]
TEXT = ["distill-text", "mlm-text", "mlm-wikipedia-books", "mnli", "question-answering", "squad1", "squad2", "sst2"]
SHIPPED = sorted([*IMAGES, *TEXT, "text-classification"])


def minimal() -> dict[str, Any]:
    return {
        "name": "mine",
        "task": "image-classification",
        "data": {"source": "digits"},
        "model": {"name": "widenet-digits"},
        "training": {"epochs": 1},
    }


def refusal(name: str, *overrides: str) -> str:
    """Return the message with which overrides are refused, which must be one line."""
    with pytest.raises(WideNetError) as caught:
        load_recipe(name, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


# ---- what ships ----


def test_the_shipped_recipes() -> None:
    assert list_recipes() == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipe_is_valid_and_named_as_its_file(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description
    assert "\n" not in recipe.description
    if recipe.model.name is not None:
        assert recipe.model.name in list_models()
        create_config(recipe.model.name, **recipe.model.overrides)


def test_only_recipes_for_own_material_leave_names_open() -> None:
    recipes = [load_recipe(name) for name in SHIPPED]
    without_data = [recipe.name for recipe in recipes if recipe.data.source is None]
    distill = ["distill-images", "distill-text"]
    assert without_data == [*distill, "image-folder", "mlm-text", "question-answering", "text-classification"]
    without_model = [recipe.name for recipe in recipes if recipe.model.name is None]
    assert without_model == ["cifar10-finetune", *distill, "mnli", "squad1", "squad2", "sst2"]


def test_imagenet_recipe_is_table_6() -> None:
    recipe = load_recipe("imagenet-1k")
    training, augment = recipe.training, recipe.data.augment
    assert recipe.data.source == "ILSVRC/imagenet-1k"
    assert recipe.data.validation_fraction == 0.01  # the paper trains on everything: hold out little
    assert (training.epochs, training.warmup_epochs, training.schedule) == (300, 30, "cosine")
    assert training.batch_size * training.gradient_accumulation_steps == 4096
    assert (training.optimizer, training.betas, training.max_grad_norm) == ("lamb", (0.9, 0.999), 1.0)
    assert (training.learning_rate, training.weight_decay) == (0.01, 0.1)
    assert (training.label_smoothing, training.mixup) == (0.1, 0.5)
    assert recipe.model.name == "widenet-b16"
    assert recipe.model.overrides["hidden_dropout_prob"] == 0.1
    assert augment.auto_augment is not None
    assert augment.auto_augment.startswith("rand-")  # RandAugment
    assert augment.crop_area == (0.08, 1.0)  # Inception-style random-resized crop
    assert create_config("widenet-b16", **recipe.model.overrides).image_size == 224


def test_cifar10_finetune_recipe_is_table_6() -> None:
    recipe = load_recipe("cifar10-finetune")
    training = recipe.training
    assert recipe.data.source == "cifar10"
    assert (training.epochs, training.warmup_epochs, training.schedule) == (100, 0, "cosine")
    assert training.batch_size * training.gradient_accumulation_steps == 512
    assert (training.optimizer, training.momentum) == ("sgd", 0.9)
    assert (training.learning_rate, training.weight_decay) == (0.03, 0)
    assert (training.label_smoothing, training.mixup) == (0, 0.5)
    overrides = recipe.model.overrides
    assert overrides == {"image_size": 224, "use_representation": False, "hidden_dropout_prob": 0.1}


# steps, warm-up steps, batch, learning rate, C, λ, dropout, max length
TABLE_7 = {
    "squad1": (3649, 365, 48, 5e-5, 2.0, 0.0, 0.1, 384),
    "squad2": (8144, 814, 48, 3e-5, 1.2, 0.01, 0.0, 512),
    "mnli": (10000, 1000, 128, 3e-5, 1.2, 0.01, 0.0, 512),
    "sst2": (5234, 314, 128, 4e-5, 1.2, 0.01, 0.0, 512),
}


@pytest.mark.parametrize("name", TABLE_7)
def test_fine_tuning_recipe_is_table_7(name: str) -> None:
    recipe = load_recipe(name)
    training, overrides = recipe.training, recipe.model.overrides
    assert isinstance(recipe.data, TextSection)
    found = (
        training.max_steps,
        training.warmup_steps,
        training.batch_size * training.gradient_accumulation_steps,
        training.learning_rate,
        overrides["capacity_factor"],
        overrides["router_aux_loss_coef"],
        overrides["hidden_dropout_prob"],
        recipe.data.max_length,
    )
    assert found == TABLE_7[name]
    assert overrides["attention_probs_dropout_prob"] == overrides["hidden_dropout_prob"]
    assert set(overrides) == {
        *("capacity_factor", "router_aux_loss_coef", "hidden_dropout_prob", "attention_probs_dropout_prob")
    }
    assert recipe.data.source == name
    assert recipe.task == ("question-answering" if name.startswith("squad") else "text-classification")
    # what Table 7 leaves open is BERT's and ALBERT's: AdamW, linear decay to zero, a validation every epoch
    assert (training.optimizer, training.weight_decay, training.schedule) == ("adamw", 0.01, "linear")
    assert training.eval_steps == 0
    assert create_config("widenet-text-e4", **overrides).max_position_embeddings >= recipe.data.max_length


# training examples of the public sets, less the tenth that is held out to validate; SQuAD's in windows of at least one
@pytest.mark.parametrize(
    ("name", "examples"), [("sst2", 67349), ("mnli", 392702), ("squad1", 87599), ("squad2", 130319)]
)
def test_epochs_say_how_many_the_steps_of_table_7_are(name: str, examples: int) -> None:
    training = load_recipe(name).training
    batch = training.batch_size * training.gradient_accumulation_steps
    exact = training.max_steps * batch / (0.9 * examples)
    assert training.epochs == pytest.approx(exact, rel=0.15)


def test_pretraining_recipe_is_the_paper_s() -> None:
    # LAMB, learning rate 0.00176, batch 4096, as ALBERT, which trained for 125,000 steps and warmed up for 3,125
    recipe = load_recipe("mlm-wikipedia-books")
    training, data = recipe.training, recipe.data
    assert isinstance(data, CorpusSection)
    assert (recipe.task, data.source, data.max_length) == ("pretraining", "wikipedia-books", 512)
    assert training.batch_size * training.gradient_accumulation_steps == 4096
    assert (training.optimizer, training.learning_rate, training.weight_decay) == ("lamb", 0.00176, 0.01)
    assert (training.max_steps, training.warmup_steps, training.schedule) == (125_000, 3125, "linear")
    assert training.max_grad_norm == 1.0
    assert (data.masking, data.mask_rate, data.max_ngram, data.sentence_order) == ("ngram", 0.15, 3, True)
    assert recipe.model.name == "widenet-text-e4"
    assert recipe.model.overrides == {}  # the preset's own C and λ
    config = create_config("widenet-text-e4")
    assert (config.capacity_factor, config.router_aux_loss_coef) == (1.2, 0.01)


@pytest.mark.parametrize("name", ["mlm-text", "text-classification", "question-answering"])
def test_recipes_for_own_text_start_from_a_small_model_that_reads_their_length(name: str) -> None:
    recipe = load_recipe(name)
    assert isinstance(recipe.data, TextSection)
    assert recipe.model.name == "widenet-text-mini"
    assert create_config("widenet-text-mini").max_position_embeddings >= recipe.data.max_length


# ---- tasks ----


def test_a_recipe_without_a_task_is_not_taken_for_one_of_images() -> None:
    values = minimal()
    del values["task"]
    with pytest.raises(WideNetError, match="the recipe lacks task, one of image-classification, "):
        build_recipe(values)


def test_every_task_has_recipes() -> None:
    assert {load_recipe(name).task for name in SHIPPED} == set(RECIPES)
    reading_text = {name for name in SHIPPED if isinstance(load_recipe(name).data, TextSection)}
    assert reading_text == set(SHIPPED) - set(IMAGES)


def test_the_caller_s_values_are_left_alone() -> None:
    values = minimal()
    recipe = build_recipe(values, ["seed=3", "data.augment.flip=0.5", "lr=0.25"])
    assert (recipe.seed, recipe.training.learning_rate) == (3, 0.25)
    assert values == minimal()


def test_paths_are_named_from_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.tsv").write_text("x")
    recipe = load_recipe("sst2", ["data=rows.tsv", "data.test=none.tsv", "model=bert-tiny"])
    assert recipe.paths() == {"data.source": "rows.tsv", "data.test": "none.tsv", "model.name": "bert-tiny"}
    absolute = recipe.with_absolute_paths()
    expected = {"data.source": str(tmp_path / "rows.tsv"), "data.test": "none.tsv", "model.name": "bert-tiny"}
    assert absolute.paths() == expected  # what does not exist may be a public name
    assert absolute.with_absolute_paths() == absolute


def test_unknown_task_names_the_nearest() -> None:
    with pytest.raises(WideNetError, match=r"unknown task 'pretrainin'; did you mean 'pretraining'\? Allowed: image-"):
        build_recipe({**minimal(), "task": "pretrainin"})
    for task in (3, None, ["pretraining"]):
        with pytest.raises(WideNetError, match="unknown task"):
            build_recipe({**minimal(), "task": task})


def test_the_task_of_a_recipe_cannot_be_overridden() -> None:
    assert "unknown key 'task'" in refusal("sst2", "task=question-answering")


@pytest.mark.parametrize(
    ("name", "override", "nearest"),
    [
        ("sst2", "training.mixup=0.2", "training."),
        ("mlm-text", "data.augment.flip=0.5", "data."),
        ("mlm-text", "data.doc_stride=64", "data."),
        ("mlm-text", "data.text_column=words", "data."),
        ("squad1", "data.regression=true", "data."),
        ("squad1", "data.mask_rates=0.2", "data."),
        ("text-classification", "data.n_best=3", "data."),
        ("digits", "data.tokenizer=bert", "data."),
        ("digits", "data.max_length=64", "data."),
    ],
)
def test_keys_of_another_task_are_refused(name: str, override: str, nearest: str) -> None:
    message = refusal(name, override)
    assert f"unknown key {override.partition('=')[0]!r}" in message
    assert nearest in message


@pytest.mark.parametrize(
    ("name", "override", "expected"),
    [
        ("mlm-text", "data.mask_rat=0.2", "did you mean 'data.mask_rate'"),
        ("mlm-text", "data.mask_rate=1", "data.mask_rate=1"),
        ("mlm-text", "data.masking=whole-word", "'ngram' or 'token'"),
        ("mlm-text", "data.max_ngram=0", "data.max_ngram=0"),
        ("mlm-text", "data.documents=page", "data.documents='page'"),
        ("mlm-text", "data.sentence_order=1", "data.sentence_order=1"),
        ("mlm-text", "data.max_length=7", "data.max_length=7"),
        ("squad1", "data.doc_strid=3", "did you mean 'data.doc_stride'"),
        ("squad1", "data.doc_stride=0", "data.doc_stride=0"),
        ("squad1", "data.n_best=0", "data.n_best=0"),
        ("squad1", "data.max_answer_length=0", "data.max_answer_length=0"),
        ("sst2", "data.text_colum=a", "did you mean 'data.text_column'"),
        ("sst2", "data.regression=maybe", "data.regression='maybe'"),
        ("sst2", "training.max_step=3", "did you mean 'training.max_steps'"),
        ("sst2", "training.max_steps=-1", "training.max_steps=-1"),
        ("sst2", "training.eval_steps=1.5", "training.eval_steps=1.5"),
        ("sst2", "training.warmup_steps=-1", "training.warmup_steps=-1"),
    ],
)
def test_a_mistake_in_a_text_recipe_is_one_line(name: str, override: str, expected: str) -> None:
    assert expected in refusal(name, override)


def test_keys_of_another_task_in_a_file_are_refused() -> None:
    values = parse_yaml(load_recipe("sst2").dump(), "dump")
    values["data"]["mask_rate"] = 0.15
    with pytest.raises(WideNetError, match=r"unknown key 'data\.mask_rate'"):
        build_recipe(values)


# ---- overrides ----


def test_short_keys() -> None:
    recipe = load_recipe("digits", ["data=cifar10", "model=vit-mini", "seed=7", "epochs=3"])
    assert (recipe.data.source, recipe.model.name) == ("cifar10", "vit-mini")
    assert (recipe.seed, recipe.training.epochs) == (7, 3)


def test_dotted_keys_reach_every_section() -> None:
    overrides = ["name=other", "data.augment.flip=0.5", "data.split_seed=4", "model.num_experts=8"]
    recipe = load_recipe("digits", [*overrides, "training.optimizer=lamb"])
    assert recipe.name == "other"
    assert recipe.data.augment.flip == 0.5
    assert recipe.data.split_seed == 4
    assert recipe.model.overrides["num_experts"] == 8
    assert recipe.training.optimizer == "lamb"
    # and nothing else has changed
    before, after = load_recipe("digits"), recipe
    assert after.training.model_copy(update={"optimizer": "adamw"}) == before.training
    assert after.data.augment.model_copy(update={"flip": before.data.augment.flip}) == before.data.augment


def test_the_last_override_wins() -> None:
    assert load_recipe("digits", ["epochs=3", "training.epochs=4"]).training.epochs == 4


@pytest.mark.parametrize("text", ["1e-3", "0.001", "1.0e-3", ".001", "1E-3"])
def test_numbers_may_be_written_in_any_way(text: str) -> None:
    rate = load_recipe("digits", [f"training.learning_rate={text}"]).training.learning_rate
    assert isinstance(rate, float)
    assert rate == 0.001


def test_model_fields_in_exponent_form_are_numbers_too() -> None:
    assert load_recipe("digits", ["model.layer_norm_eps=1e-5"]).model.overrides["layer_norm_eps"] == 1e-5


def test_an_int_is_taken_where_a_float_is_meant() -> None:
    epochs = load_recipe("digits", ["epochs=2"]).training.epochs
    assert epochs == 2.0
    assert isinstance(epochs, float)


def test_lists_booleans_and_null() -> None:
    recipe = load_recipe(
        "image-folder",
        [
            "training.betas=[0.8, 0.95]",
            "data.augment.crop_area=null",
            "model.moe_layers=[1, 2]",
            "model.capacity_factor=null",
            "model.share_norm=true",
            "data.skip_bad_files=true",
        ],
    )
    assert recipe.training.betas == (0.8, 0.95)
    assert recipe.data.augment.crop_area is None
    assert recipe.data.skip_bad_files is True
    fields = {key: recipe.model.overrides[key] for key in ("moe_layers", "capacity_factor", "share_norm")}
    assert fields == {"moe_layers": [1, 2], "capacity_factor": None, "share_norm": True}


@pytest.mark.parametrize("name", ["2024", "1e5", "true", "a=b", "./x y"])
def test_names_of_files_and_columns_stay_text(name: str) -> None:
    keys = ("test", "validation", "tokenizer", "cache_dir", "text_column", "pair_column", "label_column")
    data = load_recipe("sst2", [f"data.{key}={name}" for key in keys]).data
    assert {getattr(data, key) for key in keys} == {name}


@pytest.mark.parametrize("folder", ["2024", "1e5", "true", "a=b", "./x y"])
def test_a_folder_name_stays_text(folder: str) -> None:
    assert load_recipe("digits", [f"data={folder}"]).data.source == folder
    assert load_recipe("digits", [f"model={folder}"]).model.name == folder


def test_per_image_transforms_are_told_from_batch_ones() -> None:
    plain = ["data.augment.crop_area=null", "data.augment.color_jitter=0"]
    assert not load_recipe("image-folder", plain).data.augment.per_image
    for override in ("crop_area=[0.5,1.0]", "color_jitter=0.1", "auto_augment=rand-m9"):
        assert load_recipe("image-folder", [*plain, f"data.augment.{override}"]).data.augment.per_image


# ---- mistakes ----


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.epoch=3", ["'training.epoch'", "did you mean 'training.epochs'"]),
        ("trainig.batch_size=3", ["'trainig.batch_size'", "did you mean 'training.batch_size'"]),
        ("sed=3", ["'sed'", "did you mean 'seed'"]),
        ("data.augment.flipp=1", ["'data.augment.flipp'", "did you mean 'data.augment.flip'"]),
        ("training=3", ["'training'"]),
        ("data.augment=3", ["'data.augment'"]),
        ("epochs", ["'epochs'", "key=value"]),
        ("=3", ["'=3'", "key=value"]),
        ("training.betas=[0.9", ["training.betas=[0.9", "YAML"]),
        ("epochs=abc", ["training.epochs='abc'", "number"]),
        ("epochs=0", ["training.epochs=0", "greater than 0"]),
        ("epochs=-1", ["training.epochs=-1", "greater than 0"]),
        ("epochs=null", ["training.epochs=None", "number"]),
        ("epochs=true", ["training.epochs=True", "number"]),
        ("epochs=.nan", ["training.epochs=.nan", "finite"]),
        ("epochs=inf", ["training.epochs=inf", "finite"]),
        ("seed=1.5", ["seed=1.5", "integer"]),
        ("seed=-1", ["seed=-1", "greater than or equal to 0"]),
        ("seed=4294967296", ["seed=4294967296", "less than"]),
        ("training.batch_size=0", ["training.batch_size=0", "greater than or equal to 1"]),
        ("training.batch_size=2.5", ["training.batch_size=2.5", "integer"]),
        ("training.learning_rate=0", ["training.learning_rate=0", "greater than 0"]),
        ("training.optimizer=adam", ["training.optimizer='adam'", "adamw"]),
        ("training.schedule=step", ["training.schedule='step'", "cosine"]),
        ("training.precision=fp8", ["training.precision='fp8'", "bf16"]),
        ("training.label_smoothing=1", ["training.label_smoothing=1", "less than 1"]),
        ("training.betas=0.9", ["training.betas=0.9", "array"]),
        ("training.betas=[0.9]", ["training.betas"]),
        ("training.betas=[0.9,1]", ["training.betas.1=1", "less than 1"]),
        ("training.save_total_limit=1", ["training.save_total_limit=1", "greater than or equal to 2"]),
        ("data.validation_fraction=1", ["data.validation_fraction=1", "less than 1"]),
        ("data.test_fraction=0", ["data.test_fraction=0", "greater than 0"]),
        ("data.crop_fraction=2", ["data.crop_fraction=2", "less than or equal to 1"]),
        ("data.check_files=3", ["data.check_files=3", "boolean"]),
        ("data.augment.flip=2", ["data.augment.flip=2", "less than or equal to 1"]),
        ("data.augment.rotate=-1", ["data.augment.rotate=-1", "greater than or equal to 0"]),
        ("data.augment.crop_area=[0.9,0.1]", ["data.augment.crop_area=[0.9, 0.1]", "smaller"]),
        ("data.augment.auto_augment=foo", ["data.augment.auto_augment='foo'"]),
        ("data.augment.auto_augment=rand-mfoo", ["data.augment.auto_augment='rand-mfoo'"]),
        ("data.augment.auto_augment=rand-x3", ["data.augment.auto_augment='rand-x3'"]),
        ("model.name.x=1", ["model.name.x"]),
    ],
)
def test_a_mistake_is_one_line_that_names_key_and_value(override: str, expected: list[str]) -> None:
    message = refusal("digits", override)
    for part in expected:
        assert part in message


def test_unknown_recipe_names_the_nearest() -> None:
    assert "did you mean 'digits'" in refusal("digit")
    assert "cifar10-finetune" in refusal("nothing-like-it")


@pytest.mark.parametrize("policy", ["rand-m9-mstd0.5", "rand-n2-m5-inc1", "rand-m9-tweights", "augmix-m5-w4-d2", "v0"])
def test_policies_that_timm_understands_are_taken(policy: str) -> None:
    assert load_recipe("digits", [f"data.augment.auto_augment={policy}"]).data.augment.auto_augment == policy


# ---- files ----


def test_recipe_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yml"
    file.write_text(
        "name: mine\ntask: image-classification\ndata: {source: ./photos}\n"
        "model: {name: vit-mini, image_size: 64}\ntraining: {epochs: 3}\n",
        encoding="utf-8",
    )
    recipe = load_recipe(str(file), ["epochs=4", "model.image_size=32"])
    assert (recipe.name, recipe.data.source, recipe.training.epochs) == ("mine", "./photos", 4)
    assert recipe.model.overrides == {"image_size": 32}
    assert recipe.seed == 0


@pytest.mark.parametrize("name", SHIPPED)
def test_dumped_recipe_loads_equal(tmp_path: Path, name: str) -> None:
    recipe = load_recipe(name, ["training.betas=[0.8,0.9]", "model.moe_layers=[0]", "seed=3"])
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe.dump(), encoding="utf-8")
    assert load_recipe(str(file)) == recipe


@pytest.mark.parametrize("name", ["digits", "mlm-text", "sst2", "squad1"])
def test_dump_holds_every_key(name: str) -> None:
    recipe = load_recipe(name)
    values = parse_yaml(recipe.dump(), "dump")
    for key in recipe_keys(type(recipe)):
        found: Any = values
        for part in key.split("."):
            assert part in found, key
            found = found[part]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a: [1", "not valid YAML"),
        (b"- 1\n", "must be a mapping"),
        (b"", "must be a mapping"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_damaged_file(tmp_path: Path, content: bytes, expected: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    message = refusal(str(file))
    assert expected in message
    assert "mine.yaml" in message


def test_missing_file(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(str(tmp_path / "none.yaml"))


@pytest.mark.parametrize("section", ["name", "data", "model", "training"])
def test_a_missing_section_is_named(section: str) -> None:
    values = minimal()
    del values[section]
    with pytest.raises(WideNetError, match=f"^the recipe lacks {section}$"):
        build_recipe(values)


def test_unknown_keys_in_a_file_are_refused() -> None:
    values = minimal()
    values["training"]["learning_rat"] = 0.1
    with pytest.raises(WideNetError, match=r"'training\.learning_rat'; did you mean 'training\.learning_rate'"):
        build_recipe(values)


def test_a_value_where_a_section_belongs() -> None:
    with pytest.raises(WideNetError, match=r"^data='digits': "):
        build_recipe({**minimal(), "data": "digits"})
    with pytest.raises(WideNetError, match="data is a value, not a section"):
        build_recipe({**minimal(), "data": "digits"}, ["data.split_seed=1"])


def test_a_date_is_refused() -> None:
    values = parse_yaml("description: 2024-01-01", "text") | minimal()
    with pytest.raises(WideNetError, match="not plain YAML"):
        build_recipe(values)


def leaves(section: type[BaseModel], prefix: str) -> Iterator[tuple[str, str | None]]:
    """Yield every dotted key below a section, and its description."""
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from leaves(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field.description


@pytest.mark.parametrize("task", RECIPES)
def test_every_key_says_what_it_means(task: str) -> None:
    found = dict(leaves(RECIPES[task], ""))
    assert set(recipe_keys(RECIPES[task])) <= set(found)
    del found["task"]  # it follows from the recipe and cannot be set
    bad = [key for key, line in found.items() if not line or "\n" in line or not line.endswith(".") or len(line) > 120]
    assert bad == []


def test_recipes_are_frozen() -> None:
    recipe = load_recipe("digits")
    assert isinstance(recipe, Recipe)
    with pytest.raises(ValueError, match="frozen"):
        recipe.training.epochs = 5  # type: ignore[misc]
