"""Corpora: every token once, parts that share nothing, a cache that is whole or absent, errors that name the place."""

import bz2
import gzip
import json
import lzma
import pickle
import random
import sys
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from transformers import PreTrainedTokenizerBase

from widenet.data.text import corpus
from widenet.data.text import documents as texts
from widenet.data.text.corpus import CorpusData, CorpusSection, Segments, load_corpus, sentence_cuts, unigram_loss
from widenet.data.text.documents import iter_documents
from widenet.data.text.masking import sentence_order
from widenet.data.text.tokenizer import load_tokenizer, sentence_ends, train_wordpiece
from widenet.errors import WideNetError

NORTHANGER = Path(__file__).parent.parent.parent / "files" / "northanger.txt"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return train_wordpiece([NORTHANGER.read_text()], 1000)


@pytest.fixture
def load(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> Any:
    def run(source: object, **options: Any) -> CorpusData:
        options = {"tokenizer": tokenizer, "max_length": 35, "cache_dir": str(tmp_path / "cache"), **options}
        made_by = {name: options.pop(name) for name in ("tokenizer", "vocab_size") if name in options}
        return load_corpus(CorpusSection(source=str(source), **options), **made_by)

    return run


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def all_segments(data: CorpusData) -> list[tuple[int, tuple[int, ...]]]:
    """Return every segment of every part with its place in the corpus, in that order."""
    found = []
    for part in (data.train, data.validation, data.test):
        places = [
            block * part.block_size + rest for block in part.blocks.tolist() for rest in range(part.block_size)
        ]  # the last block may be shorter
        found += [(place, tuple(part[index].tolist())) for index, place in zip(range(len(part)), places, strict=False)]
    return sorted(found)


# ---- documents ----

TWO = "First line.\nSecond line.\n\n  \nThird line.\n"


@pytest.mark.parametrize(
    ("documents", "expected"),
    [
        ("file", [TWO]),
        ("blank-line", ["First line.\nSecond line.\n\n", "  \nThird line.\n"]),
        ("line", ["First line.\n", "Second line.\n", "\n  \nThird line.\n"]),
    ],
)
def test_what_a_document_is(tmp_path: Path, documents: Any, expected: list[str]):
    path = write(tmp_path / "a.txt", TWO)

    found = list(iter_documents(str(path), documents))

    assert [text.split() for text in found] == [text.split() for text in expected]


def test_unknown_kind_of_document(load: Any):
    with pytest.raises(ValidationError, match=r"documents\n.*'file', 'blank-line' or 'line'"):
        load(NORTHANGER, documents="page")


def test_windows_line_ends(tmp_path: Path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfOne.\r\n\r\nTwo.\r\n")

    assert [text.strip() for text in iter_documents(str(tmp_path / "a.txt"), "blank-line")] == ["One.", "Two."]


@pytest.mark.parametrize(("suffix", "opener"), [(".gz", gzip.open), (".xz", lzma.open), (".bz2", bz2.open)])
def test_compressed_files(tmp_path: Path, suffix: str, opener: Any):
    path = tmp_path / f"a.txt{suffix}"
    with opener(path, "wt") as file:
        file.write(TWO)

    assert list(iter_documents(str(path))) == [TWO]

    path.write_bytes(path.read_bytes()[:-6])
    with pytest.raises(WideNetError, match=rf"a\.txt\{suffix} cannot be read; it may be truncated") as error:
        list(iter_documents(str(path)))
    assert "\n" not in str(error.value)


def test_folder_is_gone_through_in_order(tmp_path: Path):
    write(tmp_path / "b" / "2.txt", "two")
    write(tmp_path / "b" / "10", "ten")
    write(tmp_path / "a.txt", "one")
    write(tmp_path / "c.jsonl", json.dumps({"text": "three\n\nthree"}) + "\n\n" + json.dumps({"text": "four"}))
    write(tmp_path / "empty.txt", "")
    write(tmp_path / "notes.pdf", "not read")
    write(tmp_path / ".hidden", "not read")

    assert list(iter_documents(str(tmp_path))) == ["one", "ten", "two", "three\n\nthree", "four"]


def test_long_lines_are_cut_at_spaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(texts, "PIECE", 20)
    monkeypatch.setattr(texts, "CHUNK", 7)
    text = "a line of fifty characters or so, without an end, " + "x" * 50 + " é\nNext."
    path = write(tmp_path / "a", text)

    pieces = list(texts.iter_pieces(str(path), texts.find_texts(str(path)), "file", None))

    assert "".join(piece.text for piece in pieces) == text
    assert [piece.starts_document for piece in pieces] == [True] + [False] * (len(pieces) - 1)
    assert pieces[0].text.endswith(" ")
    assert list(iter_documents(str(path), "line")) == [text.splitlines(True)[0], "Next."]


def dataset_folder(folder: Path, column: str = "text") -> Path:
    datasets = pytest.importorskip("datasets")
    rows = {"number": [1, 2, 3], column: ["one\n\nother", "", "two"]}
    datasets.Dataset.from_dict(rows).save_to_disk(str(folder / "saved"))
    (folder / "parquet").mkdir()
    datasets.Dataset.from_dict(rows).to_parquet(str(folder / "parquet" / "train.parquet"))
    return folder


def test_folders_of_datasets(tmp_path: Path):
    folder = dataset_folder(tmp_path, "words")

    for name in ("saved", "parquet"):
        assert list(iter_documents(str(folder / name), cache_dir=str(tmp_path / "cache"))) == ["one\n\nother", "two"]


def test_corpus_of_the_paper(monkeypatch: pytest.MonkeyPatch):
    datasets = pytest.importorskip("datasets")
    rows = {"wikimedia/wikipedia": ["Page.", "Other page."], "bookcorpus/bookcorpus": ["a .", "b ."]}
    asked = []

    def load_dataset(name: str, config: str | None = None, revision: str | None = None, **kwargs: Any) -> Any:
        asked.append((name, config, revision))
        return datasets.DatasetDict(train=datasets.Dataset.from_dict({"text": rows[name]}))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)

    # a page is a document; a row of BookCorpus is only a sentence
    assert list(iter_documents("wikipedia-books")) == ["Page.", "Other page.", "a .\nb .\n"]
    assert asked == [
        ("wikimedia/wikipedia", "20231101.en", None),
        ("bookcorpus/bookcorpus", None, "refs/convert/parquet"),
    ]


@pytest.mark.parametrize(
    ("source", "expected"),
    [("user/name", ("user/name", None)), ("hf:name", ("name", None)), ("user/name:part", ("user/name", "part"))],
)
def test_hugging_face_ids(source: str, expected: tuple[str, str | None]):
    (table,) = texts.find_texts(source).tables

    assert (table.name, table.config) == expected


@pytest.mark.parametrize("source", ["wikipedia-books", "user/name"])
def test_without_network(source: str, monkeypatch: pytest.MonkeyPatch):
    datasets = pytest.importorskip("datasets")

    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("no network\nat all")

    monkeypatch.setattr(datasets, "load_dataset", fail)

    with pytest.raises(WideNetError, match=r"hub \(no network at all\); a local text file or folder .* data=PATH"):
        list(iter_documents(source))


def test_without_datasets(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "datasets", None)

    with pytest.raises(WideNetError, match=r"needs the package datasets: pip install 'widenet\[datasets\]'"):
        list(iter_documents("wikipedia-books"))


# ---- errors ----


@pytest.mark.parametrize("source", ["./missing", "missing.txt", "/missing", "", "tests/missing", "~/missing"])
def test_missing_corpus(source: str):
    with pytest.raises(WideNetError, match=r"corpus .* does not exist"):
        list(iter_documents(source))


def test_a_mistyped_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "training.json").touch()
    with pytest.raises(WideNetError, match=r"trianing.json' does not exist; did you mean '.*/training.json'\?"):
        list(iter_documents(str(tmp_path / "trianing.json")))


