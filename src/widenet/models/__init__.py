"""The models as Hugging Face and timm know them, by name, with their sizes."""
