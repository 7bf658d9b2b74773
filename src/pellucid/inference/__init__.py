"""Inference: sampling, decoding, beam search, and text in, text out."""
