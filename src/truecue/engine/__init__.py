"""The engine: learners, plans, the step loop, durable runs."""
