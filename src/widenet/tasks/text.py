"""What the text tasks have in common: the tokenizer, and the model that fits it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, cast

from transformers import PreTrainedTokenizerBase

from widenet.config import WideNetTextConfig
from widenet.convert.folder import TEXT_HEADS, adapt_text_model, load_model
from widenet.data.text.tokenizer import check_tokenizer, load_tokenizer, train_wordpiece
from widenet.errors import WideNetError
from widenet.models.text import WideNetTextPreTrainedModel
from widenet.recipes import Recipe, TextSection
from widenet.tasks.base import Task, check_labels_open, is_folder, preset_config


class TextTask(Task):
    """Tokens in."""

    inputs: ClassVar[tuple[str, ...]] = ("input_ids", "attention_mask", "token_type_ids")
    model_class: ClassVar[type[WideNetTextPreTrainedModel]]

    tokenizer: PreTrainedTokenizerBase

    @classmethod
    def check(cls, recipe: Recipe) -> None:
        section = cast(TextSection, recipe.data)
        check_labels_open(recipe)
        if is_folder(name := str(recipe.model.name)):
            config: Any = load_model(Path(name).expanduser(), cls.model_class, fresh=TEXT_HEADS).config
        else:
            config = preset_config(recipe, WideNetTextConfig)
        check_length(section, recipe.model.overrides.get("max_position_embeddings", config.max_position_embeddings))

    def save_processor(self, folder: Path) -> None:
        save_tokenizer(self.tokenizer, cast(TextSection, self.recipe.data).max_length, folder)


def find_tokenizer(recipe: Recipe) -> PreTrainedTokenizerBase | None:
    """Return the tokenizer that a recipe names, or that of the model it starts from; None: train one."""
    section = cast(TextSection, recipe.data)
    if section.tokenizer is not None:
        return load_tokenizer(section.tokenizer)
    name = str(recipe.model.name)
    return load_tokenizer(Path(name).expanduser()) if is_folder(name) else None


def make_tokenizer(recipe: Recipe, texts: Iterable[str]) -> PreTrainedTokenizerBase:
    """Return the recipe's tokenizer, or train WordPiece on texts, as large as the model's vocabulary."""
    section = cast(TextSection, recipe.data)
    found = find_tokenizer(recipe)
    return found or train_wordpiece(texts, preset_config(recipe, WideNetTextConfig).vocab_size, section.lowercase)


def make_model(
    recipe: Recipe, model_class: type[WideNetTextPreTrainedModel], tokenizer: PreTrainedTokenizerBase, **fields: Any
) -> Any:
    """Return the recipe's model with a vocabulary that fits the tokenizer.

    A preset takes the tokenizer's vocabulary; a pretrained model has its own, which must match.

    Raises:
        WideNetError: they do not fit.
    """
    name, overrides = str(recipe.model.name), recipe.model.overrides
    if is_folder(name):
        model: Any = adapt_text_model(Path(name).expanduser(), model_class, {**fields, **overrides})
        check_tokenizer(tokenizer, model.config.vocab_size, cast(TextSection, recipe.data).tokenizer or name)
        return model
    tokens = max(tokenizer.get_vocab().values()) + 1
    config = preset_config(recipe, WideNetTextConfig, **fields)
    named = cast(TextSection, recipe.data).tokenizer
    if named is not None and "vocab_size" in overrides:  # without a tokenizer, it is how large that may become
        check_tokenizer(tokenizer, config.vocab_size, named)
    if not 0 <= config.vocab_size - tokens < 128:  # as far as check_tokenizer lets a vocabulary be padded
        config.vocab_size = tokens
    config.pad_token_id = tokenizer.pad_token_id
    return model_class(config)


def reload_text_model(
    recipe: Recipe, run: Path, model_class: type[WideNetTextPreTrainedModel]
) -> tuple[Any, PreTrainedTokenizerBase]:
    """Return a run's model and tokenizer, to be tested with a recipe.

    Raises:
        WideNetError: as :func:`load_text_model`, or the model reads fewer tokens than the recipe says.
    """
    model, tokenizer = load_text_model(run, model_class)
    check_length(cast(TextSection, recipe.data), model.config.max_position_embeddings)
    return model, tokenizer


def check_length(section: TextSection, positions: int) -> None:
    """Raise :class:`WideNetError` where a recipe's texts are longer than a model reads."""
    if section.max_length > positions:
        raise WideNetError(f"data.max_length={section.max_length} is more than max_position_embeddings={positions}")


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, max_length: int, folder: Path) -> None:
    """Save a tokenizer with the length that predictions cut at."""
    tokenizer.model_max_length = max_length
    tokenizer.backend_tokenizer.no_truncation()  # what calls left behind is not the tokenizer's own
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.save_pretrained(folder)


def load_text_model(run: Path, model_class: type[WideNetTextPreTrainedModel]) -> tuple[Any, PreTrainedTokenizerBase]:
    """Return a run's model and tokenizer.

    Raises:
        WideNetError: one of them is missing or damaged, or they do not match.
    """
    model: Any = load_model(run, model_class)
    tokenizer = load_tokenizer(run)
    check_tokenizer(tokenizer, model.config.vocab_size, str(run))
    return model, tokenizer
