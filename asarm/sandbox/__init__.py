"""Runs programs that nobody trusts in isolation, and their tests next to them; knows no model."""
