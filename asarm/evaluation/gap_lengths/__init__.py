"""How well the length of a blank is known: estimators of it, held against each other."""
