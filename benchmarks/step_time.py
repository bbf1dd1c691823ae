"""Cost of a training step: a WideNet next to its equal-FLOP shared dense twin, side by side in one run.

    python -m benchmarks.step_time                      widenet-b16 and vit-b16 shared with H = 8192
    python -m benchmarks.step_time --pair mini          the same for the small model, batch 128

The small twin pools as the WideNet does, so that both see 16 tokens; the large one keeps its [CLS], one in
197. The twin has one attention and one dense feed-forward, as wide as the K experts that a token visits, for all
blocks. The steps alternate, after a warm-up, and the ratio is the median of the ratios pair by pair, so that
a machine whose speed drifts slows both. A step is a forward and a backward pass; the optimiser is the same
code for both and left out.
"""

import argparse
import statistics
import time

import torch
from transformers import PreTrainedModel

import widenet

# name: the WideNet, its twin and the twin's overrides, batch
PAIRS = {
    "b16": ("widenet-b16", "vit-b16", {"intermediate_size": 8192}, 4),
    "mini": ("widenet-mini", "vit-mini", {"intermediate_size": 768, "pooling": "mean"}, 128),
}


def step_seconds(model: PreTrainedModel, pixels: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the seconds of one forward and backward pass."""
    model.zero_grad()
    started = time.perf_counter()
    model(pixels, labels=labels).loss.backward()
    return time.perf_counter() - started


def main() -> None:
    """Print median seconds and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", choices=PAIRS, default="b16")
    parser.add_argument("--steps", type=int, default=11, help="counted steps of each")
    parser.add_argument("--batch", type=int, help="images a step")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    wide_name, twin_name, overrides, batch = PAIRS[arguments.pair]
    batch = arguments.batch or batch
    wide = widenet.create_model(wide_name).train()
    twin = widenet.create_model(twin_name, share_attention=True, share_ffn=True, **overrides).train()
    size = wide.config.image_size
    pixels = torch.randn(batch, 3, size, size)
    labels = torch.randint(0, wide.config.num_labels, (batch,))
    seconds: dict[str, list[float]] = {"wide": [], "twin": []}
    for step in range(arguments.steps + 2):
        for name, model in (("wide", wide), ("twin", twin)):
            taken = step_seconds(model, pixels, labels)
            if step >= 2:  # warm-up
                seconds[name].append(taken)
    ratios = [wide / twin for wide, twin in zip(seconds["wide"], seconds["twin"], strict=True)]
    print(f"batch {batch}, {arguments.threads} threads, {arguments.steps} steps each, medians")
    print(f"{wide_name:12} {statistics.median(seconds['wide']):8.3f} s")
    print(f"{twin_name:12} {statistics.median(seconds['twin']):8.3f} s  one attention, one FFN, {overrides}")
    print(f"ratio        {statistics.median(ratios):8.3f}    (quartiles {statistics.quantiles(ratios)})")


if __name__ == "__main__":
    main()
