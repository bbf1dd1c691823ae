"""Records of runs for tests, written flat."""

from typing import Any


def nest(flat: dict[str, Any]) -> dict[str, Any]:
    """Return metrics in the form of metrics.json, from flat names such as validation_accuracy and HasAns_f1."""
    model = ("parameters", "active_parameters", "flops", "active_flops")
    training = ("epochs", "steps", "best_epoch", "seconds", "seed", "tokens_per_second")
    top = ("recipe", "task", "headline", "split", "versions", "commit", "seeds")
    parts = {"mismatched_": "mismatched", "matched_": "matched", "HasAns_": "answerable", "NoAns_": "unanswerable"}
    found: dict[str, Any] = {"headline": ["accuracy"], "task": "image-classification", "recipe": "tiny"}
    found |= {"model": {"name": flat.get("model")}, "test": {}, "validation": {}, "training": {}}
    whole = "matched" if any(key.startswith("matched_") for key in flat) else ""
    for key, value in flat.items():
        if key in top:
            found[key] = value
        elif key in model:
            found["model"][key] = value
        elif key in training:
            found["training"][key] = value
        elif key.startswith("validation_"):
            found["validation"][key.removeprefix("validation_")] = value
        elif prefix := next((prefix for prefix in parts if key.startswith(prefix)), ""):
            found["test"].setdefault(parts[prefix], {})[key.removeprefix(prefix)] = value
        elif key != "model":
            found["test"].setdefault(whole, {})["examples" if key.startswith("test_") else key] = value
    return found
