"""Text classification and regression: a class or a number for a sentence or a pair."""

from collections.abc import Sequence
from typing import Any, Literal, Self, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase

from widenet.data.batch import Batch
from widenet.data.text.sentences import SentenceBatches, SentenceData, SentencesSection, load_sentences
from widenet.errors import WideNetError
from widenet.models.text import WideNetForSequenceClassification
from widenet.recipes import Recipe
from widenet.tasks.base import Prediction, Words, best, bounded, check_labels, check_top, label_names
from widenet.tasks.metrics import BALANCE, LOSS, Metric, Tally
from widenet.tasks.text import TextTask, check_fit, check_texts, make_model, make_tokenizer, tokenise


class SentencesRecipe(Recipe):
    """A class or a number for a sentence or a pair."""

    task: Literal["text-classification"] = "text-classification"
    data: SentencesSection


class SentenceClassification(TextTask):
    """Text classification and regression."""

    name = "text-classification"
    recipe_class = SentencesRecipe
    model_class = WideNetForSequenceClassification
    auto_class = AutoModelForSequenceClassification
    pipeline = "text-classification"
    metrics = (
        Metric(
            "accuracy",
            "accuracy",
            "share",
            note="Training accuracy is measured on the texts as trained on, while the weights move.",
            like_training=True,
        ),
        Metric("macro_f1", "macro F1", "share", hub="f1"),
        Metric("pearson", "Pearson correlation", hub="pearsonr"),
        Metric("spearman", "Spearman correlation", hub="spearmanr"),
        LOSS,
        BALANCE,
    )
    words = Words(
        examples="texts",
        one="text",
        data="a file or folder of labelled texts",
        loss="In training cross-entropy, or of numbers the squared error, plus the weighted balance loss, with "
        "dropout; in validation without either.",
        input="text",
        answers="classes",
        answer="label",
        usage="from transformers import pipeline\n\n"
        'classify = pipeline("text-classification", model=".", truncation=True)\nprint(classify("a charming film"))',
        sample='"a charming film"',
    )

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
        parts = {"train": data.train, "validation": data.validation, **data.tests}
        self.parts = {name: SentenceBatches(part, tokenizer, recipe.data.max_length) for name, part in parts.items()}
        self.train_batches = self.parts["train"]
        self.test_parts = tuple(data.tests) if len(data.tests) > 1 else ("",)
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
    def reload(cls, recipe: Recipe, model: Any, processor: Any) -> Self:
        recipe = cast(SentencesRecipe, recipe)
        check_fit(recipe, model, processor)
        if (model.config.problem_type == "regression") != recipe.data.regression:
            asked = "numbers" if recipe.data.regression else "classes"
            raise WideNetError(
                f"{model.name_or_path} does not predict {asked}; data.regression={recipe.data.regression} does not fit"
            )
        data = load_sentences(recipe.data)
        if data.class_names:
            check_labels(str(recipe.data.source), data.class_names, model.config)
        return cls(recipe, data, model, processor)

    @property
    def notes(self) -> list[str]:
        cut = sum(part.truncated for part in self.parts.values())
        return [f"{cut:,} texts are cut at data.max_length={self.recipe.data.max_length} tokens"] if cut else []

    def score(self, outputs: Any, batch: Batch) -> tuple[Tensor, int]:
        if self.data.class_names is None:
            return torch.zeros(()), 0
        return (outputs.logits.detach().argmax(-1) == batch["labels"]).sum(), len(batch["labels"])

    def batches(self, part: str) -> Dataset:
        return self.parts[part or "test"]

    def measure(self, found: Tally, batch: Batch, output: Any) -> None:
        found.keep(logits=output.logits.float(), labels=batch["labels"])

    def scores(self, found: Tally, part: str) -> dict[str, Any]:
        """Return the scores of a part.

        Returns:
            For classes ``accuracy``, ``macro_f1`` and ``loss`` (cross-entropy); for numbers ``pearson``,
            ``spearman`` and ``loss`` (mean squared error).
        """
        return text_scores(found.all("logits"), found.all("labels"), bool(self.data.class_names))

    def select(self, scores: dict[str, Any]) -> float:
        by_loss = -bounded(scores["loss"])
        # ties, of which a small validation set has many, go by the loss
        return scores["accuracy"] + 1e-4 * by_loss if self.data.class_names else by_loss

    @classmethod
    @torch.inference_mode()
    def predict(
        cls,
        model: Any,
        processor: Any,
        inputs: Sequence[str],
        *,
        top: int = 5,
        pair: str | None = None,
        batch_size: int = 64,
    ) -> list[Prediction]:
        """Classify texts, or predict their numbers.

        Args:
            pair: the second text, where the model was trained on pairs; the same for each of ``inputs``.
        """
        check_top(top)
        check_texts(inputs if pair is None else [*inputs, pair], model, processor)
        names = list(model.config.id2label.values())
        found = []
        for start in range(0, len(inputs), batch_size):
            block = list(inputs[start : start + batch_size])
            batch, cut = tokenise(model, processor, block, None if pair is None else [pair] * len(block))
            logits = model(**batch).logits.float().cpu()  # [N, C]
            for text, row, shortened in zip(block, logits, cut, strict=True):
                if model.is_regression:
                    found.append(Prediction(text, value=row.item(), cut=shortened))
                else:
                    found.append(Prediction(text, best(row.softmax(-1), names, top), cut=shortened))
        return found


def text_scores(logits: Tensor, labels: Tensor, classes: bool) -> dict[str, float]:
    """Return the metrics of logits [n, classes] or numbers [n, 1]."""
    from scipy.stats import pearsonr, spearmanr  # these two take longer to load than the rest of the room
    from sklearn.metrics import f1_score

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