def test_mistyped_name():
    with pytest.raises(WideNetError, match="did you mean 'wikipedia-books'"):
        list(iter_documents("wikipedia-book"))


@pytest.mark.parametrize("text", ["", " \n\n\t"])
def test_empty_corpus(tmp_path: Path, load: Any, text: str):
    path = write(tmp_path / "a.txt", text)

    for source in (path, write(tmp_path / "folder" / "a.txt", text).parent):
        with pytest.raises(WideNetError, match="is empty: it has no text"):
            load(source)


def test_folder_without_texts(tmp_path: Path):
    write(tmp_path / "a.pdf", "a")

    with pytest.raises(WideNetError, match="has no text files"):
        list(iter_documents(str(tmp_path)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"good\xff", "is not UTF-8: byte 4 is 0xff"),
        ("é".encode() * 10 + b"\xe9x", "is not UTF-8: byte 20 is 0xe9"),
        ("é".encode()[:1], "is not UTF-8: byte 0 is 0xc3"),
        (b"abcdefghij" + "é".encode()[:1], "is not UTF-8: byte 10 is 0xc3"),
        (b"\xef\xbb\xbfabcdefgh\xff", "is not UTF-8: byte 11 is 0xff"),
        (b"abcdefghij\0", "is binary, not text: byte 10 is zero"),
    ],
)
@pytest.mark.parametrize("chunk", [1 << 20, 3])
def test_not_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, message: str, chunk: int):
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    monkeypatch.setattr(texts, "CHUNK", chunk)

    with pytest.raises(WideNetError, match=rf"a\.txt {message}"):
        list(iter_documents(str(path)))


