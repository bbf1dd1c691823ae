"""Tensors only: routing, experts, attention and the walk through depth (Eq 1 to 8)."""
