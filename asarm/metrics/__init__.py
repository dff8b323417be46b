"""What is measured: densities, judges, repetition, ROUGE, pass@k, and the statistics of means."""
