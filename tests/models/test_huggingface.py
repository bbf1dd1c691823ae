"""Hugging Face's tools on our models: pipelines, Trainer in someone else's script, backends, placement, PEFT.

The rest follows transformers' own tests/test_modeling_common.py; what tests/test_vision.py and
tests/test_text.py hold already (files, heads, tied embeddings, vocabularies) is not repeated.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    ViTImageProcessor,
    pipeline,
)

from widenet import WideNetTextConfig, WideNetVisionConfig, create_model
from widenet.nn.routing import Router

MODELS = {
    "widenet image": ("widenet-digits", "image-classification", AutoModelForImageClassification),
    "vit-moe image": ("vit-moe-digits", "image-classification", AutoModelForImageClassification),
    "vit image": ("vit-digits", "image-classification", AutoModelForImageClassification),
    "image features": ("widenet-digits", "features", AutoModel),
    "pretraining": ("widenet-text-tiny", "pretraining", AutoModelForPreTraining),
    "masked-lm": ("widenet-text-tiny", "masked-lm", AutoModelForMaskedLM),
    "text classes": ("widenet-text-tiny", "text-classification", AutoModelForSequenceClassification),
    "questions": ("widenet-text-tiny", "question-answering", AutoModelForQuestionAnswering),
    "text features": ("albert-tiny", "features", AutoModel),
}
MIXTURES = [name for name in MODELS if name not in ("vit image", "text features")]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "good", "bad", "film", "was", "this"]


def make(name: str, **fields: Any) -> Any:
    preset, task, _ = MODELS[name]
    fields = {"num_hidden_layers": 2, "initializer_range": 0.2, **fields}
    if preset == "vit-moe-digits":
        fields["moe_layers"] = [1]
    torch.manual_seed(0)
    return create_model(preset, task, **fields).eval()


def inputs(model: Any) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    if isinstance(model.config, WideNetVisionConfig):
        return {"pixel_values": torch.randn(3, 3, 8, 8, generator=generator)}
    ids = torch.randint(1, 50, (3, 7), generator=generator)
    return {"input_ids": ids, "attention_mask": (torch.arange(7) < torch.tensor([[7], [4], [2]])).long()}


def assert_same_model(loaded: Any, model: Any) -> None:
    """Equal weights bit for bit, and equal outputs to rounding: where weights lie in memory decides the last bits."""
    expected = model.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in loaded.state_dict().items())
    torch.testing.assert_close(first(loaded(**inputs(model))), first(model(**inputs(model))))


def first(output: Any) -> Tensor:
    """Logits, start logits or hidden states: what a user reads."""
    return next(value for value in output.to_tuple() if isinstance(value, Tensor) and value.dim() > 1)


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Any:
    return make(request.param)


@pytest.fixture(params=MIXTURES)
def mixture(request: pytest.FixtureRequest) -> Any:
    return make(request.param)


# ---- Auto classes and files ----


@pytest.mark.parametrize("name", MODELS)
def test_auto_classes(name: str, tmp_path: Path) -> None:
    model, auto = make(name), MODELS[name][2]
    model.save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert type(config) is type(model.config)
    assert {**config.to_dict(), "_name_or_path": ""} == model.config.to_dict()
    assert type(auto.from_config(config)) is type(model)
    assert type(auto.from_pretrained(tmp_path)) is type(model)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [type(model).__name__]


def test_a_model_in_several_files(model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert_same_model(type(model).from_pretrained(tmp_path), model)


def test_torch_save_and_load(model: Any, tmp_path: Path) -> None:
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    other = type(model)(model.config).eval()
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert_same_model(other, model)


@pytest.mark.parametrize("place", ["auto", "cpu", {"": "cpu"}], ids=str)
def test_device_map(model: Any, place: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    placed = type(model).from_pretrained(tmp_path, device_map=place)
    here = {key: value.to(placed.device) for key, value in inputs(model).items()}
    torch.testing.assert_close(first(placed(**here)).cpu(), first(model(**inputs(model))))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_float32_routers(mixture: Any, dtype: torch.dtype, tmp_path: Path) -> None:
    mixture.save_pretrained(tmp_path)
    loaded = type(mixture).from_pretrained(tmp_path, dtype=dtype)
    for name, parameter in loaded.named_parameters():
        assert parameter.dtype == (torch.float32 if "routers." in name else dtype), name
    output = loaded(**inputs(mixture), output_routing=True)
    assert first(output).dtype == dtype
    assert output.routing[-1].probabilities.dtype == torch.float32
    loaded.save_pretrained(tmp_path / "again")
    again = type(mixture).from_pretrained(tmp_path / "again", dtype="auto")
    assert_same_model(again, loaded)


# ---- weights from the configuration alone ----


@pytest.mark.parametrize("name", MODELS)
def test_every_weight_is_initialised_from_the_configuration(name: str) -> None:
    # A standard deviation of almost zero leaves the constants; anything else was forgotten.
    model = make(name, initializer_range=1e-9)
    nothing: Any = None
    loaded = type(model).from_pretrained(nothing, config=model.config, state_dict={})
    for each in (model, loaded):
        for key, parameter in each.named_parameters():
            constant = 1.0 if "norm" in key and key.endswith("weight") else 0.0
            assert (parameter - constant).abs().max() < 1e-7, key


@pytest.mark.parametrize("name", MODELS)
def test_the_spread_of_fresh_weights_is_the_configurations(name: str) -> None:
    nothing: Any = None
    torch.manual_seed(0)
    config = make(name, initializer_range=0.05).config
    loaded = type(make(name)).from_pretrained(nothing, config=config, state_dict={})
    for key, parameter in loaded.named_parameters():
        if parameter.dim() > 1 and parameter.numel() > 300 and not key.endswith("bias"):
            assert parameter.std().item() == pytest.approx(0.05, rel=0.25), key


# ---- outputs ----


def test_hidden_states_and_attentions(model: Any) -> None:
    config = model.config
    tokens = 7 if isinstance(config, WideNetTextConfig) else config.num_patches + (config.pooling == "cls")
    output = model(**inputs(model), output_hidden_states=True, output_attentions=True)
    assert [tuple(state.shape) for state in output.hidden_states] == [(3, tokens, config.hidden_size)] * 3
    heads = config.num_attention_heads
    assert [tuple(weights.shape) for weights in output.attentions] == [(3, heads, tokens, tokens)] * 2
    plain = model(**inputs(model))
    assert "hidden_states" not in plain and "attentions" not in plain
    model.set_attn_implementation("eager")  # transformers lets no other configuration ask for attentions
    model.config.output_hidden_states = model.config.output_attentions = True
    asked_by_config = model(**inputs(model))
    assert len(asked_by_config.hidden_states) == 3 and len(asked_by_config.attentions) == 2


def test_hidden_states_and_attentions_retain_gradients(model: Any) -> None:
    output = model(**inputs(model), output_hidden_states=True, output_attentions=True)
    kept = [output.hidden_states[0], output.hidden_states[1], output.attentions[0]]
    for tensor in kept:
        tensor.retain_grad()
    first(output).flatten()[0].backward()
    assert all(tensor.grad is not None for tensor in kept)


def test_a_tuple_has_the_same_values(model: Any) -> None:
    named = model(**inputs(model), output_hidden_states=True).to_tuple()
    plain = model(**inputs(model), output_hidden_states=True, return_dict=False)
    assert type(plain) is tuple and len(plain) == len(named)
    for left, right in zip(named, plain, strict=True):
        assert all(map(torch.equal, left, right)) if isinstance(left, tuple) else torch.equal(left, right)


def test_evaluation_is_deterministic(model: Any) -> None:
    assert torch.equal(first(model(**inputs(model))), first(model(**inputs(model))))


# ---- backends ----


def test_attention_backends(model: Any) -> None:
    outputs = {}
    for backend in ("eager", "sdpa", "eager"):
        model.set_attn_implementation(backend)
        assert model.config._attn_implementation == backend
        outputs[backend] = first(model(**inputs(model)))
    torch.testing.assert_close(outputs["eager"], outputs["sdpa"], rtol=1e-4, atol=1e-5)


def test_attention_backend_of_a_loaded_model(tmp_path: Path) -> None:
    make("masked-lm").save_pretrained(tmp_path)
    assert AutoModelForMaskedLM.from_pretrained(tmp_path).config._attn_implementation == "sdpa"
    eager = AutoModelForMaskedLM.from_pretrained(tmp_path, attn_implementation="eager")
    assert eager.config._attn_implementation == eager.model.encoder.config._attn_implementation == "eager"


@pytest.mark.parametrize("backend", ["eager", "widenet_every", "grouped_mm", "batched_mm"])
def test_experts_backends(mixture: Any, backend: str, tmp_path: Path) -> None:
    expected = first(mixture(**inputs(mixture)))
    mixture.set_experts_implementation(backend)
    switched = first(mixture(**inputs(mixture)))
    torch.testing.assert_close(switched, expected, rtol=1e-4, atol=1e-5)
    mixture.set_experts_implementation("widenet_sorted")
    assert torch.equal(first(mixture(**inputs(mixture))), expected)
    mixture.save_pretrained(tmp_path)
    loaded = type(mixture).from_pretrained(tmp_path, experts_implementation=backend)
    assert loaded.config._experts_implementation == backend
    torch.testing.assert_close(first(loaded(**inputs(mixture))), switched)


# ---- pipelines ----


def test_image_classification_pipeline(tmp_path: Path) -> None:
    model = make("widenet image", id2label={index: f"class {index}" for index in range(10)})
    model.save_pretrained(tmp_path)
    scale = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    ViTImageProcessor(size={"height": 8, "width": 8}, **scale).save_pretrained(tmp_path)
    classify = pipeline("image-classification", model=str(tmp_path), device="cpu")
    picture = Image.effect_noise((20, 12), 80).convert("RGB")
    answers = classify([picture, picture], top_k=3, batch_size=2)
    assert len(answers) == 2 and answers[0] == answers[1]
    assert pipeline("image-feature-extraction", model=str(tmp_path), device="cpu")([picture] * 3, batch_size=3)
    assert all(answer["label"].startswith("class ") for answer in answers[0])
    scores = [answer["score"] for answer in answers[0]]
    assert scores == sorted(scores, reverse=True) and sum(scores) <= 1


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    pair = "[CLS] $A [SEP] $B:1 [SEP]:1"
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair=pair, special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, mask_token="[MASK]", **names)


def scores(answer: Any) -> list[float]:
    return [answer["score"]] if isinstance(answer, dict) else [score for part in answer for score in scores(part)]


def test_text_pipelines(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    for name, task in (("text classes", "text-classification"), ("masked-lm", "fill-mask")):
        make(name, vocab_size=len(WORDS)).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        pipe = pipeline(task, model=str(tmp_path / name), device="cpu")
        texts = ["this film was [MASK]", "a [MASK] film"]
        alone = [score for text in texts for score in scores(pipe(text))]
        assert scores(pipe(texts, batch_size=2)) == pytest.approx(alone, abs=1e-5)


# ---- Trainer in someone else's script ----


class Pictures(torch.utils.data.Dataset):
    """Ten classes of noise, as a user's own data set hands them out."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(index)
        return {"pixel_values": torch.randn(3, 8, 8, generator=generator), "labels": index % 10}


