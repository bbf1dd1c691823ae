"""The registry of heads: one name for one class, told to transformers, asked by everything else."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForMaskedLM, AutoModelForVideoClassification

from widenet import (
    WideNetConfig,
    WideNetError,
    WideNetForImageClassification,
    WideNetForPreTraining,
    WideNetTextConfig,
    WideNetTextModel,
    WideNetVisionConfig,
    WideNetVisionModel,
    create_model,
    from_dense,
    to_transformers,
)
from widenet.convert.folder import head_in, read_description
from widenet.models import heads
from widenet.models.card import model_card
from widenet.models.heads import config_classes, head_of, heads_of, register_head
from widenet.tasks import task_of


class Video(WideNetForImageClassification):
    """A class that this package does not know."""


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget afterwards what a test registers."""
    monkeypatch.setattr(heads, "_HEADS", {key: dict(value) for key, value in heads._HEADS.items()})


def test_the_default_comes_first() -> None:
    assert next(iter(heads_of(WideNetVisionConfig))) == "image-classification"
    assert next(iter(heads_of(WideNetTextConfig))) == "pretraining"
    assert all(name == head.name for config in config_classes().values() for name, head in heads_of(config).items())


def test_a_head_is_found_by_its_class_and_by_the_name_of_it() -> None:
    for model_class, name in ((WideNetVisionModel, "features"), (WideNetForPreTraining, "pretraining")):
        head = head_of(model_class)
        assert head is not None and head.name == name and head is head_of(model_class.__name__)
    assert head_of(Video) is None and head_of("Video") is None


@pytest.mark.usefixtures("registry")
def test_a_registered_class_is_known_everywhere(tmp_path: Path) -> None:
    make = {"pipeline": "video-classification", "auto_class": AutoModelForVideoClassification}
    for _ in range(2):
        register_head("video", Video, **make)
    assert list(heads_of(WideNetVisionConfig)) == ["image-classification", "features", "video"]
    model = create_model("vit-digits", "video")
    assert type(model) is Video and type(from_dense(create_model("vit-digits"), "video")) is Video
    model.save_pretrained(tmp_path)
    assert head_in(tmp_path, read_description(tmp_path)).name == "video" and type(from_dense(tmp_path)) is Video
    assert type(AutoModelForVideoClassification.from_pretrained(tmp_path)) is Video
    assert model_card(model).data.pipeline_tag == "video-classification"


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize(
    ("name", "model_class", "options", "told"),
    [
        ("features", Video, {}, ["name='features'", "Video", "WideNetVisionModel"]),
        ("vectors", WideNetTextModel, {}, ["name='vectors'", "name='features'", "WideNetTextConfig"]),
        ("features", WideNetTextModel, {"pipeline": "fill-mask"}, ["pipeline='fill-mask'", "feature-extraction"]),
        ("video", Video, {"default": True}, ["name='video'", "name='image-classification'", "default=True"]),
    ],
    ids=["name taken", "two names", "two pipelines", "two defaults"],
)
def test_what_is_registered_stays(name: str, model_class: Any, options: dict[str, Any], told: list[str]) -> None:
    before = {config: dict(found) for config, found in heads._HEADS.items()}
    with pytest.raises(WideNetError) as error:
        register_head(name, model_class, auto_class=AutoModelForMaskedLM, **options)
    assert all(part in str(error.value) for part in told) and "\n" not in str(error.value)
    assert before == heads._HEADS


def test_a_class_that_is_not_known_is_neither_images_nor_text(tmp_path: Path) -> None:
    with pytest.raises(WideNetError, match="unknown configuration class 'WideNetConfig'"):
        heads_of(WideNetConfig)
    Video(create_model("vit-digits").config).save_pretrained(tmp_path)
    for read in (task_of, from_dense):
        with pytest.raises(WideNetError, match="names Video; models of ours are WideNetForImageClassification"):
            read(tmp_path)
    with pytest.raises(WideNetError, match="Video has no counterpart in transformers"):
        to_transformers(Video.from_pretrained(tmp_path))
