"""The graph of a model that tells the texts of a pair apart is given which token belongs to which."""

from dataclasses import replace

import pytest
import torch
from families import STACK, VOCAB

pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

from pellucid.config.model import Classification, Encoder, Tokens
from pellucid.config.parts import Learned
from pellucid.models.build import build
from pellucid.models.onnx import TOLERANCE, write_onnx


def test_token_types_go_in(tmp_path):
    torch.manual_seed(0)
    stack = replace(STACK, positions=Learned(max_length=40))
    described = Encoder(
        front=Tokens(vocab_size=VOCAB, token_types=2), stack=stack, head=Classification(labels=("x", "y"))
    )
    model = build(described).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    assert write_onnx(tmp_path, model) <= TOLERANCE
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    assert [given.name for given in session.get_inputs()] == ["input_ids", "attention_mask", "token_type_ids"]
    tokens, keep = torch.arange(18).view(3, 6), torch.ones(3, 6, dtype=torch.long)
    answers = []
    for types in (torch.zeros_like(tokens), torch.tensor([[0, 0, 0, 1, 1, 1]] * 3)):
        given = {"input_ids": tokens.numpy(), "attention_mask": keep.numpy(), "token_type_ids": types.numpy()}
        answers.append(torch.from_numpy(session.run(None, given)[0]))
        with torch.no_grad():
            expected = model(tokens, keep=keep.bool(), token_types=types)
        assert (answers[-1] - expected).abs().max() <= TOLERANCE * expected.abs().max()
    assert (answers[0] - answers[1]).abs().max() > 0.01
