"""Testing a classifier: accuracy, loss, and how its experts share the work."""

import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from widenet.analysis.compare import read_metrics
from widenet.checkpoints.folder import load_classifier, load_processor
from widenet.data.batches import Collator, EvalImages
from widenet.errors import WideNetError
from widenet.recipes import build_recipe
from widenet.training.folder import read_data, read_recipe, write_json
from widenet.vision import WideNetForImageClassification


def evaluate_run(run: Path, overrides: list[str], output: Path | None = None) -> dict[str, Any]:
    """Test a run, or a model folder given ``data=``, and record the result.

    Args:
        run: the folder.
        overrides: ``key=value`` changes to the run's recipe, for example other data.
        output: folder for metrics.json. None means the run itself, unless there are overrides: then the
            metrics are not the run's own, and are only returned.

    Raises:
        WideNetError: the folder or the data cannot be read, the classes are not the model's, the data no
            longer split as in training, so that training images could be among the tested, or the metrics
            cannot be written.
    """
    model = load_classifier(run).eval()
    processor = load_processor(run)
    if (run / "recipe.yaml").is_file():
        recipe = read_recipe(run, overrides)
    elif any(override.startswith(("data=", "data.source=")) for override in overrides):
        defaults = {"name": "evaluate", "data": {}, "model": {"name": str(run)}, "training": {"epochs": 1}}
        recipe = build_recipe(defaults, overrides)
    else:
        raise WideNetError(f"{run} records no data set (it has no recipe.yaml); name one with data=")
    if recipe.training.device == "auto" and torch.accelerator.is_available():
        model.to(torch.accelerator.current_accelerator())
    data = read_data(recipe)
    classes = list(model.config.id2label.values())
    if classes != data.class_names:
        raise WideNetError(
            f"the labels of {recipe.data.source} do not match the model: the data have "
            f"{_shorten(data.class_names)}, the model {_shorten(classes)}"
        )
    recorded = read_metrics(run) if (run / "metrics.json").is_file() else {}
    split = recorded.get("split", {})
    if split.get("source") == data.split["source"] and split.get("digest") != data.split["digest"]:
        raise WideNetError(
            f"{recipe.data.source} is no longer split as it was in training (files or split settings changed), "
            "so training images could be among the tested ones"
        )
    tested = evaluate_classifier(
        model, EvalImages(data.test, processor), recipe.training.eval_batch_size, data.class_names
    )
    if overrides:
        metrics = {**tested, "split": data.split}
    else:
        metrics = {**recorded, **tested, "split": data.split}
        output = output or run
    if output is not None:
        try:
            output.mkdir(parents=True, exist_ok=True)
            write_json(output / "metrics.json", metrics)
        except OSError as error:
            raise WideNetError(f"{output}/metrics.json cannot be written: {error}") from error
    return metrics


@torch.no_grad()
def evaluate_classifier(
    model: WideNetForImageClassification, images: EvalImages, batch_size: int, class_names: list[str]
) -> dict[str, Any]:
    """Return the test metrics of a classifier.

    Args:
        model: in evaluation mode.
        images: what to test on.
        batch_size: images at once. Without an evaluation capacity it changes no image's result, only the
            balance loss, a statistic of the batch.
        class_names: one per class, for the per-class accuracies.

    Returns:
        ``accuracy``, ``top5_accuracy`` (with more than 5 classes), ``loss`` (cross-entropy),
        ``balance_loss`` (mean per routing operation; 1 is perfectly balanced), ``class_accuracy`` by name,
        ``expert_load`` (per block, the share of assignments each expert got), ``images_per_second``.
    """
    device = model.device
    E, labels = model.config.num_experts, len(class_names)
    hits = top5 = 0
    loss = balance = 0.0
    correct, total = torch.zeros(labels), torch.zeros(labels)
    load: dict[int, torch.Tensor] = {}  # block → assignments per expert
    started = time.perf_counter()
    for batch in DataLoader(images, batch_size, collate_fn=Collator()):
        target = batch["labels"].to(device)
        output = model(batch["pixel_values"].to(device), output_routing=True)
        logits = output.logits.float()
        loss += float(torch.nn.functional.cross_entropy(logits, target, reduction="sum"))
        balance += float(output.balance_loss) * len(target)
        right = logits.argmax(-1) == target
        hits += int(right.sum())
        top5 += int((logits.topk(min(5, labels)).indices == target[:, None]).sum())
        total += torch.bincount(target, minlength=labels).cpu()
        correct += torch.bincount(target[right], minlength=labels).cpu()
        for block, record in enumerate(output.routing):
            if record is not None:
                sent = torch.bincount(record.experts.flatten(), minlength=E).cpu().double()
                load[block] = load.get(block, 0) + sent
    seconds = time.perf_counter() - started
    operations = sum(step.router is not None for step in model.config.depth_plan())
    metrics: dict[str, Any] = {"accuracy": hits / len(images)}
    if labels > 5:
        metrics["top5_accuracy"] = top5 / len(images)
    metrics["loss"] = loss / len(images)
    metrics["balance_loss"] = balance / len(images) / operations if operations else None
    metrics["class_accuracy"] = {
        name: float(correct[index] / total[index]) for index, name in enumerate(class_names) if total[index]
    }
    shares = {block: (sent / sent.sum()).tolist() for block, sent in load.items()}
    metrics["expert_load"] = [shares.get(block) for block in range(model.config.num_hidden_layers)]
    metrics["test_images"] = len(images)
    metrics["images_per_second"] = round(len(images) / seconds, 1)
    return metrics


def _shorten(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return f"{len(names)} classes ({shown}{', …' if len(names) > 5 else ''})"
