"""Generated programs and their tests, run in sandboxes."""
