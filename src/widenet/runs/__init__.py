"""Runs on disk: the folder, its checkpoints, comparison, predictions."""
