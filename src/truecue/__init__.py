"""Find, show, measure and remove the spurious correlations that image classifiers learn."""
