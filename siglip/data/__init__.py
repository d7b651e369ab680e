"""Input: samples, pixels, token ids, and batches in a fixed order."""
