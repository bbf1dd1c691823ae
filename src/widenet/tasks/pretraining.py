"""Masked language modelling and sentence order."""

from collections.abc import Sequence
from typing import Any, Literal, Self, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import AutoModelForPreTraining, PreTrainedTokenizerBase

from widenet.config import WideNetConfig, WideNetTextConfig
from widenet.data.batch import Batch
from widenet.data.text.corpus import CorpusData, CorpusSection, load_corpus, unigram_loss
from widenet.data.text.masking import PretrainingBatches
from widenet.errors import WideNetError
from widenet.models.text import WideNetForPreTraining
from widenet.recipes import Recipe
from widenet.tasks.base import Prediction, Words, best, bounded, check_top, is_folder, preset_config
from widenet.tasks.metrics import BALANCE, LOSS, Metric, Tally
from widenet.tasks.text import TextTask, check_fit, check_texts, find_tokenizer, make_model, tokenise


class PretrainingRecipe(Recipe):
    """Masked language modelling and sentence order."""

    task: Literal["pretraining"] = "pretraining"
    data: CorpusSection


class Pretraining(TextTask):
    """Running text in; the masked words, and the order of its halves, out."""

    name = "pretraining"
    recipe_class = PretrainingRecipe
    model_class = WideNetForPreTraining
    auto_class = AutoModelForPreTraining
    pipeline = "fill-mask"
    is_default = True
    metrics = (
        Metric(
            "mlm_loss",
            "MLM loss",
            "loss",
            note="Of the masked words, in nats a token. The line is the unigram loss: that of guessing the same words "
            "by nothing but their frequency in the training part. Above it, a model has not learnt to read what is "
            "around them.",
            level=("unigram_loss", "unigram"),
        ),
        Metric("unigram_loss", "unigram loss", "loss"),
        Metric(
            "mlm_accuracy",
            "MLM accuracy",
            "share",
            note="Share of the masked words that are guessed right; in training with dropout, if there is any.",
            like_training=True,
        ),
        Metric("sentence_order_loss", "sentence-order loss", "loss"),
        Metric(
            "sentence_order_accuracy",
            "sentence-order accuracy",
            "share",
            note="Whether the two halves of a text are in order. Half of them are: the line is chance.",
            level=(0.5, "chance"),
        ),
        LOSS,
        BALANCE,
    )
    words = Words(
        examples="segments",
        one="text",
        data="a text file, or a folder of them",
        loss="The loss that is minimised: of the masked words and of the sentence order, plus the weighted balance "
        "loss.",
        input="text",
        answers="words",
        answer="word",
        usage="from transformers import pipeline\n\n"
        'fill = pipeline("fill-mask", model=".")\nprint(fill(f"a cup of {fill.tokenizer.mask_token}"))',
        sample='"a cup of [MASK]"',
    )
    inputs = (*TextTask.inputs, "labels", "sentence_order_label")
    options = {"only_labelled": True}  # noqa: RUF012 (read only)

    recipe: PretrainingRecipe
    model: WideNetForPreTraining

    def __init__(
        self,
        recipe: PretrainingRecipe,
        data: CorpusData,
        model: WideNetForPreTraining,
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        self.recipe, self.data, self.model, self.tokenizer = recipe, data, model, tokenizer
        self.split = data.split
        self.train_batches = self._masked("train", seed=recipe.seed)
        order = ("sentence_order_accuracy",) if recipe.data.sentence_order else ()
        self.headline = ("mlm_loss", "mlm_accuracy", *order)

    @classmethod
    def start(cls, recipe: Recipe) -> Self:
        recipe = cast(PretrainingRecipe, recipe)
        tokenizer = find_tokenizer(recipe)
        vocab_size = None if is_folder(str(recipe.model.name)) else preset_config(recipe, WideNetTextConfig).vocab_size
        data = load_corpus(recipe.data, tokenizer, vocab_size)
        return cls(recipe, data, make_model(recipe, WideNetForPreTraining, data.tokenizer), data.tokenizer)

    @classmethod
    def reload(cls, recipe: Recipe, model: Any, processor: Any) -> Self:
        recipe = cast(PretrainingRecipe, recipe)
        check_fit(recipe, model, processor)
        return cls(recipe, load_corpus(recipe.data, processor), model, processor)

    def score(self, outputs: Any, batch: Batch) -> tuple[Tensor, int]:
        wanted = batch["labels"][batch["labels"] != -100]
        return (outputs.logits.detach().argmax(-1) == wanted).sum(), len(wanted)

    def speed(self, examples: int, seconds: float) -> dict[str, Any]:
        """Return tokens a second of training, from the mean length of a segment with its special tokens."""
        special = 3 if self.recipe.data.sentence_order else 2
        mean_length = self.data.train.tokens / len(self.data.train) + special
        return {"tokens_per_second": round(examples * mean_length / seconds)}

    def batches(self, part: str) -> Dataset:
        return self._masked(part or "test")

    def measure(self, found: Tally, batch: Batch, output: Any) -> None:
        wanted = batch["labels"][batch["labels"] != -100]
        N, M = len(batch["input_ids"]), len(wanted)
        found.add(
            tokens=M,
            right=(output.logits.argmax(-1) == wanted).sum(),
            mlm=float(output.mlm_loss) * M,
            total=float(output.loss) * N,
        )
        found.keep(wanted=wanted)
        if self.recipe.data.sentence_order:
            in_order = output.sentence_order_logits.argmax(-1) == batch["sentence_order_label"]
            found.add(order=float(output.sentence_order_loss) * N, in_order=in_order.sum())

    def scores(self, found: Tally, part: str) -> dict[str, Any]:
        """Return the scores of a part.

        Returns:
            ``mlm_loss`` in nats a masked token, beside ``unigram_loss``, that of guessing the same tokens by
            their frequency in the training part; ``mlm_accuracy``; ``sentence_order_loss`` and
            ``sentence_order_accuracy``; ``loss``, all that is minimised.
        """
        scores = {
            "mlm_loss": found.mean("mlm", "tokens"),
            "mlm_accuracy": found.mean("right", "tokens"),
            "unigram_loss": unigram_loss(self.data.unigram, found.all("wanted").numpy()),
            "loss": found.mean("total"),
        }
        if self.recipe.data.sentence_order:
            scores |= {"sentence_order_loss": found.mean("order"), "sentence_order_accuracy": found.mean("in_order")}
        return scores

    def select(self, scores: dict[str, Any]) -> float:
        return -bounded(scores["loss"])

    def _masked(self, part: str, seed: int | None = None) -> PretrainingBatches:
        return PretrainingBatches(getattr(self.data, part), self.tokenizer, self.recipe.data, seed)

    @classmethod
    @torch.inference_mode()
    def predict(cls, model: Any, processor: Any, inputs: Sequence[str], *, top: int = 5) -> list[Prediction]:
        """Fill in masked words: one prediction per mask, in reading order.

        Raises:
            WideNetError: as :meth:`Task.predict`, or a text has no mask in reach.
        """
        check_top(top)
        check_texts(inputs, model, processor)
        V = len(processor)  # the model's vocabulary may be padded with ids that stand for nothing
        words = [str(processor.convert_ids_to_tokens(index)) for index in range(V)]
        found: list[Prediction] = []
        for text in inputs:
            batch, (cut,) = tokenise(model, processor, [text])
            at = batch["input_ids"][0] == processor.mask_token_id
            if not at.any():
                shown = repr(text if len(text) <= 60 else text[:57] + "...")
                raise WideNetError(f"{shown} has no {processor.mask_token} among the tokens that the model reads")
            probabilities = model(**batch).logits[0, at].float().softmax(-1).cpu()  # [masks, V]
            found += [Prediction(text, best(row[:V], words, top), cut=cut) for row in probabilities]
        return found

    @classmethod
    def limits(cls, metrics: dict[str, Any], config: WideNetConfig) -> list[str]:
        return [
            f"Guessing words by their frequency has an MLM loss of {scores['unigram_loss']:.3f}, this model "
            f"{scores['mlm_loss']:.3f}."
            for scores in metrics["test"].values()
            if "unigram_loss" in scores
        ]
