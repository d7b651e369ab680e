"""How good a model is: zero-shot classification, baselines, reports."""
