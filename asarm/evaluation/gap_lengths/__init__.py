"""A study of the length of blanks: estimators of it are compared on held-out text."""
