"""What `python -m asarm` does: a module for each of its commands."""
