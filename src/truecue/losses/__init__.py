"""Losses: pure functions on tensors, one value for each sample or pair."""
