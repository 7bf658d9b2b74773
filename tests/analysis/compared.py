"""What models are compared on, and runs of them."""

import torch
from families import VOCAB

from pellucid.config.run import Causal, Characters, NoData, Run
from pellucid.data import Tokenizer
from pellucid.models.checkpoint import save_run


def tokens(rows=2, length=8):
    return torch.randint(0, VOCAB, (rows, length), generator=torch.Generator().manual_seed(4))


def inputs(family):
    return (tokens().flip(1), tokens()) if family == "encoder_decoder" else tokens()


def run_of(model, folder):
    tokenizer = Tokenizer.train(Characters(), ["abcdefgh "])
    run = Run(model=model.config, data=NoData(), tokenizer=Characters(), objective=Causal(length=8))
    save_run(folder, model, tokenizer, run)
    return folder
