"""From raw input to answers, with a trained run: images, sentences, masked words, questions."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from widenet.convert.folder import load_model, load_processor
from widenet.data.batch import Batch
from widenet.data.images.sets import open_image
from widenet.data.text.questions import Question
from widenet.data.text.windows import QuestionBatches, make_windows
from widenet.errors import WideNetError
from widenet.models.text import WideNetForPreTraining, WideNetForQuestionAnswering, WideNetForSequenceClassification
from widenet.models.vision import WideNetForImageClassification
from widenet.runs.compare import read_metrics
from widenet.tasks.squad import pick_answers
from widenet.tasks.text import load_text_model


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one image, best first, as (class name, probability)."""

    image: str
    classes: list[tuple[str, float]]


@dataclass(frozen=True)
class TextPrediction:
    """What a model says of one text.

    Attributes:
        text: the text, or the question.
        classes: the most probable classes or, at a mask or of a question, words and answers, best first.
        value: the number that a regression predicts.
        cut: whether the text was longer than the model reads, and its end was left out.
    """

    text: str
    classes: list[tuple[str, float]] = field(default_factory=list)
    value: float | None = None
    cut: bool = False


@torch.inference_mode()
def predict_images(
    run: str | Path, images: Sequence[str | Path], top: int = 5, batch_size: int = 64
) -> list[Prediction]:
    """Classify image files of any size.

    Args:
        run: run or model folder.
        images: image files.
        top: how many classes to return for each, at most the model's number of classes.
        batch_size: images at once; without an evaluation capacity the result does not depend on it.

    Raises:
        WideNetError: the run or an image cannot be read, or ``top`` is below 1.
    """
    _check_top(top)
    model, processor = load_model(run, WideNetForImageClassification).eval(), load_processor(run)
    names = model.config.id2label
    found = []
    for start in range(0, len(images), batch_size):
        paths = [Path(image) for image in images[start : start + batch_size]]
        pixels = processor([open_image(path) for path in paths], return_tensors="pt")["pixel_values"]
        best = model(pixels).logits.float().softmax(-1).topk(min(top, len(names)))
        for path, probabilities, indices in zip(paths, best.values.tolist(), best.indices.tolist(), strict=True):
            classes = [(names[index], value) for index, value in zip(indices, probabilities, strict=True)]
            found.append(Prediction(str(path), classes))
    return found


@torch.inference_mode()
def predict_texts(
    run: str | Path, texts: Sequence[str], pair: str | None = None, top: int = 5, batch_size: int = 64
) -> list[TextPrediction]:
    """Classify texts, or predict their numbers.

    Args:
        run: run or model folder of text classification.
        texts: what to classify.
        pair: the second text, where the model was trained on pairs; the same for each of ``texts``.
        top: how many classes to return for each.
        batch_size: texts at once; the result does not depend on it.

    Raises:
        WideNetError: the run cannot be read, a text is empty, or ``top`` is below 1.
    """
    _check_top(top)
    _check_texts(texts if pair is None else [*texts, pair])
    model, tokenizer = load_text_model(Path(run), WideNetForSequenceClassification)
    names = model.eval().config.id2label
    found = []
    for start in range(0, len(texts), batch_size):
        block = list(texts[start : start + batch_size])
        batch, cut = _tokenise(model, tokenizer, block, None if pair is None else [pair] * len(block))
        logits = model(**batch).logits.float()
        for text, row, shortened in zip(block, logits, cut, strict=True):
            if model.is_regression:
                found.append(TextPrediction(text, value=row.item(), cut=shortened))
            else:
                classes = _best(row.softmax(-1), list(names.values()), top)
                found.append(TextPrediction(text, classes, cut=shortened))
    return found


