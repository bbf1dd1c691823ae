"""From a corpus of text to segments of token ids, tokenised once and held on disk.

Axes: S segments, V token ids.

Texts of any size are read, tokenised and written piece by piece into a cache; what comes back reads
them from there through memory maps, so that memory does not grow with the corpus.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from transformers import PreTrainedTokenizerBase

from widenet.data.common import cache_folder
from widenet.data.section import AtLeastOne, Fraction, Place
from widenet.data.text.documents import Documents, Piece, find_texts, iter_pieces
from widenet.data.text.tokenizer import TextSection, load_tokenizer, sentence_ends, train_wordpiece
from widenet.errors import WideNetError, reason

__all__ = ["CorpusData", "CorpusSection", "Segments", "load_corpus", "sentence_cuts", "unigram_loss"]

SPECIAL_PER_PAIR = 3  # [CLS] A [SEP] B [SEP]
SMALLEST_SEGMENT = 8  # tokens; shorter leftovers are dropped
BLOCK = 32  # segments that are held out together
SMALLEST_BLOCKS = 64  # a small corpus has smaller blocks rather than fewer
BATCH = 1 << 20  # characters tokenised at a time
FORMAT = 1  # raise it when the files in the cache change
VOCABULARY = 30_000  # tokens


class CorpusSection(TextSection):
    """Running text for pretraining."""

    source: Place | None
    """Text file, folder of them, .jsonl, Hugging Face id, or wikipedia-books, the corpus of the paper."""
    documents: Documents = "file"
    """What a document is: a whole file (or row of a table), what stands between blank lines, or a line."""
    validation_fraction: Fraction = 0.01
    """Share of the segments, less those of the test part, that picks the checkpoint; at least one block."""
    test_fraction: Fraction = 0.01
    """Share of the segments held out for testing; at least one block."""
    masking: Literal["ngram", "token"] = "ngram"
    """What is masked: runs of whole words, as ALBERT (ngram), or single tokens, as BERT (token)."""
    mask_rate: Fraction = 0.15
    """Share of an example's tokens to predict, at least one; special tokens and [UNK] do not count."""
    max_ngram: AtLeastOne = 3
    """Words in the longest run that is masked."""
    sentence_order: bool = True
    """Whether the order of a segment's two parts is predicted, too."""


# ---- segments ----


class Segments:
    """A part of a corpus: random access to its segments, each a run of tokens of one document.

    Nothing but the list of its blocks is in memory; a worker process opens the files anew.

    Attributes:
        tokens: number of tokens in all.
    """

    def __init__(self, folder: Path, blocks: np.ndarray, block_size: int) -> None:
        """Take the blocks (int64, ascending) of `block_size` segments each of the corpus in `folder`."""
        self.folder = folder
        self.blocks = blocks
        self.block_size = block_size
        self._ids, self._offsets = _open_cache(folder)
        S = len(self._offsets) - 1
        ends = np.minimum((blocks + 1) * block_size, S)
        self._length = int((ends - blocks * block_size).sum())
        self.tokens = int((self._offsets[ends] - self._offsets[blocks * block_size]).sum())

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> np.ndarray:
        """Return the token ids (int64) of one segment."""
        if not 0 <= index < self._length:  # also what ends a for-loop
            raise IndexError(f"segment {index} of {self._length}")
        block, rest = divmod(int(index), self.block_size)
        segment = int(self.blocks[block]) * self.block_size + rest
        return self._ids[self._offsets[segment] : self._offsets[segment + 1]].astype(np.int64)

    def __reduce__(self) -> tuple[Any, ...]:
        return Segments, (self.folder, self.blocks, self.block_size)

    def counts(self, V: int) -> np.ndarray:
        """Return how often each token id occurs, int64 [V]."""
        total = np.zeros(V, dtype=np.int64)
        for block in self.blocks.tolist():
            end = min((block + 1) * self.block_size, len(self._offsets) - 1)
            total += np.bincount(self._ids[self._offsets[block * self.block_size] : self._offsets[end]], minlength=V)
        return total


