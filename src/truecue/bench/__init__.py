"""Benches: many methods on many suites with many seeds, run once, compared by every rule."""