@torch.inference_mode()
def predict_masks(run: str | Path, texts: Sequence[str], top: int = 5) -> list[TextPrediction]:
    """Fill in masked words, with a pretrained run: one prediction per mask, in reading order.

    Args:
        run: run or model folder of pretraining.
        texts: each with the tokenizer's mask token at least once, as in ``"a [MASK] of tea"``.
        top: how many words to return for each mask.

    Raises:
        WideNetError: the run cannot be read, a text has no mask in reach, or ``top`` is below 1.
    """
    _check_top(top)
    _check_texts(texts)
    model, tokenizer = load_text_model(Path(run), WideNetForPreTraining)
    model.eval()
    # a vocabulary may be padded with ids that stand for nothing
    words = [str(tokenizer.convert_ids_to_tokens(index)) for index in range(model.config.vocab_size)]
    found: list[TextPrediction] = []
    for text in texts:
        batch, (cut,) = _tokenise(model, tokenizer, [text], None)
        at = batch["input_ids"][0] == tokenizer.mask_token_id
        if not at.any():
            raise WideNetError(f"{_short(text)} has no {tokenizer.mask_token} among the tokens that the model reads")
        probabilities = model(**batch).logits[0, at].float().softmax(-1)  # [masks, V]
        found += [TextPrediction(text, _best(row, words, top), cut=cut) for row in probabilities]
    return found


@torch.inference_mode()
def predict_answers(
    run: str | Path,
    questions: Sequence[str],
    context: str,
    top: int = 5,
    *,
    max_answer_length: int = 30,
    doc_stride: int = 128,
    with_impossible: bool | None = None,
    batch_size: int = 64,
) -> list[TextPrediction]:
    """Answer questions about a context of any length, in the context's own words.

    Args:
        run: run or model folder of question answering.
        questions: what to ask.
        context: where the answer stands. What is longer than the model reads is read in overlapping windows.
        top: how many answers to return for each question. "" says that the context holds none.
        max_answer_length: tokens of an answer, at most.
        doc_stride: tokens from the start of a window to that of the next.
        with_impossible: the context may hold no answer, as in SQuAD 2.0. None means: if the run was trained
            on such questions.
        batch_size: windows at once; the result does not depend on it.

    Raises:
        WideNetError: the run cannot be read, a text is empty, or ``top`` is below 1.
    """
    _check_top(top)
    _check_texts([*questions, context])
    model, tokenizer = load_text_model(Path(run), WideNetForQuestionAnswering)
    model.eval()
    asked = [Question(str(index), question, context, []) for index, question in enumerate(questions)]
    windows = make_windows(tokenizer, asked, _longest(model, tokenizer), doc_stride, training=False)
    batches = QuestionBatches(windows, tokenizer)
    shape = len(windows), max(map(len, windows.input_ids))
    starts, ends = torch.full(shape, -torch.inf), torch.full(shape, -torch.inf)  # [W, L]
    for start in range(0, len(windows), batch_size):
        batch = batches.__getitems__(list(range(start, min(start + batch_size, len(windows)))))
        rows = batch.pop("window")
        output = model(**batch)
        starts[rows, : output.start_logits.shape[1]] = output.start_logits.float()
        ends[rows, : output.end_logits.shape[1]] = output.end_logits.float()
    if with_impossible is None:
        recorded = read_metrics(Path(run)) if (Path(run) / "metrics.json").is_file() else {}
        with_impossible = "exact" in recorded.get("headline", [])  # what SQuAD 2.0 calls exact_match
    nbest = pick_answers(asked, windows, starts, ends, max(top, 20), max_answer_length, with_impossible).nbest
    return [
        TextPrediction(question.question, [(each["text"], each["probability"]) for each in nbest[question.id][:top]])
        for question in asked
    ]


def _tokenise(
    model: Any, tokenizer: PreTrainedTokenizerBase, texts: list[str], pairs: list[str] | None
) -> tuple[Batch, list[bool]]:
    """Return a padded batch, and of each text whether it was cut."""
    encoded = tokenizer(
        texts,
        pairs,
        padding=True,
        truncation="longest_first",
        max_length=_longest(model, tokenizer),
        return_tensors="pt",
    )
    return dict(encoded), [bool(encoding.overflowing) for encoding in encoded.encodings or []]


def _longest(model: Any, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the tokens that a model reads: those it was trained on, which its tokenizer says."""
    return int(min(tokenizer.model_max_length, model.config.max_position_embeddings))


def _best(probabilities: torch.Tensor, names: list[str], top: int) -> list[tuple[str, float]]:
    best = probabilities.topk(min(top, len(names)))
    return [(names[index], value) for index, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)]


def _check_top(top: int) -> None:
    if top < 1:
        raise WideNetError(f"top={top} must be at least 1")


def _check_texts(texts: Sequence[str]) -> None:
    for text in texts:
        if not text.strip():
            raise WideNetError(f"there is nothing to predict from: {text!r} is an empty text")


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
