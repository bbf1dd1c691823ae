"""Uploads to the Hugging Face hub, each with the right model card."""

from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard, file_exists
from safetensors.torch import load_file
from transformers import PreTrainedModel

from widenet.models.card import CARD, model_card


class ModelWithCard(PreTrainedModel):
    """A model of transformers that takes its card along when it is uploaded."""

    _card: bytes | None = None  # of the folder that was last saved to

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Save as transformers does; with ``push_to_hub=True`` a folder keeps the card that it has, and uploads it."""
        card = Path(save_directory) / CARD
        self._card = card.read_bytes() if card.is_file() else None
        super().save_pretrained(save_directory, *args, **kwargs)

    def _upload_modified_files(self, working_dir: Any, repo_id: str, *args: Any, **kwargs: Any) -> Any:
        """Upload a model card, too; this is the last step of transformers' ``push_to_hub`` and ``save_pretrained``."""
        complete_upload(self, Path(working_dir), repo_id, self._card, kwargs.get("token"))
        return super()._upload_modified_files(working_dir, repo_id, *args, **kwargs)


def card_for(model: Any, name: str) -> ModelCard:
    """Return the card of the folder that a model was loaded from, as long as its weights are those; else its own.

    Args:
        model: one of this package.
        name: the repository that it is uploaded to.
    """
    folder = Path(model.name_or_path) if model.name_or_path else None  # Path("") would be the current folder
    if folder is not None and (folder / CARD).is_file() and _holds(folder, model.state_dict()):
        return ModelCard.load(folder / CARD, ignore_metadata_errors=True)
    return model_card(model, name)


def _holds(folder: Path, state: dict[str, torch.Tensor]) -> bool:
    files = sorted(folder.glob("model*.safetensors"))
    stored = {key: value for file in files for key, value in load_file(file).items()}
    return bool(stored) and all(key in state and torch.equal(state[key].cpu(), stored[key]) for key in stored)


def complete_upload(model: Any, folder: Path, name: str, own: bytes | None, token: Any) -> None:
    """Put the right card into a folder that transformers is about to upload.

    transformers has written there the card of the repository, or an empty form where it has none.

    Args:
        model: what is uploaded.
        folder: what is about to be uploaded.
        name: the repository.
        own: the card that the folder had before; it stays.
        token: for the hub.
    """
    if own is not None:
        (folder / CARD).write_bytes(own)
    elif not file_exists(name, CARD, token=token):
        card, form = card_for(model, name), ModelCard.load(folder / CARD)
        card.data["tags"] = list(dict.fromkeys([*card.data.get("tags", []), *form.data.get("tags", [])]))
        card.save(folder / CARD)
