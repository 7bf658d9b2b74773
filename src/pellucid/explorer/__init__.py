"""A running Transformer to walk through: a page on this machine, and the server behind it."""
