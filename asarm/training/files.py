"""Names of what a training run writes into its folder. No torch, for what only reads it."""

METRICS, EVALUATIONS, SAMPLES = "metrics.jsonl", "evaluations.jsonl", "samples"
DATA = "data.json"  # counts of documents, tokens, and what was skipped
WANDB = "wandb.json"  # the id of the run there
