"""From decoder states to log-probabilities."""
