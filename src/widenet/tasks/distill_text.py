"""Distillation on running text."""

from pathlib import Path
from typing import Any, Literal, Self, cast

from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from widenet.config import WideNetTextConfig
from widenet.convert.sources import find_source
from widenet.data.text.corpus import CorpusData, CorpusSection, load_corpus
from widenet.data.text.masking import PretrainingBatches
from widenet.data.text.padding import SegmentBatches
from widenet.data.text.tokenizer import check_tokenizer, load_tokenizer
from widenet.errors import WideNetError
from widenet.models.pretrained import WideNetPreTrainedModel
from widenet.models.text import WideNetForMaskedLM, WideNetForPreTraining
from widenet.recipes import Recipe
from widenet.tasks.base import Words
from widenet.tasks.distillation import LOSS_WORDS, Distillation, DistillationRecipe
from widenet.tasks.text import TextTask, check_length, save_tokenizer


class TextDistillationRecipe(DistillationRecipe):
    """Distillation on running text."""

    task: Literal["text-distillation"] = "text-distillation"
    data: CorpusSection


class TextDistillation(Distillation):
    """On running text."""

    name = "text-distillation"
    recipe_class = TextDistillationRecipe
    words = Words("segments", one="text", data="a text file, or a folder of them", loss=LOSS_WORDS)
    inputs = (*TextTask.inputs, "labels")
    config_class = WideNetTextConfig
    same_fields = ("vocab_size", "max_position_embeddings", "type_vocab_size")

    recipe: TextDistillationRecipe
    data: CorpusData

    def __init__(
        self,
        recipe: TextDistillationRecipe,
        data: CorpusData,
        model: WideNetPreTrainedModel,
        teacher: WideNetPreTrainedModel,
    ) -> None:
        super().__init__(recipe, data, model, teacher)
        self.tokenizer = data.tokenizer
        self.guesses_words = self.has_head and isinstance(model, WideNetForMaskedLM | WideNetForPreTraining)
        self.train_batches = self._segments("train", seed=recipe.seed)

    @classmethod
    def start(cls, recipe: Recipe) -> Self:
        recipe = cast(TextDistillationRecipe, recipe)
        model, teacher, _, folder = cls.start_models(recipe)
        check_length(recipe.data, model.config.max_position_embeddings)
        tokenizer = load_tokenizer(recipe.data.tokenizer or folder)
        check_tokenizer(tokenizer, model.config.vocab_size, recipe.data.tokenizer or str(folder))
        named = recipe.distillation.teacher
        if named is not None and load_tokenizer(find_source(named)).get_vocab() != tokenizer.get_vocab():
            raise WideNetError(f"the teacher {named} reads other tokens than {recipe.data.tokenizer or folder}")
        return cls(recipe, load_corpus(recipe.data, tokenizer), model, teacher)

    @classmethod
    def load_processor(cls, folder: Path) -> PreTrainedTokenizerBase:
        return load_tokenizer(folder)

    @classmethod
    def reload(cls, recipe: Recipe, model: Any, processor: Any) -> Self:
        recipe = cast(TextDistillationRecipe, recipe)
        teacher = cls.reload_teacher(recipe, model)
        return cls(recipe, load_corpus(recipe.data, processor), model, teacher)

    def save_processor(self, folder: Path) -> None:
        save_tokenizer(self.tokenizer, self.recipe.data.max_length, folder)

    def batches(self, part: str) -> Dataset:
        return self._segments(part or "test")

    def _segments(self, part: str, seed: int | None = None) -> Dataset:
        """Return segments as they are, or for a model that guesses words, with some of them masked."""
        section, segments = self.recipe.data, getattr(self.data, part)
        if not self.guesses_words:
            return SegmentBatches(segments, self.tokenizer)
        has_order = isinstance(self.model, WideNetForPreTraining) and self.model.config.type_vocab_size > 1
        if not has_order:
            section = section.model_copy(update={"sentence_order": False})
        return PretrainingBatches(segments, self.tokenizer, section, seed)