def sentence_cuts(ids: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return where, inside of `ids`, a new sentence starts; `ends` is :func:`sentence_ends`.

    Of several sentence ends in a row ("..." or "?!") the last counts.
    """
    found = ends[ids]
    return np.flatnonzero(found[:-1] & ~found[1:]) + 1


class _Writer:
    """Cuts documents into segments and writes them, one after another.

    A segment ends with the last sentence that fits, if that fills at least half of it. Otherwise its cut
    off end would give away the order of its two halves, for sentence-order prediction.
    """

    def __init__(self, folder: Path, longest: int, ends: np.ndarray) -> None:
        self.longest = longest
        self.ends = ends
        self.dtype = np.dtype("<u2" if len(ends) <= 1 << 16 else "<u4")
        self.ids = open(folder / "ids.bin", "wb")  # noqa: SIM115 (closed in close)
        self.offsets = open(folder / "offsets.bin", "wb")  # noqa: SIM115 (as above)
        self.offsets.write(np.zeros(1, "<i8").tobytes())
        self.pending = np.empty(0, self.dtype)
        self.written = self.segments = self.documents = self.dropped = 0
        self.unigram = np.zeros(len(ends), dtype=np.int64)
        self.digest = hashlib.sha256()

    def add(self, ids: list[int], starts_document: bool) -> None:
        """Take the tokens of a piece."""
        if starts_document:
            self.finish()
            self.documents += 1
        pending = np.concatenate([self.pending, np.array(ids, self.dtype)])
        cuts = sentence_cuts(pending, self.ends)
        begin, borders = 0, []
        while len(pending) - begin > self.longest:
            last = int(np.searchsorted(cuts, begin + self.longest, side="right")) - 1
            whole = last >= 0 and cuts[last] - begin >= self.longest / 2
            begin = int(cuts[last]) if whole else begin + self.longest
            borders.append(begin)
        self._write(pending, borders)
        self.pending = pending[begin:]

    def finish(self) -> None:
        """End the document."""
        if len(self.pending) >= SMALLEST_SEGMENT:
            self._write(self.pending, [len(self.pending)])
        else:
            self.dropped += len(self.pending)
        self.pending = self.pending[:0]

    def _write(self, ids: np.ndarray, borders: list[int]) -> None:
        if borders:
            ids = ids[: borders[-1]]
            offsets = (self.written + np.array(borders)).astype("<i8").tobytes()
            for part in (ids.tobytes(), offsets):
                self.digest.update(part)
            self.ids.write(ids.tobytes())
            self.offsets.write(offsets)
            np.add.at(self.unigram, ids, 1)
            self.written += len(ids)
            self.segments += len(borders)

    def close(self) -> None:
        self.ids.close()
        self.offsets.close()


def _open_cache(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return memory maps of the token ids and of the offsets [S + 1] of the segments in them."""
    record = json.loads((folder / "corpus.json").read_text())
    return np.memmap(folder / "ids.bin", record["dtype"], "r"), np.memmap(folder / "offsets.bin", "<i8", "r")


def _is_whole(folder: Path) -> bool:
    try:
        record = json.loads((folder / "corpus.json").read_text())
        sizes = {
            "ids.bin": record["tokens"] * np.dtype(record["dtype"]).itemsize,
            "offsets.bin": (record["segments"] + 1) * 8,
        }
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


# ---- the corpus ----


@dataclass(frozen=True)
class CorpusData:
    """Three disjoint parts of one corpus.

    Attributes:
        train, validation, test: the parts.
        tokenizer: what the ids mean.
        unigram: how often each id occurs in the training part, int64 [V].
        split: JSON-able record: ``source``, ``seed``, ``sizes`` (segments) and ``tokens`` of the parts,
            ``origin``, ``documents``, ``dropped_tokens``, and a ``digest`` which is equal only if the
            split is the same.
    """

    train: Segments
    validation: Segments
    test: Segments
    tokenizer: PreTrainedTokenizerBase
    unigram: np.ndarray
    split: dict[str, Any]


class _Texts:
    """The pieces of a corpus as texts, which can be gone over more than once."""

    def __init__(self, pieces: Callable[[], Iterator[Piece]]) -> None:
        self.pieces = pieces

    def __iter__(self) -> Iterator[str]:
        return (piece.text for piece in self.pieces())


def load_corpus(
    section: CorpusSection, tokenizer: PreTrainedTokenizerBase | None = None, vocab_size: int | None = None
) -> CorpusData:
    """Tokenise a corpus, unless the cache has it already, and settle its three parts.

    Segments hold at most ``max_length - 3`` tokens and never cross a document; what is left of a document
    is dropped if it is shorter than 8 tokens. The held-out parts are blocks of neighbouring segments
    (32 of them, fewer in a small corpus), so that most of what surrounds a held-out text is held out, too.
    The cache knows a file by its path, size and time of change, and a data set of the hub by its name.

    Args:
        section: the ``data`` section of a recipe; for its source see :func:`iter_documents`.
        tokenizer: a fast tokenizer; None trains a WordPiece tokenizer on the whole corpus. Training it on
            the training part alone would need the parts before there are tokens to cut them by; what a
            vocabulary knows of the held-out text is how often its words occur.
        vocab_size: of a tokenizer that is trained; 30,000 when None.

    Raises:
        WideNetError: as :func:`~widenet.data.text.documents.iter_documents`; or the corpus is too small, or the cache
            cannot be written.
    """
    source, documents, max_length = str(section.source), section.documents, section.max_length
    vocab_size = vocab_size or VOCABULARY
    longest = max_length - SPECIAL_PER_PAIR
    if longest < SMALLEST_SEGMENT:
        raise WideNetError(f"max_length must be at least {SMALLEST_SEGMENT + SPECIAL_PER_PAIR}, not {max_length}")
    found = find_texts(source)
    made_by = ["wordpiece", vocab_size, section.lowercase] if tokenizer is None else _tokenizer_state(tokenizer)
    key = json.dumps([FORMAT, found.identity, documents, longest, made_by])
    root = cache_folder(section.cache_dir) / "corpora"
    folder = root / hashlib.sha256(key.encode()).hexdigest()[:32]
    if not _is_whole(folder):
        pieces = partial(iter_pieces, source, found, documents, section.cache_dir)
        try:
            root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=root, prefix=".making-") as staging:
                made = Path(staging) / "corpus"
                made.mkdir()
                if tokenizer is None:
                    train_wordpiece(_Texts(pieces), vocab_size, section.lowercase).save_pretrained(made)
                what = f"{source} (documents={documents})"
                _write_segments(pieces(), tokenizer or load_tokenizer(made), longest, made, what)
                if not _is_whole(folder):  # another process may have been first
                    shutil.rmtree(folder, ignore_errors=True)
                    made.rename(folder)
        except OSError as error:
            raise WideNetError(f"the corpus cannot be written to the cache {root} ({reason(error)})") from error
    return _split_corpus(section, folder, tokenizer or load_tokenizer(folder))


