"""Latency of ONNX Runtime next to PyTorch, side by side in one run.

    python -m benchmarks.latency widenet-mini vit-mini      presets, with random weights
    python -m benchmarks.latency runs/digits --int8         a run or model folder, in 8 bits
    python -m benchmarks.latency widenet-text-mini --batch 64 --tokens 32

Images have the model's own size, texts --tokens tokens with a mask but no padding. The calls alternate, after a
warm-up, and the ratio is the median of the ratios pair by pair, so that a machine whose speed drifts slows both.
Random weights send tokens to experts about evenly, as a trained router does.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnxruntime
import torch
from torch import Tensor

import widenet
from widenet.convert.export import export_onnx
from widenet.convert.sources import read_source


def make_inputs(config: Any, size: int, tokens: int) -> dict[str, Tensor]:
    """Return random images or texts."""
    if isinstance(config, widenet.WideNetVisionConfig):
        return {"pixel_values": torch.randn(size, config.num_channels, config.image_size, config.image_size)}
    words = torch.randint(1, config.vocab_size, (size, min(tokens, config.max_position_embeddings)))
    return {
        "input_ids": words,
        "attention_mask": torch.ones_like(words),
        "token_type_ids": torch.zeros_like(words),
    }


def seconds(call: Callable[[], Any]) -> float:
    """Return the seconds of one call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


@torch.inference_mode()
def measure(name: str, arguments: argparse.Namespace) -> None:
    """Print one model's median milliseconds and the ratio."""
    torch.manual_seed(0)
    model: Any = read_source(Path(name)) if Path(name).is_dir() else widenet.create_model(name)
    model.eval()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = arguments.threads
    with TemporaryDirectory() as folder:
        file = export_onnx(model, Path(folder) / "model.onnx", int8=arguments.int8)
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    inputs = make_inputs(model.config, arguments.batch, arguments.tokens)
    arrays = {each.name: inputs[each.name].numpy() for each in session.get_inputs()}
    pairs = []
    for call in range(arguments.calls + arguments.warm_up):
        pair = seconds(lambda: model(**inputs)), seconds(lambda: session.run(None, arrays))
        if call >= arguments.warm_up:
            pairs.append(pair)
    torch_ms, onnx_ms = (1000 * statistics.median(each) for each in zip(*pairs, strict=True))
    ratios = [theirs / ours for ours, theirs in pairs]
    quartiles = ", ".join(f"{each:.3f}" for each in statistics.quantiles(ratios))
    print(f"{name:24} {torch_ms:10.2f} {onnx_ms:13.2f} {statistics.median(ratios):8.3f}   ({quartiles})")


def main() -> None:
    """Print a line for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="RUN_OR_PRESET")
    parser.add_argument("--batch", type=int, default=1, help="images or texts a call")
    parser.add_argument("--tokens", type=int, default=128, help="of a text")
    parser.add_argument("--calls", type=int, default=51, help="counted calls of each")
    parser.add_argument("--warm-up", type=int, default=5, help="calls of each before these")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--int8", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    kind = "int8" if arguments.int8 else "float32"
    print(f"batch {arguments.batch}, {arguments.threads} threads, {arguments.calls} calls each, medians; ONNX: {kind}")
    print(f"{'model':24} {'PyTorch ms':>10} {'ONNX ms':>13} {'ratio':>8}   (quartiles)")
    for name in arguments.models:
        measure(name, arguments)


if __name__ == "__main__":
    main()
