"""Images with attributes, batches, augmentation, suites."""
