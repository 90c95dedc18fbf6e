"""Output layers, which map decoder states to logits or log-probabilities."""
