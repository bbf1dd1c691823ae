"""Tokenizers: what is trained, what is loaded, what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from widenet.data.text import tokenizer as tokenizer_module
from widenet.data.text.tokenizer import check_tokenizer, continuations, load_tokenizer, sentence_ends, train_wordpiece
from widenet.errors import WideNetError

# 8 letters (a d e h n o s t), "." and "!": 10 characters
TEXTS = ["The hand. The hands!", "A hand and the sand. Tho é"]


def small(vocab_size: int = 60, **options: bool) -> PreTrainedTokenizerFast:
    return train_wordpiece(TEXTS, vocab_size, **options)


def with_vocabulary(tokens: list[str], **special: str) -> PreTrainedTokenizerFast:
    model = models.WordPiece(vocab={token: number for number, token in enumerate(tokens)}, unk_token=tokens[0])
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), **special)


def test_special_tokens_come_first():
    trained = small()

    assert trained.convert_ids_to_tokens([0, 1, 2, 3, 4]) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert sorted(trained.all_special_ids) == [0, 1, 2, 3, 4]


def test_pairs_are_as_berts():
    trained = small()

    encoded = trained("The hand.", "A hand!")

    words = trained.convert_ids_to_tokens(encoded["input_ids"])
    assert words == ["[CLS]", "the", "hand", ".", "[SEP]", "a", "hand", "!", "[SEP]"]
    assert encoded["token_type_ids"] == [0, 0, 0, 0, 0, 1, 1, 1, 1]
    assert trained.decode(encoded["input_ids"], skip_special_tokens=True) == "the hand. a hand!"


def test_lower_case_is_an_option():
    assert small().tokenize("The É") == ["the", "e"]
    assert small(lowercase=False).tokenize("The") != small(lowercase=False).tokenize("the")


def test_vocabulary_has_at_most_the_size_asked_for():
    assert len(small(30)) == 30
    assert len(small(5000)) < 5000


def test_too_small_a_vocabulary_is_refused():
    # characters after lower-casing: a d e h n o s t . ! = 10, and 8 letters can continue a word: 5 + 10 + 8
    assert len(small(23)) == 23
    with pytest.raises(WideNetError, match=r"vocab_size=22 is too small: the 10 different .* need 23 tokens"):
        small(22)


def test_training_is_deterministic():
    text = [(Path(__file__).parent.parent.parent / "files" / "northanger.txt").read_text()[:50_000]]

    states = {train_wordpiece(text, 800).backend_tokenizer.to_str() for _ in range(3)}

    assert len(states) == 1


def test_training_needs_texts_that_can_be_gone_over_twice():
    with pytest.raises(TypeError, match="twice"):
        train_wordpiece(iter(TEXTS), 60)


def test_saved_tokenizer_is_the_same(tmp_path: Path):
    trained = small()
    trained.save_pretrained(tmp_path)

    for loaded in (load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(str(tmp_path))):
        assert loaded.is_fast
        assert loaded.backend_tokenizer.to_str() == trained.backend_tokenizer.to_str()
        assert loaded("The hand.", "A sand!") == trained("The hand.", "A sand!")


def test_plain_bert_vocabulary_loads(tmp_path: Path):
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hand", "##s"]))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))

    assert load_tokenizer(tmp_path).tokenize("hands") == ["hand", "##s"]


@pytest.mark.parametrize("name", ["./missing", "/missing", "", "~/missing", "a/b/c"])
def test_missing_folder(name: str):
    with pytest.raises(WideNetError, match=r"tokenizer folder .* does not exist"):
        load_tokenizer(name)


def test_folder_without_tokenizer(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))

    with pytest.raises(WideNetError, match="has no tokenizer"):
        load_tokenizer(tmp_path)


def test_file_is_no_tokenizer(tmp_path: Path):
    (tmp_path / "vocab.txt").write_text("a")

    with pytest.raises(WideNetError, match="is a file"):
        load_tokenizer(tmp_path / "vocab.txt")


@pytest.mark.parametrize("length", [0, 20, 700])
def test_damaged_tokenizer(tmp_path: Path, length: int):
    small().save_pretrained(tmp_path)
    whole = (tmp_path / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text(whole[:length])

    with pytest.raises(WideNetError, match="cannot be read") as error:
        load_tokenizer(tmp_path)
    assert "\n" not in str(error.value)


def test_public_name_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object, **__: object) -> None:
        raise OSError("no network\nat all")

    monkeypatch.setattr(tokenizer_module.AutoTokenizer, "from_pretrained", fail)

    with pytest.raises(WideNetError, match=r"no/such .* could not be loaded from the hub \(no network at all\)"):
        load_tokenizer("no/such")


def test_slow_tokenizer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Slow:
        is_fast = False

    monkeypatch.setattr(tokenizer_module.AutoTokenizer, "from_pretrained", lambda _: Slow())

    with pytest.raises(WideNetError, match="no fast version"):
        load_tokenizer("some/name")


def test_special_tokens_are_required(tmp_path: Path):
    with_vocabulary(
        ["[UNK]", "[PAD]", "[CLS]"], unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]"
    ).save_pretrained(tmp_path)

    with pytest.raises(WideNetError, match="has no sep_token and no mask_token"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(("model", "fits"), [(59, False), (60, True), (187, True), (188, False)])
def test_tokenizer_must_match_the_model(model: int, fits: bool):
    trained = with_vocabulary([f"[T{number}]" for number in range(60)])

    if fits:
        check_tokenizer(trained, model, "runs/a")
    else:
        with pytest.raises(WideNetError, match=f"runs/a has 60 tokens, but the model has {model}"):
            check_tokenizer(trained, model, "runs/a")


@pytest.mark.parametrize(
    ("tokens", "continues", "ends"),
    [
        (["[UNK]", "a", "##a", ".", "##s", "?"], [0, 0, 1, 0, 1, 0], [0, 0, 0, 1, 0, 1]),
        # SentencePiece and byte-level BPE mark the start of a word instead
        (["[UNK]", "▁a", "b", "▁c", ".", "▁1."], [0, 0, 1, 0, 1, 0], [0, 0, 0, 0, 1, 0]),
        (["[UNK]", "Ġa", "b", "Ġc", '."', "?!"], [0, 0, 1, 0, 1, 1], [0, 0, 0, 0, 0, 1]),
        # words alone
        (["[UNK]", "a", "b", "!"], [0, 0, 0, 0], [0, 0, 0, 1]),
    ],
)
def test_tables(tokens: list[str], continues: list[int], ends: list[int]):
    found = with_vocabulary(tokens, unk_token="[UNK]")

    np.testing.assert_array_equal(continuations(found), np.array(continues, dtype=bool))
    np.testing.assert_array_equal(sentence_ends(found), np.array(ends, dtype=bool))
