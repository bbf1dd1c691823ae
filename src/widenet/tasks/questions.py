"""Question answering: the span of a context that answers a question (SQuAD 1.1 and 2.0)."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import AutoModelForQuestionAnswering, PreTrainedTokenizerBase

from widenet.data.batch import Batch
from widenet.data.text.questions import Question, QuestionData, QuestionsSection, load_questions
from widenet.data.text.windows import QuestionBatches, Windows, make_windows
from widenet.errors import WideNetError
from widenet.models.text import WideNetForQuestionAnswering
from widenet.recipes import Recipe
from widenet.tasks.base import Prediction, Words, check_top
from widenet.tasks.metrics import BALANCE, LOSS, Metric, Tally
from widenet.tasks.squad import Answers, pick_answers, squad_scores
from widenet.tasks.text import TextTask, check_fit, check_texts, longest, make_model, make_tokenizer

# What the names of SQuAD 2.0's scores begin with, and the part of the test that these are of.
PARTS = {"HasAns_": "answerable", "NoAns_": "unanswerable"}
SCORED = "Of the validation questions, as SQuAD's script scores them."


class QuestionsRecipe(Recipe):
    """The span of a context that answers a question."""

    task: Literal["question-answering"] = "question-answering"
    data: QuestionsSection


class QuestionAnswering(TextTask):
    """Extractive question answering, SQuAD 1.1 and 2.0."""

    name = "question-answering"
    recipe_class = QuestionsRecipe
    model_class = WideNetForQuestionAnswering
    auto_class = AutoModelForQuestionAnswering
    pipeline = "question-answering"
    metrics = (
        Metric("exact_match", "exact match", "percent", note=SCORED),
        Metric(
            "exact",
            "exact match",
            "percent",
            hub="exact_match",
            note=f"{SCORED} A question counts as having no answer if the score of none exceeds that of the "
            "best answer.",
        ),
        Metric("f1", "F1", "percent", note=SCORED),
        Metric("best_exact", "exact match with the best threshold", "percent"),
        Metric("best_exact_thresh", "that threshold"),
        Metric("best_f1", "F1 with the best threshold", "percent"),
        Metric("best_f1_thresh", "threshold of the best F1"),
        LOSS,
        BALANCE,
    )
    words = Words(
        examples="questions",
        batch="windows",
        one="window",
        data="a file in SQuAD's format",
        loss="The loss that is minimised: cross-entropy of the answer's first and last token, plus the weighted "
        "balance loss. In validation only answers are scored.",
        input="question",
        answers="answers",
        answer="answer",
        usage='print(widenet.Run(".").predict(["Who wrote it?"], context="It was written by Jane Austen."))',
        sample='"Who wrote it?" --context "It was written by Jane Austen."',
    )

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
        self.windows: dict[str, Windows] = {}  # of each part, made when it is first needed
        self.train_batches = QuestionBatches(self._windows("train"), tokenizer)
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
    def reload(cls, recipe: Recipe, model: Any, processor: Any) -> Self:
        recipe = cast(QuestionsRecipe, recipe)
        check_fit(recipe, model, processor)
        return cls(recipe, load_questions(recipe.data), model, processor)

    @property
    def notes(self) -> list[str]:
        lines = []
        if self.data.skipped:
            lines.append(f"{self.data.skipped:,} answers that are not where they should be are left out")
        if cut := self._windows("train").cut_questions:
            lines.append(f"{cut:,} questions are cut: they would leave no room for the context")
        return lines

    def score(self, outputs: Any, batch: Batch) -> tuple[Tensor, int]:
        start = outputs.start_logits.detach().argmax(-1) == batch["start_positions"]
        end = outputs.end_logits.detach().argmax(-1) == batch["end_positions"]
        return (start & end).sum(), len(start)

    def batches(self, part: str) -> Dataset:
        return QuestionBatches(self._windows(part or "test"), self.tokenizer)

    def measure(self, found: Tally, batch: Batch, output: Any) -> None:
        # the windows of all batches become rows of one length
        beyond = 0, self.recipe.data.max_length - output.start_logits.shape[1]
        starts, ends = (
            torch.nn.functional.pad(logits.float(), beyond, value=-math.inf)
            for logits in (output.start_logits, output.end_logits)
        )
        found.keep(window=batch["window"], starts=starts, ends=ends)

    def scores(self, found: Tally, part: str) -> dict[str, Any]:
        """Return the official scores, in percent (:func:`squad_scores`), and keep the answers of the part."""
        questions: list[Question] = getattr(self.data, part or "test")
        section, order = self.recipe.data, found.all("window").argsort()
        answers = pick_answers(
            questions,
            self._windows(part or "test"),
            found.all("starts")[order],
            found.all("ends")[order],
            n_best=section.n_best,
            max_answer_length=section.max_answer_length,
            with_impossible=self.data.has_impossible,
            null_threshold=math.inf,  # always an answer, from which the best threshold can be found
        )
        scores = squad_scores(questions, answers.predictions, answers.null_odds or None)
        none = {name for name, odds in answers.null_odds.items() if odds > 0}
        final = {name: "" if name in none else text for name, text in answers.predictions.items()}
        self.answers = replace(answers, predictions=final)
        return scores

    def test(self) -> dict[str, dict[str, Any]]:
        """Return the scores of all questions, and of those with and without an answer where there are both."""
        tested = super().test()[""]
        parts = {
            part: {key.removeprefix(prefix): value for key, value in tested.items() if key.startswith(prefix)}
            for prefix, part in PARTS.items()
        }
        whole = {key: value for key, value in tested.items() if not key.startswith(tuple(PARTS))}
        return {"": whole, **{part: scores for part, scores in parts.items() if scores}}

    def select(self, scores: dict[str, Any]) -> float:
        return float(scores["f1"])

    def write_predictions(self, folder: Path) -> None:
        if self.answers:
            self.answers.write(folder)

    def _windows(self, part: str) -> Windows:
        if part not in self.windows:
            section, questions = self.recipe.data, getattr(self.data, part)
            made = make_windows(self.tokenizer, questions, section.max_length, section.doc_stride, part == "train")
            self.windows[part] = made
        return self.windows[part]

    @classmethod
    def prediction_options(cls, metrics: dict[str, Any]) -> dict[str, Any]:
        return {"with_impossible": "exact" in metrics.get("headline", [])}  # what SQuAD 2.0 calls exact_match

    @classmethod
    @torch.inference_mode()
    def predict(
        cls,
        model: Any,
        processor: Any,
        inputs: Sequence[str],
        *,
        top: int = 5,
        context: str | None = None,
        max_answer_length: int = 30,
        doc_stride: int = 128,
        with_impossible: bool = False,
        batch_size: int = 64,
    ) -> list[Prediction]:
        """Answer questions about a context of any length, in the context's own words.

        Args:
            context: where the answer stands. What is longer than the model reads is read in overlapping windows.
            max_answer_length: tokens of an answer, at most.
            doc_stride: tokens from the start of a window to that of the next.
            with_impossible: the context may hold no answer, as in SQuAD 2.0; the answer is then "".
        """
        check_top(top)
        if context is None:
            raise WideNetError("questions are answered about a text: give it as context (--context TEXT or @FILE)")
        check_texts([*inputs, context], model, processor)
        if not inputs:
            return []
        asked = [Question(str(index), question, context, []) for index, question in enumerate(inputs)]
        windows = make_windows(processor, asked, longest(model, processor), doc_stride, training=False)
        batches = QuestionBatches(windows, processor)
        shape = len(windows), max(map(len, windows.input_ids))
        starts, ends = torch.full(shape, -torch.inf), torch.full(shape, -torch.inf)  # [W, L]
        for start in range(0, len(windows), batch_size):
            batch = batches.__getitems__(list(range(start, min(start + batch_size, len(windows)))))
            rows = batch.pop("window")
            output = model(**{key: value.to(model.device) for key, value in batch.items()})
            starts[rows, : output.start_logits.shape[1]] = output.start_logits.float().cpu()
            ends[rows, : output.end_logits.shape[1]] = output.end_logits.float().cpu()
        nbest = pick_answers(asked, windows, starts, ends, max(top, 20), max_answer_length, with_impossible).nbest
        return [
            Prediction(each.question, [(one["text"], one["probability"]) for one in nbest[each.id][:top]])
            for each in asked
        ]
