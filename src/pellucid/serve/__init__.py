"""The HTTP service of a model: ``pellucid serve RUN``."""
