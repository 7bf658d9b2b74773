"""What can be worked out about a model: pure functions of configs and numbers."""
