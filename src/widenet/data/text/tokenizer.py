"""Tokenizers: trained on a corpus, loaded from a folder, and checked against a model.

Axes: V token ids.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from widenet.data.common import no_such
from widenet.data.section import DataSection, Place
from widenet.errors import WideNetError, reason

__all__ = ["TextSection", "check_tokenizer", "continuations", "load_tokenizer", "sentence_ends", "train_wordpiece"]

# in the order of their ids: [PAD] is 0
SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
ALPHABET = 1000  # characters that get a token of their own; rarer ones are [UNK]
# Models pad their vocabulary to a multiple of a power of two, for speed; 128 is the largest in common use.
VOCABULARY_PADDING = 128
VOCABULARY_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
WORD_MARKS = ("▁", "Ġ")  # what SentencePiece and byte-level BPE put before a word
Length = Annotated[int, Field(ge=8)]


class TextSection(DataSection):
    """Text of any kind, in tokens."""

    tokenizer: Place | None = None
    """Folder or public name of a tokenizer; null: the start model's, or else a WordPiece tokenizer is trained."""
    lowercase: bool = True
    """Whether a tokenizer that is trained folds case and strips accents."""
    max_length: Length = 128
    """Tokens of the longest sequence, [CLS] and [SEP] included."""


def train_wordpiece(texts: Iterable[str], vocab_size: int, lowercase: bool = True) -> PreTrainedTokenizerFast:
    """Train a WordPiece tokenizer as BERT's: [PAD] is 0, pairs are ``[CLS] A [SEP] B [SEP]``.

    The same texts give the same tokenizer. Memory grows with the number of different words only.

    Args:
        texts: gone over twice, so a list or an object that can be iterated anew; not an iterator.
        vocab_size: at most so many tokens; a small corpus yields fewer.
        lowercase: fold case and strip accents.

    Raises:
        WideNetError: `vocab_size` leaves no room for words.
    """
    if isinstance(texts, Iterator):
        raise TypeError("texts are gone over twice: pass a list, or an object that can be iterated anew")
    tokenizer = Tokenizer(models.WordPiece(unk_token=SPECIAL_TOKENS["unk_token"]))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()

    special = list(SPECIAL_TOKENS.values())
    alphabet = _alphabet(tokenizer, texts)
    # The trainer numbers the continuations of one character as its hash table happens to hold them, and
    # breaks ties between merges by number. Numbering them beforehand makes the result reproducible.
    split = tokenizer.pre_tokenizer.pre_tokenize_str
    single = [f"##{character}" for character in alphabet if len(split(f"a{character}")) == 1]
    smallest = len(special) + len(alphabet) + len(single)
    if vocab_size < smallest:
        raise WideNetError(
            f"vocab_size={vocab_size} is too small: the {len(alphabet)} different characters of the corpus "
            f"alone need {smallest} tokens"
        )
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=special + single, limit_alphabet=ALPHABET, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)

    # a fresh tokenizer, in which the continuations are no special tokens
    vocabulary = tokenizer.get_vocab()
    fresh = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token=SPECIAL_TOKENS["unk_token"]))
    fresh.normalizer, fresh.pre_tokenizer = tokenizer.normalizer, tokenizer.pre_tokenizer
    fresh.decoder = decoders.WordPiece()
    cls, sep = SPECIAL_TOKENS["cls_token"], SPECIAL_TOKENS["sep_token"]
    fresh.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(cls, vocabulary[cls]), (sep, vocabulary[sep])],
    )
    inputs = ["input_ids", "token_type_ids", "attention_mask"]  # by default, token types are left out
    return PreTrainedTokenizerFast(tokenizer_object=fresh, model_input_names=inputs, **SPECIAL_TOKENS)


def _alphabet(tokenizer: Tokenizer, texts: Iterable[str]) -> list[str]:
    """Return the most frequent characters of the texts, normalised and sorted, without white space."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    frequent = sorted(counts, key=lambda character: (-counts[character], character))[:ALPHABET]
    return sorted(set("".join(tokenizer.normalizer.normalize_str("".join(frequent)).split())))


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """Load a fast tokenizer from a folder (of a run, or of any Hugging Face model) or by its public name.

    Raises:
        WideNetError: there is none, it is damaged, it has no fast version, or it lacks a special token.
    """
    name = str(source)
    folder = Path(os.path.expanduser(name))
    if name and folder.is_dir():
        # transformers makes up an empty vocabulary for a folder that has only a config.json
        if not any(any(folder.glob(pattern)) for pattern in VOCABULARY_FILES):
            raise WideNetError(f"{name} has no tokenizer (no file {', '.join(VOCABULARY_FILES[:-1])})")
        name = str(folder)
    elif folder.is_file():
        raise WideNetError(f"{name} is a file; a tokenizer is given by its folder or a Hugging Face name")
    elif not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name) or ("/" in name and folder.parent.is_dir()):
        raise no_such(name, "tokenizer folder")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except Exception as error:  # json's, tokenizers' (a bare Exception) and the hub's errors have no common base
        where = "cannot be read" if folder.is_dir() else "is no folder here and could not be loaded from the hub"
        raise WideNetError(f"tokenizer {name} {where} ({reason(error)})") from error
    if not tokenizer.is_fast:
        raise WideNetError(f"tokenizer {name} has no fast version (tokenizer.json), which WideNet needs")
    lacking = [token for token in SPECIAL_TOKENS if token != "unk_token" and getattr(tokenizer, token) is None]
    if lacking:
        raise WideNetError(f"tokenizer {name} has no {' and no '.join(lacking)}, which pretraining needs")
    return tokenizer


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, vocab_size: int, origin: str) -> None:
    """Refuse a tokenizer that does not belong to a model with `vocab_size` tokens.

    Every id must fit. A model's vocabulary may be larger by less than 128: some are padded, for speed.

    Args:
        origin: where the tokenizer is from, for the message.

    Raises:
        WideNetError: the two do not match.
    """
    tokens = max(tokenizer.get_vocab().values()) + 1
    if not 0 <= vocab_size - tokens < VOCABULARY_PADDING:
        raise WideNetError(f"the tokenizer of {origin} has {tokens} tokens, but the model has {vocab_size}")


def continuations(tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Return bool [V]: True where a token continues the word of the token before it."""
    tokens = _token_names(tokenizer)
    if any(token.startswith("##") for token in tokens):
        found = np.array([token.startswith("##") for token in tokens])
    else:
        # the mark stands before the first piece of a word; tokens without a mark at all are words
        mark = next((mark for mark in WORD_MARKS if sum(token.startswith(mark) for token in tokens) > 1), "")
        found = np.array([not token.startswith(mark) for token in tokens])
    found[tokenizer.all_special_ids] = False
    return found


def sentence_ends(tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Return bool [V]: True for a token that ends a sentence: punctuation up to a ``.``, ``!`` or ``?``."""
    cores = (token.lstrip("#▁Ġ") for token in _token_names(tokenizer))
    return np.array([re.fullmatch(r"[^\w\s]*[.!?]", core) is not None for core in cores])


def _token_names(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    size = max(tokenizer.get_vocab().values()) + 1
    return [token or "" for token in tokenizer.convert_ids_to_tokens(list(range(size)))]  # an id may be unused
