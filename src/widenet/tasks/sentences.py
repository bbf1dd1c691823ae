"""A class or a number for a sentence or a pair."""

from pathlib import Path
from typing import Any, Self, cast

import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import f1_score
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from widenet.data.batch import Batch
from widenet.data.text.sentences import SentenceBatches, SentenceData, load_sentences
from widenet.errors import WideNetError
from widenet.models.text import WideNetForSequenceClassification
from widenet.recipes import Recipe, SentencesRecipe
from widenet.tasks.base import RoutingTally, bounded, check_labels, label_names
from widenet.tasks.text import TextTask, make_model, make_tokenizer, reload_text_model


class SentenceClassification(TextTask):
    """Text classification and regression."""

    unit = examples = "texts"
    model_class = WideNetForSequenceClassification

    recipe: SentencesRecipe
    model: WideNetForSequenceClassification

    def __init__(
        self,
        recipe: SentencesRecipe,
        data: SentenceData,
        model: WideNetForSequenceClassification,
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        self.recipe, self.data, self.model, self.tokenizer = recipe, data, model, tokenizer
        self.split = data.split
        length = recipe.data.max_length
        self.train_batches = SentenceBatches(data.train, tokenizer, length)
        self.validation = SentenceBatches(data.validation, tokenizer, length)
        self.tests = {name: SentenceBatches(part, tokenizer, length) for name, part in data.tests.items()}
        self.headline = ("accuracy",) if data.class_names else ("pearson", "spearman")

    @classmethod
    def start(cls, recipe: Recipe) -> Self:
        recipe = cast(SentencesRecipe, recipe)
        data = load_sentences(recipe.data)
        tokenizer = make_tokenizer(recipe, [*data.train.first, *(data.train.second or [])])
        fields: dict[str, Any] = {"num_labels": 1, "problem_type": "regression"}
        if data.class_names:
            fields = {**label_names(data.class_names), "problem_type": "single_label_classification"}
        return cls(recipe, data, make_model(recipe, cls.model_class, tokenizer, **fields), tokenizer)

    @classmethod
    def reload(cls, recipe: Recipe, run: Path) -> Self:
        recipe = cast(SentencesRecipe, recipe)
        model, tokenizer = reload_text_model(recipe, run, cls.model_class)
        if (model.config.problem_type == "regression") != recipe.data.regression:
            asked = "numbers" if recipe.data.regression else "classes"
            raise WideNetError(
                f"{run} does not predict {asked}; data.regression={recipe.data.regression} does not fit"
            )
        data = load_sentences(recipe.data)
        if data.class_names:
            check_labels(str(recipe.data.source), data.class_names, model.config)
        return cls(recipe, data, model, tokenizer)

    @property
    def notes(self) -> list[str]:
        parts = (cast(SentenceBatches, self.train_batches), self.validation, *self.tests.values())
        cut = sum(part.truncated for part in parts)
        return [f"{cut:,} texts are cut at data.max_length={self.recipe.data.max_length} tokens"] if cut else []

    def score(self, outputs: Any, batch: Batch) -> tuple[Tensor, int]:
        if self.data.class_names is None:
            return torch.zeros(()), 0
        return (outputs.logits.detach().argmax(-1) == batch["labels"]).sum(), len(batch["labels"])

    def validate(self) -> dict[str, float]:
        found = self._measure(self.validation)
        selection = -bounded(found["loss"])
        if self.data.class_names:  # ties, of which a small validation set has many, go by the loss
            selection = found["accuracy"] + 1e-4 * selection
        return {**found, "selection": selection}

    def test(self) -> dict[str, Any]:
        """Return the test metrics; of several test parts the first one's, and each one's under its own name.

        Returns:
            For classes ``accuracy``, ``macro_f1`` and ``loss`` (cross-entropy), for numbers ``pearson``,
            ``spearman`` and ``loss`` (mean squared error); and what :meth:`RoutingTally.metrics` returns,
            over all test parts.
        """
        tally = RoutingTally(self.model.config)
        found = {name: self._measure(part, tally) for name, part in self.tests.items()}
        metrics: dict[str, Any] = dict(next(iter(found.values())))
        if len(found) > 1:
            metrics |= {f"{name}_{key}": value for name, part in found.items() for key, value in part.items()}
        return metrics | tally.metrics(self.unit)

    def _measure(self, part: SentenceBatches, tally: RoutingTally | None = None) -> dict[str, float]:
        logits, labels = [], []
        for batch, output in self.run_through(part):
            logits.append(output.logits.float().cpu())
            labels.append(batch["labels"].cpu())
            if tally:
                tally.update(output, len(batch["labels"]), batch["attention_mask"])
        return _scores(torch.cat(logits), torch.cat(labels), bool(self.data.class_names))


def _scores(logits: Tensor, labels: Tensor, classes: bool) -> dict[str, float]:
    """Return the metrics of logits [n, classes] or numbers [n, 1]."""
    if classes:
        guesses = logits.argmax(-1)
        return {
            "accuracy": float((guesses == labels).float().mean()),
            "macro_f1": float(f1_score(labels, guesses, average="macro")),
            "loss": float(torch.nn.functional.cross_entropy(logits, labels)),
        }
    guesses = logits.squeeze(-1)
    varied = bool(guesses.std() > 0) and bool(labels.std() > 0)  # of a constant there is no correlation
    return {
        "pearson": float(pearsonr(guesses, labels).statistic) if varied else 0.0,
        "spearman": float(spearmanr(guesses, labels).statistic) if varied else 0.0,
        "loss": float(torch.nn.functional.mse_loss(guesses, labels)),
    }