def test_an_image_is_called_binary(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\x89PNG\r\n\x1a\n\0")  # not UTF-8 either, but that says less

    with pytest.raises(WideNetError, match="is binary, not text: byte 8 is zero"):
        list(iter_documents(str(path)))


def test_position_in_a_compressed_file(tmp_path: Path):
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"good\xff"))

    with pytest.raises(WideNetError, match="byte 4 of the text inside is 0xff"):
        list(iter_documents(str(path)))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"line 2 of .*a\.jsonl is not JSON"),
        ("[1]", r"line 2 of .*a\.jsonl is not JSON"),
        ('{"body": "a"}', r"line 2 of .*a\.jsonl has no field 'text'"),
        ('{"text": 5}', r"field 'text' in line 2 of .*a\.jsonl is 5, not a string"),
    ],
)
def test_bad_json(tmp_path: Path, line: str, message: str):
    path = write(tmp_path / "a.jsonl", f'{{"text": "a"}}\n{line}\n')

    with pytest.raises(WideNetError, match=message):
        list(iter_documents(str(path)))


@pytest.mark.parametrize("name", ["validation_fraction", "test_fraction"])
@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0])
def test_bad_fractions(load: Any, name: str, fraction: float):
    with pytest.raises(ValidationError, match=rf"{name}\n.*(greater|less) than"):
        load(NORTHANGER, **{name: fraction})


def test_too_short_examples(load: Any):
    with pytest.raises(WideNetError, match="max_length must be at least 11, not 10"):
        load(NORTHANGER, max_length=10)


def test_too_small_a_corpus(tmp_path: Path, load: Any):
    path = write(tmp_path / "a.txt", "one two three\n" * 50)

    with pytest.raises(WideNetError, match=r"documents=line\) has 0 segment\(s\) of 8 to 32 tokens; at least 3"):
        load(path, documents="line")


def test_cache_that_cannot_be_written(load: Any, tmp_path: Path):
    write(tmp_path / "file", "")

    with pytest.raises(WideNetError, match="cannot be written to the cache"):
        load(NORTHANGER, cache_dir=str(tmp_path / "file"))


# ---- segments ----


@pytest.mark.parametrize("piece", [1 << 16, 200])
def test_every_token_is_there_once(
    load: Any, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch, piece: int
):
    monkeypatch.setattr(texts, "PIECE", piece)
    data = load(NORTHANGER)

    segments = all_segments(data)

    assert [place for place, _ in segments] == list(range(len(segments)))
    joined = [token for _, ids in segments for token in ids]
    expected = tokenizer(NORTHANGER.read_text(), add_special_tokens=False, verbose=False)["input_ids"]
    assert joined == expected[: len(joined)]
    assert len(expected) - len(joined) == data.split["dropped_tokens"] < 8
    assert all(8 <= len(ids) <= 32 for _, ids in segments)


def test_segments_never_cross_a_document(load: Any, tmp_path: Path, tokenizer: PreTrainedTokenizerBase):
    rng = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    # every document has a letter of its own, and 1 to 100 one-letter words
    lengths = [rng.randint(1, 100) for _ in letters]
    text = "\n\n".join(" ".join([letter] * length) for letter, length in zip(letters, lengths, strict=True))
    data = load(write(tmp_path / "a.txt", text), documents="blank-line")

    segments = [ids for _, ids in all_segments(data)]

    assert all(len(set(ids)) == 1 for ids in segments)
    # without sentences: whole segments of 32, and what is left if it is 8 or more
    found = Counter(tokenizer.decode([ids[0]]) for ids in segments)
    tokens = Counter({tokenizer.decode([ids[0]]): 0 for ids in segments})
    for ids in segments:
        tokens[tokenizer.decode([ids[0]])] += len(ids)
    for letter, length in zip(letters, lengths, strict=True):
        rest = length % 32
        assert found[letter] == length // 32 + (rest >= 8)
        assert tokens[letter] == length - (rest if rest < 8 else 0)
    assert data.split["documents"] == 26
    assert data.split["dropped_tokens"] == sum(length % 32 for length in lengths if length % 32 < 8)


