"""Cost of a training step: a WideNet next to its equal-FLOP shared dense twin, side by side in one run.

    python -m benchmarks.step_time                      widenet-b16 and vit-b16 shared with H = 8192
    python -m benchmarks.step_time --pair mini          the same for the small model, batch 128
    python -m benchmarks.step_time --pair text          widenet-text-e4 and bert-base-factorized shared with H = 6144

Images are classified; text, batches of 128 tokens with a mask but no padding, is pretrained: masked LM at 15 %
of the tokens and sentence order. The small twin pools as the WideNet does, so that both see 16 tokens; the
large one keeps its [CLS], one in 197. The twin has one attention and one dense feed-forward, as wide as the K
experts that a token visits, for all blocks. The steps alternate, after a warm-up, and the ratio is the median
of the ratios pair by pair, so that a machine whose speed drifts slows both. A step is a forward and a backward
pass; the optimiser is the same code for both and left out.
"""

import argparse
import statistics
import time
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

import widenet

TOKENS = 128  # of a text

# name: the WideNet, its twin and the twin's overrides, batch
PAIRS = {
    "b16": ("widenet-b16", "vit-b16", {"intermediate_size": 8192}, 4),
    "mini": ("widenet-mini", "vit-mini", {"intermediate_size": 768, "pooling": "mean"}, 128),
    "text": ("widenet-text-e4", "bert-base-factorized", {"intermediate_size": 6144}, 8),
}


def make_batch(config: PreTrainedConfig, size: int) -> dict[str, Any]:
    """Return random images with classes, or texts with masked words and the order of their segments."""
    if isinstance(config, widenet.WideNetVisionConfig):
        pixels = torch.randn(size, 3, config.image_size, config.image_size)
        return {"pixel_values": pixels, "labels": torch.randint(0, config.num_labels, (size,))}
    words = torch.randint(1, config.vocab_size, (size, TOKENS))
    return {
        "input_ids": words,
        "attention_mask": torch.ones_like(words),
        "labels": words.where(torch.rand(words.shape) < 0.15, -100),
        "sentence_order_label": torch.randint(0, 2, (size,)),
        "only_labelled": True,
    }


def step_seconds(model: PreTrainedModel, batch: dict[str, Any], bf16: bool) -> float:
    """Return the seconds of one forward and backward pass."""
    model.zero_grad()
    started = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = model(**batch).loss
    loss.backward()
    return time.perf_counter() - started


def main() -> None:
    """Print median seconds and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", choices=PAIRS, default="b16")
    parser.add_argument("--steps", type=int, default=11, help="counted steps of each")
    parser.add_argument("--batch", type=int, help="images or texts a step")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="as training.precision")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    wide_name, twin_name, overrides, size = PAIRS[arguments.pair]
    size = arguments.batch or size
    wide = widenet.create_model(wide_name).train()
    twin = widenet.create_model(twin_name, share_attention=True, share_ffn=True, **overrides).train()
    batch = make_batch(wide.config, size)
    seconds: dict[str, list[float]] = {"wide": [], "twin": []}
    for step in range(arguments.steps + 2):
        for name, model in (("wide", wide), ("twin", twin)):
            taken = step_seconds(model, batch, arguments.precision == "bf16")
            if step >= 2:  # warm-up
                seconds[name].append(taken)
    ratios = [wide / twin for wide, twin in zip(seconds["wide"], seconds["twin"], strict=True)]
    print(f"batch {size}, {arguments.precision}, {arguments.threads} threads, {arguments.steps} steps each, medians")
    print(f"{wide_name:20} {statistics.median(seconds['wide']):8.3f} s")
    print(f"{twin_name:20} {statistics.median(seconds['twin']):8.3f} s  one attention, one FFN, {overrides}")
    print(f"{'ratio':20} {statistics.median(ratios):8.3f}    (quartiles {statistics.quantiles(ratios)})")


if __name__ == "__main__":
    main()
