"""What acts on an audit: tuning a model's last layer, and taking spurious parts off its logits."""
