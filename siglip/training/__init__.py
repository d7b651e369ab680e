"""Training: optimizer, state, one step, and the run."""