def train(model: Any, folder: Path, **arguments: Any) -> Trainer:
    settings = {
        "learning_rate": 1.0,
        "optim": "sgd",
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "max_steps": 1,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "logging_strategy": "no",
        "save_strategy": "no",
        **arguments,
    }
    trainer = Trainer(model, TrainingArguments(str(folder), **settings), train_dataset=Pictures())
    trainer.train()
    return trainer


@pytest.mark.parametrize("coefficient", [0.0, 0.5])
@pytest.mark.parametrize("steps", [1, 3])
def test_a_step_of_trainer_is_a_step_on_eq_8(steps: int, coefficient: float, tmp_path: Path) -> None:
    # Learning rate 1 and plain SGD: the weights move by the gradient, the mean over the accumulated batches.
    fields = {"router_noise_std": 0.0, "router_aux_loss_coef": coefficient}
    model = make("widenet image", **fields)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trainer = train(model, tmp_path, gradient_accumulation_steps=steps, per_device_train_batch_size=12 // steps)
    del trainer
    reference = make("widenet image", **fields).train()
    torch.manual_seed(TrainingArguments(str(tmp_path)).seed)
    order = []  # the batches that Trainer's sampler drew
    sampler = Trainer(
        reference,
        TrainingArguments(str(tmp_path), per_device_train_batch_size=12 // steps, use_cpu=True),
        train_dataset=Pictures(),
    ).get_train_dataloader()
    for batch in sampler:
        order.append(batch)
        output = reference(pixel_values=batch["pixel_values"], labels=batch["labels"])
        main = nn.functional.cross_entropy(output.logits, batch["labels"])
        ((main + coefficient * output.balance_loss) / steps).backward()
    assert len(order) == steps
    for key, parameter in reference.named_parameters():
        moved = before[key] - model.state_dict()[key]
        torch.testing.assert_close(moved, parameter.grad, rtol=1e-3, atol=1e-5, msg=key)


def test_trainer_evaluates_and_predicts(tmp_path: Path) -> None:
    model = make("widenet image")
    arguments = {"max_steps": 4, "learning_rate": 0.1, "gradient_checkpointing": True}
    trainer = train(model, tmp_path, **arguments)
    prediction = trainer.predict(Pictures())
    assert prediction.predictions.shape == (12, 10)  # logits alone: no records, no balance loss
    assert prediction.metrics["test_loss"] == pytest.approx(trainer.evaluate(Pictures())["eval_loss"])
    trainer.save_model(str(tmp_path / "model"))
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "model")
    assert_same_model(loaded, model.eval())


# ---- PEFT ----

LORA = {
    "r": 4,
    "target_modules": ["q_proj", "v_proj"],
    "target_parameters": ["experts.0.up_proj", "experts.0.down_proj"],
}


def with_lora(model: Any) -> Any:
    torch.manual_seed(1)
    return get_peft_model(model, LoraConfig(**LORA))


def test_lora_trains_the_shared_attention_and_the_experts() -> None:
    model = make("widenet image")
    frozen = {key: value.clone() for key, value in model.state_dict().items()}
    adapted = with_lora(model).train()
    trainable = {key: value for key, value in adapted.named_parameters() if value.requires_grad}
    # Shared modules have one adapter for all blocks: A and B of two projections and of two stacks.
    assert len(trainable) == 2 * 2 + 2 * 2 and all("lora_" in key for key in trainable)
    assert sum(".attentions.0." in key for key in trainable) == sum(".experts.0." in key for key in trainable) == 4
    optimizer = torch.optim.SGD(trainable.values(), lr=0.5)
    for _ in range(2):  # B starts at zero, so A has its first gradient in the second step
        optimizer.zero_grad()
        adapted(**inputs(model), labels=torch.tensor([0, 1, 2])).loss.backward()
        optimizer.step()
    for key, parameter in trainable.items():
        assert parameter.grad.abs().max() > 0, key
    adapted.unload()
    assert all(torch.equal(value, frozen[key]) for key, value in model.state_dict().items())


def test_lora_merged_saved_and_on_every_experts_backend(tmp_path: Path) -> None:
    plain = make("widenet image")
    adapted = with_lora(make("widenet image")).eval()
    with torch.no_grad():
        for key, parameter in adapted.named_parameters():
            if "lora_B" in key:
                parameter.normal_(std=0.1)
    expected = adapted(**inputs(plain)).logits
    assert (expected - plain(**inputs(plain)).logits).abs().max() > 1e-2
    for backend in ("eager", "widenet_every", "grouped_mm", "batched_mm", "widenet_sorted"):
        adapted.base_model.model.set_experts_implementation(backend)
        torch.testing.assert_close(adapted(**inputs(plain)).logits, expected, rtol=1e-4, atol=1e-5)

    adapted.save_pretrained(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(make("widenet image"), tmp_path / "adapter").eval()
    torch.testing.assert_close(loaded(**inputs(plain)).logits, expected)

    merged = adapted.merge_and_unload()
    assert type(merged) is type(plain) and merged.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(merged(**inputs(plain)).logits, expected, rtol=1e-4, atol=1e-5)
    merged.save_pretrained(tmp_path / "merged")
    again = AutoModelForImageClassification.from_pretrained(tmp_path / "merged")
    assert_same_model(again, merged)


@pytest.mark.parametrize("name", ["masked-lm", "text classes", "questions"])
def test_lora_on_text(name: str) -> None:
    model = make(name)
    adapted = with_lora(model).train()
    first(adapted(**inputs(model))).square().mean().backward()
    gradients = {key: value.grad for key, value in adapted.named_parameters() if "lora_B" in key}
    assert len(gradients) == 4 and all(gradient.abs().max() > 0 for gradient in gradients.values())


def test_lora_leaves_routers_in_float32(tmp_path: Path) -> None:
    make("widenet image").save_pretrained(tmp_path)
    model = AutoModelForImageClassification.from_pretrained(tmp_path, dtype=torch.bfloat16)
    adapted = with_lora(model)
    pixels = inputs(model)["pixel_values"].bfloat16()
    adapted(pixel_values=pixels, labels=torch.tensor([0, 1, 2])).loss.backward()
    routers = [module for module in adapted.modules() if isinstance(module, Router)]
    assert routers and all(router.weight.dtype == torch.float32 for router in routers)
