"""Published layouts: how each names its tensors and its settings. No mathematics: the core has all of it."""
