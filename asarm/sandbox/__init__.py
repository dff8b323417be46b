"""Runs programs that nobody trusts in isolation, and their tests beside them; knows no model."""
