"""Metrics: pure functions and tuples; nothing here knows about models or files."""
