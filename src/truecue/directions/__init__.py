"""Directions in the latent space of a generator: found, refined, looked at, measured, searched."""
