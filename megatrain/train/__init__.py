"""Training: the engine, one step, the schedule, and the loop."""
