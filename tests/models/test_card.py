"""Model cards of a model alone and of a widening, and the card that an upload carries; nothing leaves this machine."""

import re
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import EntryNotFoundError
from transformers import AutoModelForImageClassification

import widenet
from widenet.convert.widen import widen_folder
from widenet.models.card import license_of, model_card, save_card
from widenet.models.heads import config_classes, heads_of
from widenet.models.hub import card_for
from widenet.models.presets import create_config, create_model, list_models

NAME = "somebody/model"


class Hub:
    """What was uploaded, and the cards that repositories hold already."""

    def __init__(self) -> None:
        self.uploads: list[dict[str, bytes]] = []
        self.cards: dict[str, Path] = {}

    @property
    def card(self) -> ModelCard:
        return ModelCard(self.uploads[-1]["README.md"].decode())


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    found = Hub()

    def create_commit(_: HfApi, repo_id: str, operations: list[Any], **options: Any) -> None:
        assert repo_id == NAME
        found.uploads.append({each.path_in_repo: Path(each.path_or_fileobj).read_bytes() for each in operations})

    def download(repo_id: str, *_: Any, **options: Any) -> Path:
        if repo_id not in found.cards:
            raise EntryNotFoundError(repo_id)
        return found.cards[repo_id]

    def connect(*_: Any) -> None:
        raise AssertionError("a test reached for the network")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(HfApi, "create_repo", lambda _, repo_id, **options: SimpleNamespace(repo_id=repo_id))
    monkeypatch.setattr(HfApi, "create_commit", create_commit)
    monkeypatch.setattr("huggingface_hub.repocard.hf_hub_download", download)
    monkeypatch.setattr("widenet.models.hub.file_exists", lambda repo_id, name, **options: repo_id in found.cards)
    return found


def snippet(card: ModelCard) -> str:
    return re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)[-1]


# ---- a model alone ----


@pytest.mark.parametrize("name", [name for name in list_models() if name.endswith(("-tiny", "-digits"))])
def test_the_card_of_a_model(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for task in heads_of(type(create_config(name))):
        model: Any = create_model(name, task)
        model.save_pretrained(tmp_path)
        card = ModelCard.load(save_card(model_card(model), tmp_path))
        assert card.data.to_dict()["library_name"] == "transformers"
        wanted = {"features": None, "pretraining": "fill-mask", "masked-lm": "fill-mask"}.get(task, task)
        assert card.data.pipeline_tag == (wanted or card.data.pipeline_tag)
        assert ("mixture-of-experts" in card.data.tags) == bool(model.config.moe_blocks)
        assert card.data.license is None and card.data.eval_results is None
        E, K = model.config.num_experts, model.config.num_experts_per_tok
        total = sum(p.numel() for p in model.parameters())
        idle = sum(p.numel() for key, p in model.named_parameters() if ".experts." in f".{key}") * (E - K) // E
        assert f"| parameters | {total:,} | {total - idle:,} |" in card.text
        assert f"{model.config.num_hidden_layers} blocks of width {model.config.hidden_size}" in card.text
        variables: dict[str, Any] = {}
        exec(snippet(card), variables)
        assert type(variables["model"]) is type(model)


# ---- a widening ----


def test_the_card_of_a_widening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    create_model("bert-tiny", vocab_size=50).save_pretrained("dense")
    Path("dense/README.md").write_text("---\nlicense: cc-by-4.0\n---\n# A source\n")
    options: dict[str, Any] = {"task": "text-classification", "group_size": 1, "capacity_factor": 2.0}
    counts = widen_folder("dense", Path("wide"), 3, **options)
    card = ModelCard.load("wide/README.md")
    assert (card.data.license, card.data.pipeline_tag) == ("cc-by-4.0", "text-classification")
    assert card.data.eval_results is None and card.data.base_model is None
    assert "Not trained yet" in card.text and "dense model `dense`" in card.text
    for row, name in (("source", "source"), ("this model", "widened")):
        assert f"| {row} | {counts[name]['parameters']:,} |" in card.text
    call, loading = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    variables: dict[str, Any] = {}
    exec(call, variables)  # what the card says makes the same model
    monkeypatch.chdir(tmp_path / "wide")
    exec(loading, variables)
    assert variables["model"].config.capacity_factor == 2.0
    for key, value in variables["wide"].state_dict().items():
        assert torch.equal(value, variables["model"].state_dict()[key]), key


def test_the_card_of_a_widened_public_model_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create_model("bert-tiny").save_pretrained(tmp_path / "cache")
    monkeypatch.setattr("widenet.convert.sources.snapshot_download", lambda *_, **__: str(tmp_path / "cache"))
    widen_folder("somebody/dense", tmp_path / "wide")
    card = ModelCard.load(tmp_path / "wide/README.md")
    assert (card.data.base_model, card.data.license) == ("somebody/dense", None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, {}),
        ("# no metadata", {}),
        ("---\ntags: [a]\n---\n", {}),
        ("---\nlicense: mit\n---\n", {"license": "mit"}),
        ("---\nlicense: other\nlicense_name: x\n---\n", {"license": "other", "license_name": "x"}),
        ("---\n- a list\n---\n", {}),
        ("---\na: [1\n---\n", {}),
        (b"\xff\xfe", {}),
    ],
)
def test_no_license_is_invented(text: str | bytes | None, expected: dict[str, str], tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "README.md").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert license_of(tmp_path) == expected


