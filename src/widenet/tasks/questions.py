"""The span of a context that answers a question."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from widenet.data.batch import Batch
from widenet.data.text.questions import Question, QuestionData, load_questions
from widenet.data.text.windows import QuestionBatches, Windows, make_windows
from widenet.models.text import WideNetForQuestionAnswering
from widenet.recipes import QuestionsRecipe, Recipe
from widenet.tasks.base import RoutingTally
from widenet.tasks.squad import Answers, pick_answers, squad_scores
from widenet.tasks.text import TextTask, make_model, make_tokenizer, reload_text_model


class QuestionAnswering(TextTask):
    """Extractive question answering, SQuAD 1.1 and 2.0."""

    unit, examples = "windows", "questions"
    model_class = WideNetForQuestionAnswering

    recipe: QuestionsRecipe
    model: WideNetForQuestionAnswering

    def __init__(
        self,
        recipe: QuestionsRecipe,
        data: QuestionData,
        model: WideNetForQuestionAnswering,
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        self.recipe, self.data, self.model, self.tokenizer = recipe, data, model, tokenizer
        self.split = data.split
        self.windows = self._windows(data.train, training=True)
        self.train_batches = QuestionBatches(self.windows, tokenizer)
        self.headline = ("f1", "exact" if data.has_impossible else "exact_match")
        self.answers: Answers | None = None

    @classmethod
    def start(cls, recipe: Recipe) -> Self:
        recipe = cast(QuestionsRecipe, recipe)
        data = load_questions(recipe.data)
        texts = list(dict.fromkeys(text for each in data.train for text in (each.context, each.question)))
        tokenizer = make_tokenizer(recipe, texts)
        return cls(recipe, data, make_model(recipe, cls.model_class, tokenizer), tokenizer)

    @classmethod
    def reload(cls, recipe: Recipe, run: Path) -> Self:
        recipe = cast(QuestionsRecipe, recipe)
        model, tokenizer = reload_text_model(recipe, run, cls.model_class)
        return cls(recipe, load_questions(recipe.data), model, tokenizer)

    @property
    def notes(self) -> list[str]:
        lines = []
        if self.data.skipped:
            lines.append(f"{self.data.skipped:,} answers that are not where they should be are left out")
        if self.windows.cut_questions:
            lines.append(f"{self.windows.cut_questions:,} questions are cut: they would leave no room for the context")
        return lines

    def score(self, outputs: Any, batch: Batch) -> tuple[Tensor, int]:
        start = outputs.start_logits.detach().argmax(-1) == batch["start_positions"]
        end = outputs.end_logits.detach().argmax(-1) == batch["end_positions"]
        return (start & end).sum(), len(start)

    def validate(self) -> dict[str, float]:
        scores, _ = self._measure(self.data.validation)
        return {**scores, "selection": scores["f1"]}

    def test(self) -> dict[str, Any]:
        """Return the official scores (see :func:`squad_scores`), in percent, and what the tally says."""
        tally = RoutingTally(self.model.config)
        scores, self.answers = self._measure(self.data.test, tally)
        return scores | {"test_questions": len(self.data.test)} | tally.metrics(self.unit)

    def write_predictions(self, folder: Path) -> None:
        if self.answers:
            self.answers.write(folder)

    def _measure(
        self, questions: list[Question], tally: RoutingTally | None = None
    ) -> tuple[dict[str, float], Answers]:
        windows = self._windows(questions, training=False)
        longest = max(map(len, windows.input_ids))
        starts, ends = (torch.full((len(windows), longest), -torch.inf) for _ in range(2))  # [W, L]
        for batch, output in self.run_through(QuestionBatches(windows, self.tokenizer)):
            length = output.start_logits.shape[1]
            starts[batch["window"].cpu(), :length] = output.start_logits.float().cpu()
            ends[batch["window"].cpu(), :length] = output.end_logits.float().cpu()
            if tally:
                tally.update(output, len(batch["window"]), batch["attention_mask"])
        section = self.recipe.data
        answers = pick_answers(
            questions,
            windows,
            starts,
            ends,
            n_best=section.n_best,
            max_answer_length=section.max_answer_length,
            with_impossible=self.data.has_impossible,
            null_threshold=math.inf,  # always an answer, from which the best threshold can be found
        )
        scores = squad_scores(questions, answers.predictions, answers.null_odds or None)
        none = {name for name, odds in answers.null_odds.items() if odds > 0}
        final = {name: "" if name in none else text for name, text in answers.predictions.items()}
        return scores, replace(answers, predictions=final)

    def _windows(self, questions: list[Question], training: bool) -> Windows:
        section = self.recipe.data
        return make_windows(self.tokenizer, questions, section.max_length, section.doc_stride, training)