def test_segments_end_with_a_sentence(load: Any, tmp_path: Path):
    # sentences of 10 tokens: three fit into 32; one of 40 does not, and is cut after 32
    sentence = "a b c d e f g h i .\n"
    long = " ".join(["x"] * 39) + " .\n"
    data = load(write(tmp_path / "a.txt", sentence * 6 + long + sentence * 6))

    # 30, 30, 32, then the 8 left over and two sentences, and 30 + 10
    assert [len(ids) for _, ids in all_segments(data)] == [30, 30, 32, 28, 30, 10]


def test_where_parts_end_does_not_give_their_order_away(load: Any, tokenizer: PreTrainedTokenizerBase):
    # cut off at its full length, nearly every segment has its sentence end at the end of the first part only
    data = load(NORTHANGER, max_length=128)
    ends, rng = sentence_ends(tokenizer), np.random.default_rng(0)
    seen: Counter[tuple[bool, bool, int]] = Counter()
    for ids in data.train:
        for _ in range(4):
            first, last, label = sentence_order(ids, ends, rng)
            seen[bool(ends[first[-1]]), bool(ends[last[-1]]), label] += 1

    guessed = sum(max(seen[a, b, 0], seen[a, b, 1]) for a in (False, True) for b in (False, True))
    assert guessed / seen.total() < 0.6


def test_sentence_cuts():
    ends = np.array([False, True])

    assert sentence_cuts(np.array([0, 1, 0, 0, 1, 1, 1, 0, 1]), ends).tolist() == [2, 7]
    assert sentence_cuts(np.array([], dtype=np.int64), ends).tolist() == []


def test_special_tokens_in_a_text_are_text(load: Any, tmp_path: Path, tokenizer: PreTrainedTokenizerBase):
    data = load(write(tmp_path / "a.txt", "put [MASK] here [SEP] and [CLS] and [PAD] there\n" * 20))

    assert not set(tokenizer.all_special_ids) - {tokenizer.unk_token_id} & set(np.flatnonzero(data.unigram))


def test_large_vocabularies_are_kept(load: Any, monkeypatch: pytest.MonkeyPatch):
    small = all_segments(load(NORTHANGER))
    monkeypatch.setattr(corpus, "sentence_ends", lambda tokenizer: np.zeros(70_000, dtype=bool))
    data = load(NORTHANGER, max_length=36)

    assert data.train._ids.dtype == np.uint32
    assert [t for _, ids in all_segments(data) for t in ids][:1000] == [t for _, ids in small for t in ids][:1000]


def test_segments_are_a_list(load: Any):
    train = load(NORTHANGER).train

    assert [len(ids) for ids in train] == [len(train[index]) for index in range(len(train))]
    assert train[0].dtype == np.int64
    for index in (-1, len(train)):
        with pytest.raises(IndexError):
            train[index]


def test_segments_travel_without_their_tokens(load: Any):
    train = load(NORTHANGER).train

    sent = pickle.dumps(train)

    assert len(sent) < 3000
    assert all((first == second).all() for first, second in zip(pickle.loads(sent), train, strict=True))


# ---- parts ----


def test_parts_are_blocks_that_share_nothing(load: Any):
    data = load(NORTHANGER, validation_fraction=0.1, test_fraction=0.2)
    parts = {"train": data.train, "validation": data.validation, "test": data.test}
    blocks = [block for part in parts.values() for block in part.blocks.tolist()]

    assert sorted(blocks) == list(range(len(blocks)))
    assert data.split["sizes"] == {name: len(part) for name, part in parts.items()}
    assert data.split["tokens"] == {name: sum(len(ids) for ids in part) for name, part in parts.items()}
    assert data.train.block_size == sum(data.split["sizes"].values()) // 64 > 1
    assert len(data.test.blocks) == round(0.2 * len(blocks))
    assert len(data.validation.blocks) == round(0.1 * (len(blocks) - len(data.test.blocks)))
    assert json.loads(json.dumps(data.split)) == data.split


def test_smallest_corpus(load: Any, tmp_path: Path):
    data = load(write(tmp_path / "a.txt", "a b c d e f g h\n" * 3), documents="line")

    assert data.split["sizes"] == {"train": 1, "validation": 1, "test": 1}


def test_split_is_the_seeds(load: Any):
    first, again, other = load(NORTHANGER), load(NORTHANGER), load(NORTHANGER, split_seed=1)

    assert first.split == again.split
    assert first.split["digest"] != other.split["digest"]
    assert first.test.blocks.tolist() != other.test.blocks.tolist()
    # the validation part is chosen from what the test part leaves
    more = load(NORTHANGER, validation_fraction=0.3)
    assert more.test.blocks.tolist() == first.test.blocks.tolist()


