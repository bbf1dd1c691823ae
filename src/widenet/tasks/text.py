"""What the text tasks have in common: the tokenizer, and the model that fits it.

Axes: N texts, L tokens of the longest one.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

from transformers import PreTrainedTokenizerBase

from widenet.config import WideNetTextConfig
from widenet.convert.folder import adapt_text_model, load_model, start_config
from widenet.data.batch import Batch
from widenet.data.images.sets import looks_like_image
from widenet.data.text.tokenizer import TextSection, check_tokenizer, load_tokenizer, train_wordpiece
from widenet.errors import WideNetError
from widenet.models.text import WideNetTextPreTrainedModel
from widenet.recipes import Recipe
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
            config: Any = start_config(Path(name).expanduser(), WideNetTextConfig)
        else:
            config = preset_config(recipe, WideNetTextConfig)
        check_length(section, recipe.model.overrides.get("max_position_embeddings", config.max_position_embeddings))

    @classmethod
    def load(cls, folder: Path) -> WideNetTextPreTrainedModel:
        return load_model(folder, cls.model_class)

    @classmethod
    def load_processor(cls, folder: Path) -> PreTrainedTokenizerBase:
        return load_tokenizer(folder)

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


def check_fit(recipe: Recipe, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise :class:`WideNetError` where a model to be tested has another vocabulary, or reads less than asked."""
    check_tokenizer(tokenizer, model.config.vocab_size, model.name_or_path)
    check_length(cast(TextSection, recipe.data), model.config.max_position_embeddings)


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


def check_texts(texts: Sequence[str], model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise :class:`WideNetError` for a text that is none, or a tokenizer that is not the model's."""
    check_tokenizer(tokenizer, model.config.vocab_size, model.name_or_path)
    for text in texts:
        if not text.strip():
            raise WideNetError(f"there is nothing to predict from: {text!r} is an empty text")
        if looks_like_image(text):
            raise WideNetError(f"{text} is the path of an image file, but the model reads text")


def tokenise(
    model: Any, tokenizer: PreTrainedTokenizerBase, texts: list[str], pairs: list[str] | None = None
) -> tuple[Batch, list[bool]]:
    """Return a padded batch [N, L] on the model's device, and of each text whether it was cut."""
    length = longest(model, tokenizer)
    encoded = tokenizer(texts, pairs, padding=True, truncation="longest_first", max_length=length, return_tensors="pt")
    cut = [bool(encoding.overflowing) for encoding in encoded.encodings or []]
    return {key: value.to(model.device) for key, value in encoded.items()}, cut


def longest(model: Any, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the tokens that a model reads: those it was trained on, which its tokenizer says."""
    return int(min(tokenizer.model_max_length, model.config.max_position_embeddings))
