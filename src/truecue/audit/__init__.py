"""Looking into trained models: what they go by, shown as pictures and numbers."""
