"""Recipes become runs: Trainer, optimisers, schedules, progress, run folders."""
