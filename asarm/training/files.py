"""Names of what a training run writes into its folder. No torch, for what only reads it."""

METRICS, EVALUATIONS, SAMPLES = "metrics.jsonl", "evaluations.jsonl", "samples"
