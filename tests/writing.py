"""Prompts and sources of several lengths, and when scores count as the same."""

import torch

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13], [3, 4, 5]]
SOURCES = [[7, 8], [9, 10, 11, 12], [13], [5, 6, 4, 3, 2, 9]]


def texts(family, rows=range(4)):
    sources = [SOURCES[row] for row in rows] if family == "encoder_decoder" else None
    return [PROMPTS[row] for row in rows], sources


def near(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
