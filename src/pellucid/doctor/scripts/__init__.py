"""Scripts that show a fault with torch alone: what they need of the model and the spec, written as Python."""
