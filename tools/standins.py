"""Small stand-ins, by the names that the pages use, for the data and models of a reader."""

import csv
import gzip
import json
import lzma
import random
import struct
from pathlib import Path

import numpy as np
from PIL import Image

TEXT = (
    "she he they was were had never always happy quiet letter house garden sister friend evening walk "
    "music dinner thought spoke wrote came went over with without and but because the a of to in for long short "
    "charming waste film time story journey bleak funny dull warm clever"
)
WORDS = TEXT.split()


def make_standins(folder: Path) -> None:
    """Write them all into a new folder."""
    folder.mkdir(parents=True)
    draw = random.Random(0)
    _images(folder, np.random.default_rng(0))
    _texts(folder, draw)
    _questions(folder, draw)
    _bert(folder)


def _images(folder: Path, draw: np.random.Generator) -> None:
    def picture(file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(file)

    for source in ("photos", "others"):
        for kind in ("cat", "dog"):
            for number in range(1, 21):
                picture(folder / source / kind / f"{number:03}.jpg")
    for name in ("new.jpg", "another.png", "shirt.png", "shoe.png", "holiday/beach.jpg", "holiday/boat.jpg"):
        picture(folder / name)
    (folder / "list.txt").write_text("new.jpg\nanother.png\n")
    # The original files of Fashion-MNIST, with 200 and 40 images of noise.
    (folder / "fashion-mnist").mkdir()
    for part, count in (("train", 200), ("t10k", 40)):
        pixels = draw.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for kind, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            header = struct.pack(f">I{array.ndim}I", 0x0800 + array.ndim, *array.shape)
            with gzip.open(folder / "fashion-mnist" / f"{part}-{kind}-ubyte.gz", "wb") as file:
                file.write(header + array.tobytes())


def _sentence(draw: random.Random) -> str:
    return " ".join(draw.choices(WORDS, k=draw.randint(5, 12))) + "."


def _texts(folder: Path, draw: random.Random) -> None:
    for corpus, name in (("books", "persuasion.txt.xz"), ("mlm", "brown.txt.xz")):
        (folder / corpus).mkdir()
        (folder / corpus / "emma.txt").write_text("\n".join(_sentence(draw) for _ in range(600)))
        with lzma.open(folder / corpus / name, "wt") as file:
            file.write("\n".join(_sentence(draw) for _ in range(600)))
        documents = [json.dumps({"text": " ".join(_sentence(draw) for _ in range(20))}) for _ in range(20)]
        (folder / corpus / "letters.jsonl").write_text("\n".join(documents))
    for name, count in (("reviews.tsv", 80), ("sst2like_train.tsv", 80), ("sst2_dev.tsv", 20)):
        rows = [f"{_sentence(draw)}\t{number % 2}" for number in range(count)]
        (folder / name).write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    with (folder / "pairs.csv").open("w", newline="") as file:
        rows = [[_sentence(draw), _sentence(draw), ("same", "other")[number % 2]] for number in range(80)]
        csv.writer(file).writerows([["sentence1", "sentence2", "label"], *rows])
    ratings = [json.dumps({"text": _sentence(draw), "rating": draw.random() * 5}) for _ in range(80)]
    (folder / "ratings.jsonl").write_text("\n".join(ratings))
    (folder / "sentences.txt").write_text("a charming film\na waste of time\n")


def _questions(folder: Path, draw: random.Random) -> None:
    def articles(count: int) -> dict[str, list]:
        found = []
        for number in range(count):
            context = " ".join(_sentence(draw) for _ in range(12))
            words = context.split()
            asked = []
            for n in range(4):
                start = draw.randrange(len(words) - 2)
                answer = {
                    "text": " ".join(words[start : start + 2]),
                    "answer_start": len(" ".join(words[:start])) + (start > 0),
                }
                asked.append({"id": f"{number}-{n}", "question": f"Who {words[start]}?", "answers": [answer]})
            found.append({"title": str(number), "paragraphs": [{"context": context, "qas": asked}]})
        return {"data": found}

    for name, count in (("questions.json", 12), ("coqa.json", 12), ("squad.json", 4)):
        (folder / name).write_text(json.dumps(articles(count)))
    (folder / "passage.txt").write_text(" ".join(_sentence(draw) for _ in range(60)))


def _bert(folder: Path) -> None:
    """Write a small BERT where the pages have MiniLM: six blocks, untrained."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", *sorted({*WORDS, "who"})]
    letters = [prefix + letter for prefix in ("", "##") for letter in "abcdefghijklmnopqrstuvwxyz"]
    tokens = list(dict.fromkeys([*vocabulary, *letters]))
    model = BertModel(
        BertConfig(
            vocab_size=len(tokens),
            hidden_size=32,
            num_hidden_layers=6,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=512,
        )
    )
    model.save_pretrained(folder / "minilm")
    (folder / "vocab.txt").write_text("\n".join(tokens))
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder / "minilm")
    (folder / "vocab.txt").unlink()
