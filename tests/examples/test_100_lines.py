"""The example of 100 lines is the Transformer: its weights in the core give the same."""

import importlib.util
from pathlib import Path

import torch

import pellucid as pl
from pellucid.config import model as config
from pellucid.config import parts
from pellucid.models.build import build

PATH = Path(__file__).parents[2] / "examples" / "transformer_in_100_lines.py"

# Names of the example, and of the core; the core's norms are called after the sub-layers that they follow.
SUBLAYERS = {
    "encoder": {"attention": "self_attention", "feed_forward": "feed_forward"},
    "decoder": {"attention": "self_attention", "cross": "cross_attention", "feed_forward": "feed_forward"},
}


def example():
    spec = importlib.util.spec_from_file_location("transformer_in_100_lines", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def core(vocab):
    front = config.Tokens(vocab_size=vocab, scaled=True)
    stack = parts.Stack(
        d_model=64, num_layers=2, attention=parts.Attention(num_heads=4), feed_forward=parts.FeedForward(d_ff=256)
    )
    return build(config.EncoderDecoder(source=front, encoder=stack, target=front, decoder=stack)).eval()


def renamed(weights):
    """The example's weights under the names of the core."""
    table = weights["table.weight"]
    found = {f"{side}.embedding.table.weight": table for side in SUBLAYERS} | {"head.project.weight": table}
    for name, value in weights.items():
        side, _, rest = name.partition(".")
        if side not in SUBLAYERS:
            continue
        number, part, *last = rest.split(".")
        called = SUBLAYERS[side]
        if part == "norms":
            part, last = f"{list(called.values())[int(last[0])]}_residual", ["after", *last[1:]]
        elif part == "feed_forward":
            last = [{"0": "up", "2": "down"}[last[0]], *last[1:]]
        else:
            part = called[part]
        found[".".join([side, "blocks", number, part, *last])] = value
    return found


def test_it_has_100_lines():
    assert len(PATH.read_text(encoding="utf-8").splitlines()) <= 100


def test_its_weights_give_the_same_logits_in_the_core():
    module = example()
    torch.manual_seed(0)
    model, ours = module.Transformer().eval(), core(module.VOCAB)
    ours.load_state_dict(renamed(model.state_dict()))
    source, target = module.batch(7)
    with torch.no_grad():
        expected = model(source, target)
        found = ours(source, target, source_keep=source != module.PAD)
    real = target != module.PAD
    assert (found - expected)[real].abs().max() < 1e-6 * expected.abs().max().clamp_min(1)


def test_the_doctor_finds_it_healthy():
    module = example()
    torch.manual_seed(0)
    report = pl.doctor(module.Transformer(), level="quick")
    assert report.healthy, str(report)
    assert f"pad_id: {module.PAD}" in report.inferred


def test_it_learns():
    module = example()
    torch.manual_seed(0)
    model = module.Transformer()
    source, target = module.batch(64)

    def loss():
        logits = model.eval()(source, target[:, :-1])
        return torch.nn.functional.cross_entropy(logits.mT, target[:, 1:], ignore_index=module.PAD).item()

    before = loss()
    module.train(model.train(), steps=60)
    assert loss() < 0.8 * before