def _tokenizer_state(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    # calls with padding or truncation leave these behind
    return {name: value for name, value in state.items() if name not in ("truncation", "padding")}


def _write_segments(
    pieces: Iterator[Piece], tokenizer: PreTrainedTokenizerBase, longest: int, folder: Path, what: str
) -> None:
    """Write the segments of a corpus to `folder`."""
    writer = _Writer(folder, longest, sentence_ends(tokenizer))
    try:
        for batch in _batches(pieces):
            ids = tokenizer(
                [piece.text for piece in batch],
                add_special_tokens=False,
                split_special_tokens=True,  # "[MASK]" in a text is no mask
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,  # it would warn of long texts
            )["input_ids"]
            for piece, row in zip(batch, ids, strict=True):
                writer.add(row, piece.starts_document)
        writer.finish()
    finally:
        writer.close()
    if writer.segments < 3:
        raise WideNetError(
            f"{what} has {writer.segments} segment(s) of {SMALLEST_SEGMENT} to {longest} tokens; at least 3 are needed"
        )
    np.save(folder / "unigram.npy", writer.unigram)
    record = {
        "dtype": writer.dtype.str,
        "tokens": writer.written,
        "segments": writer.segments,
        "documents": writer.documents,
        "dropped_tokens": writer.dropped,
        "digest": writer.digest.hexdigest(),
    }
    (folder / "corpus.json").write_text(json.dumps(record, indent=2) + "\n")


def _batches(pieces: Iterator[Piece]) -> Iterator[list[Piece]]:
    """Join pieces to batches that are large enough to tokenise in parallel and small enough to hold."""
    batch: list[Piece] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece.text)
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _split_corpus(section: CorpusSection, folder: Path, tokenizer: PreTrainedTokenizerBase) -> CorpusData:
    test_fraction, validation_fraction, seed = section.test_fraction, section.validation_fraction, section.split_seed
    record = json.loads((folder / "corpus.json").read_text())
    S = record["segments"]
    block_size = min(max(S // SMALLEST_BLOCKS, 1), BLOCK)
    count = -(-S // block_size)
    # the last block may be shorter than the others; it is always trained on
    order = np.random.default_rng(seed).permutation(count - 1)
    test = min(max(round(test_fraction * count), 1), count - 2)
    validation = min(max(round(validation_fraction * (count - test)), 1), count - 1 - test)
    blocks = {
        "train": np.append(order[test + validation :], count - 1),
        "validation": order[test : test + validation],
        "test": order[:test],
    }
    parts = {name: Segments(folder, np.sort(chosen), block_size) for name, chosen in blocks.items()}

    digest = hashlib.sha256(record["digest"].encode())
    for name, part in parts.items():
        digest.update(f"\n{name} {len(part)}\n".encode())
        digest.update((part.blocks * block_size).astype("<i8").tobytes())
    unigram = np.load(folder / "unigram.npy")
    for name in ("validation", "test"):
        unigram -= parts[name].counts(len(unigram))
    held_out = "held out in blocks of {} segments, {}, seed {}"
    split = {
        "source": str(section.source),
        "seed": seed,
        "sizes": {name: len(part) for name, part in parts.items()},
        "tokens": {name: part.tokens for name, part in parts.items()},
        "origin": {
            "train": "own",
            "test": held_out.format(block_size, test_fraction, seed),
            "validation": held_out.format(block_size, validation_fraction, seed),
        },
        "documents": record["documents"],
        "dropped_tokens": record["dropped_tokens"],
        "digest": digest.hexdigest(),
    }
    return CorpusData(**parts, tokenizer=tokenizer, unigram=unigram, split=split)


def unigram_loss(counts: np.ndarray, labels: Any) -> float:
    """Return what a masked-LM loss is when nothing but the tokens' frequencies is known, in nats.

    Args:
        counts: of the training tokens, int64 [V]; one is added to each, so that none is impossible.
        labels: token ids of any shape, -100 where there is nothing to predict.
    """
    labels = np.asarray(labels)
    log_p = np.log(counts + 1) - np.log(counts.sum() + len(counts))  # [V]
    return float(-log_p[labels[labels != -100]].mean())
