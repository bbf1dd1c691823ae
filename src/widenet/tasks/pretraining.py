"""Masked language modelling and sentence order."""

from pathlib import Path
from typing import Any, Self, cast

import numpy as np
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from widenet.config import WideNetTextConfig
from widenet.data.batch import Batch
from widenet.data.text.corpus import CorpusData, Segments, load_corpus, unigram_loss
from widenet.data.text.masking import PretrainingBatches
from widenet.models.text import WideNetForPreTraining
from widenet.recipes import PretrainingRecipe, Recipe
from widenet.tasks.base import RoutingTally, bounded, is_folder, preset_config
from widenet.tasks.text import TextTask, find_tokenizer, make_model, reload_text_model


class Pretraining(TextTask):
    """Running text in; the masked words, and the order of its halves, out."""

    unit = examples = "segments"
    inputs = (*TextTask.inputs, "labels", "sentence_order_label")
    options = {"only_labelled": True}  # noqa: RUF012 (read only)
    model_class = WideNetForPreTraining

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
        self.train_batches = self._batches(data.train)
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
    def reload(cls, recipe: Recipe, run: Path) -> Self:
        recipe = cast(PretrainingRecipe, recipe)
        model, tokenizer = reload_text_model(recipe, run, WideNetForPreTraining)
        return cls(recipe, load_corpus(recipe.data, tokenizer), model, tokenizer)

    def score(self, outputs: Any, batch: Batch) -> tuple[Tensor, int]:
        wanted = batch["labels"][batch["labels"] != -100]
        return (outputs.logits.detach().argmax(-1) == wanted).sum(), len(wanted)

    def validate(self) -> dict[str, float]:
        found = self._measure(self.data.validation)
        return {**found, "loss": found["total_loss"], "selection": -bounded(found["total_loss"])}

    def test(self) -> dict[str, Any]:
        """Return the test metrics.

        Returns:
            ``mlm_loss`` in nats a masked token, beside ``unigram_loss``, that of guessing the same tokens by
            their frequency in the training part; ``mlm_accuracy``; ``sentence_order_loss`` and
            ``sentence_order_accuracy``; and what :meth:`RoutingTally.metrics` returns.
        """
        tally = RoutingTally(self.model.config)
        found = self._measure(self.data.test, tally)
        del found["total_loss"]
        return found | tally.metrics(self.unit)

    def speed(self, examples: int, seconds: float) -> dict[str, Any]:
        """Return tokens a second of training, from the mean length of a segment with its special tokens."""
        special = 3 if self.recipe.data.sentence_order else 2
        mean_length = self.data.train.tokens / len(self.data.train) + special
        return {"tokens_per_second": round(examples * mean_length / seconds)}

    def _measure(self, segments: Segments, tally: RoutingTally | None = None) -> dict[str, float]:
        examples = tokens = right = in_order = 0
        mlm = order = total = 0.0
        labels: list[np.ndarray] = []
        for batch, output in self.run_through(self._batches(segments, dynamic=False)):
            wanted = batch["labels"][batch["labels"] != -100]
            N, M = len(batch["input_ids"]), len(wanted)
            examples, tokens = examples + N, tokens + M
            mlm += float(output.mlm_loss) * M
            total += float(output.loss) * N
            right += int((output.logits.argmax(-1) == wanted).sum())
            labels.append(wanted.cpu().numpy())
            if self.recipe.data.sentence_order:
                order += float(output.sentence_order_loss) * N
                in_order += int((output.sentence_order_logits.argmax(-1) == batch["sentence_order_label"]).sum())
            if tally:
                tally.update(output, N, batch["attention_mask"])
        found = {
            "mlm_loss": mlm / tokens,
            "mlm_accuracy": right / tokens,
            "unigram_loss": unigram_loss(self.data.unigram, np.concatenate(labels)),
            "total_loss": total / examples,
        }
        if self.recipe.data.sentence_order:
            found |= {"sentence_order_loss": order / examples, "sentence_order_accuracy": in_order / examples}
        return found

    def _batches(self, segments: Segments, dynamic: bool = True) -> PretrainingBatches:
        seed = self.recipe.seed if dynamic else None
        return PretrainingBatches(segments, self.tokenizer, self.recipe.data, seed)
