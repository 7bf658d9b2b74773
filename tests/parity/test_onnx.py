"""The graph answers as the model does, whatever the batch and the length."""

import pytest
import torch
from families import small

pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

from pellucid.errors import CheckpointError
from pellucid.models.onnx import TOLERANCE, write_onnx


def test_a_graph_that_answers_with_no_number_is_refused(tmp_path, monkeypatch):
    run = onnxruntime.InferenceSession.run

    def broken(session, names, inputs):
        (found,) = run(session, names, inputs)
        found[0, 0, 0] = float("nan")
        return [found]

    monkeypatch.setattr(onnxruntime.InferenceSession, "run", broken)
    with pytest.raises(CheckpointError, match="differs from the model by nan"):
        write_onnx(tmp_path, small("decoder").eval())


@pytest.mark.parametrize("family", ["decoder", "encoder", "encoder_decoder"])
def test_graphs(family, tmp_path):
    torch.manual_seed(0)
    model = small(family).eval()
    assert write_onnx(tmp_path, model) <= TOLERANCE
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    # Padding on the left: the first positions of the first row see nothing at all.
    tokens = torch.arange(12).view(2, 6) % 7
    keep = torch.ones(2, 6, dtype=torch.long)
    keep[0, :3] = 0
    inputs = {"input_ids": tokens.numpy(), "attention_mask": keep.numpy()}
    if family == "encoder_decoder":
        target = tokens[:, :4]
        inputs["decoder_input_ids"] = target.numpy()
        expected, real = model(tokens, target, source_keep=keep.bool()), torch.ones(2, 4, dtype=torch.bool)
    else:
        expected, real = model(tokens, keep=keep.bool()), keep.bool()
    found = torch.from_numpy(session.run(None, inputs)[0])
    assert not found.isnan().any()
    assert (found - expected)[real].abs().max() <= TOLERANCE * expected.abs().max()