# ---- uploads ----


def test_push_to_hub_uploads_a_card(hub: Hub) -> None:
    model: Any = create_model("widenet-digits")
    model.push_to_hub(NAME, tags=["mine"])
    assert set(hub.uploads[0]) == {"config.json", "model.safetensors", "README.md"}
    assert hub.card.text == model_card(model, NAME).text
    assert hub.card.data.tags == ["widenet", "mixture-of-experts", "mine"]
    assert f'from_pretrained("{NAME}")' in snippet(hub.card)
    assert "More Information Needed" not in hub.card.text


def test_save_pretrained_uploads_a_card(hub: Hub, tmp_path: Path) -> None:
    model: Any = create_model("vit-digits")
    model.save_pretrained(tmp_path, push_to_hub=True, repo_id=NAME)
    assert hub.card.text == model_card(model, NAME).text
    assert (tmp_path / "README.md").read_bytes() == hub.uploads[0]["README.md"]
    model.save_pretrained(tmp_path / "other")
    assert not (tmp_path / "other/README.md").exists()


def test_a_folder_keeps_its_card_and_uploads_it(hub: Hub, tmp_path: Path) -> None:
    written = "---\nlicense: mit\n---\n# Mine\n"
    (tmp_path / "README.md").write_text(written)
    (tmp_path / "theirs.md").write_text("---\ntags: [old]\n---\n# Theirs\n")
    hub.cards[NAME] = tmp_path / "theirs.md"
    model: Any = create_model("vit-digits")
    model.save_pretrained(tmp_path, push_to_hub=True, repo_id=NAME)
    assert hub.uploads[0]["README.md"].decode() == (tmp_path / "README.md").read_text() == written


def test_the_card_of_a_repository_stays(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "theirs.md").write_text("---\ntags:\n- old\n---\n# Edited by hand\n")
    hub.cards[NAME] = tmp_path / "theirs.md"
    model: Any = create_model("vit-digits")
    model.push_to_hub(NAME)
    assert hub.card.text == "# Edited by hand\n"


def test_the_card_of_a_folder_goes_with_its_weights_alone(hub: Hub, tmp_path: Path) -> None:
    create_model("widenet-digits").save_pretrained(tmp_path, max_shard_size="50KB")
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# A run\n")
    model = AutoModelForImageClassification.from_pretrained(tmp_path)
    model.push_to_hub(NAME)
    assert (hub.card.text, hub.card.data.license) == ("# A run\n", "mit")
    with torch.no_grad():
        model.classifier.bias[0] += 1
    model.push_to_hub(NAME)  # what was measured is not of these weights
    assert hub.card.text == model_card(model, NAME).text
    fresh: Any = create_model("widenet-digits")
    assert card_for(fresh, NAME).text == model_card(fresh, NAME).text


def test_every_class_with_a_card_is_public() -> None:
    heads = [head for config_class in config_classes().values() for head in heads_of(config_class).values()]
    ours = [head for head in heads if head.model_class.__module__.startswith("widenet.")]
    assert ours and all(head.pipeline for head in ours)
    assert all(getattr(widenet, head.model_class.__name__) is head.model_class for head in ours)


def test_the_license_of_a_downloaded_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tmp_path / "models--some--vit/snapshots/abc"
    snapshot.mkdir(parents=True)
    (snapshot / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    (tmp_path / "models--some--vit/refs").mkdir()
    (tmp_path / "models--some--vit/refs/main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert license_of("some/vit") == {"license": "mit"}
    assert license_of("other/vit") == {}
    assert license_of("./no/such/folder") == {}