def test_digest_does_not_depend_on_where_the_file_lies(load: Any, tmp_path: Path):
    copy = write(tmp_path / "copy.txt", NORTHANGER.read_text())

    assert load(copy).split["digest"] == load(NORTHANGER).split["digest"]
    assert load(copy, max_length=40).split["digest"] != load(NORTHANGER).split["digest"]


def test_unigram_counts_are_the_training_parts(load: Any):
    data = load(NORTHANGER)

    expected = Counter(token for ids in data.train for token in ids.tolist())

    assert dict(enumerate(data.unigram.tolist())) == {token: expected[token] for token in range(1000)}


def test_unigram_loss_by_hand():
    # with one added: 2/8, 5/8 and 1/8
    counts = np.array([1, 4, 0])

    assert unigram_loss(counts, [[-100, 1], [2, -100]]) == pytest.approx(-(np.log(5 / 8) + np.log(1 / 8)) / 2)


# ---- cache ----


def count_readings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    readings: list[str] = []
    original = corpus.iter_pieces

    def counted(source: str, *rest: Any) -> Iterator[Any]:
        readings.append(source)
        return original(source, *rest)

    monkeypatch.setattr(corpus, "iter_pieces", counted)
    return readings


def test_second_run_uses_the_cache(load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write(tmp_path / "a.txt", NORTHANGER.read_text()[:20_000])
    readings = count_readings(monkeypatch)

    load(path)
    load(path, split_seed=5, test_fraction=0.3)
    assert len(readings) == 1

    load(path, max_length=50)
    load(path, documents="blank-line")
    assert len(readings) == 3

    write(path, "Another text. " * 100)
    changed = load(path)
    assert len(readings) == 4
    assert changed.split["tokens"]["train"] < 400


@pytest.mark.parametrize("error", [KeyboardInterrupt, WideNetError])
def test_interrupted_run_leaves_nothing(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
):
    monkeypatch.setattr(corpus, "BATCH", 10_000)
    monkeypatch.setattr(texts, "PIECE", 1000)
    original = corpus._Writer.add
    calls = iter(range(1000))

    def interrupted(self: Any, *args: Any) -> None:
        if next(calls) == 50:
            raise error
        original(self, *args)

    with monkeypatch.context() as context:
        context.setattr(corpus._Writer, "add", interrupted)
        with pytest.raises(error):
            load(NORTHANGER)

    assert list((tmp_path / "cache" / "corpora").iterdir()) == []
    assert len(load(NORTHANGER).train) > 1000
    assert len(list((tmp_path / "cache" / "corpora").iterdir())) == 1


@pytest.mark.parametrize("name", ["ids.bin", "offsets.bin", "corpus.json"])
def test_damaged_cache_is_made_anew(load: Any, name: str):
    first = load(NORTHANGER)
    expected = all_segments(first)
    file = first.train.folder / name
    file.write_bytes(file.read_bytes()[:-10])

    assert all_segments(load(NORTHANGER)) == expected


def test_tokenizer_is_trained_and_kept(load: Any, monkeypatch: pytest.MonkeyPatch):
    first = load(NORTHANGER, tokenizer=None, vocab_size=500)
    readings = count_readings(monkeypatch)
    second = load(NORTHANGER, tokenizer=None, vocab_size=500)

    assert not readings
    assert len(first.tokenizer) == len(first.unigram) == 500
    assert second.tokenizer.get_vocab() == first.tokenizer.get_vocab()
    assert second.split == first.split
    assert load_tokenizer(first.train.folder).get_vocab() == first.tokenizer.get_vocab()
    assert len(load(NORTHANGER, tokenizer=None, vocab_size=500, lowercase=False).tokenizer) == 500
    assert len(readings) == 3  # characters, words, tokens


def test_default_cache(load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))

    data: Segments = load(NORTHANGER, cache_dir=None).train

    assert data.folder.parent == tmp_path / "xdg" / "widenet" / "corpora"


def test_memory_does_not_grow_with_the_corpus(load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(texts, "CHUNK", 1 << 14)
    monkeypatch.setattr(corpus, "BATCH", 1 << 14)
    monkeypatch.setattr(texts, "PIECE", 1 << 12)
    text = NORTHANGER.read_text()
    peaks = []
    for copies in (2, 20):
        path = tmp_path / f"{copies}.txt"
        with path.open("w") as file:
            for _ in range(copies):
                file.write(text)
        tracemalloc.start()
        load(path, max_length=128)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()

    # 3 MB of text: ten times more than the first time, and more than is ever held
    assert peaks[1] < peaks[0] + 200_000
    assert peaks[1] < 3_000_000
