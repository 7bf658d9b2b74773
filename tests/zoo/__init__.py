"""Transformers with one planted fault each, and healthy ones with legitimate oddities: what the doctor must tell apart."""
