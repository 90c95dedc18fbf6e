"""Checkpoints: which one is meant, whether it is whole, and the model in it; training writes them."""
