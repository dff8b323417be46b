"""Time and memory of `asarm`, as ratios to the original method measured in the same run."""
