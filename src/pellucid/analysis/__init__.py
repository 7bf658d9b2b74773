"""What can be worked out about a model: pure functions of tensors, tapes and configs."""
