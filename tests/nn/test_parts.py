"""Positions, norms, fronts and initial weights against their formulas."""

import math
from dataclasses import replace

import pytest
import torch
from families import STACK, describe, small

from pellucid.config import model as config
from pellucid.config import parts
from pellucid.errors import UserError
from pellucid.models.build import build
from pellucid.nn.embedding import AudioFront, PatchFront
from pellucid.nn.norms import LayerNorm, RMSNorm
from pellucid.nn.positions import (
    ALiBiBias,
    NoAddedPositions,
    RelativePositionBias,
    RotaryPositions,
    SinusoidalPositions,
    frequencies,
)


def test_what_is_computed_keeps_its_precision():
    far = torch.tensor([[500, 4000]])
    positions = SinusoidalPositions(8, 10_000.0, interleaved=True)
    code = positions(torch.zeros(1, 2, 8), far)
    for t, position in enumerate(far[0].tolist()):
        for i in range(4):
            assert code[0, t, 2 * i].item() == pytest.approx(math.sin(position / 10_000 ** (2 * i / 8)), abs=1e-7)
    rotary = RotaryPositions(frequencies(8, 10_000.0), interleaved=False)
    before = rotary(far).cos
    assert positions.to(torch.bfloat16)(torch.zeros(1, 2, 8), far).equal(code)
    assert rotary.to(torch.bfloat16)(far).cos.equal(before)


def test_sinusoids_follow_the_formula():
    positions = torch.tensor([[0, 3, 57]])
    code = SinusoidalPositions(8, 10_000.0, interleaved=True)(torch.zeros(1, 3, 8), positions)
    for t, position in enumerate(positions[0].tolist()):
        for i in range(4):
            angle = position / 10_000 ** (2 * i / 8)
            assert code[0, t, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-5)
            assert code[0, t, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-5)
    first = SinusoidalPositions(8, 10_000.0, interleaved=False)(torch.zeros(1, 3, 8), positions)
    torch.testing.assert_close(first, torch.cat([code[..., 0::2], code[..., 1::2]], -1))


@pytest.mark.parametrize("interleaved", [True, False])
def test_rotary_products_depend_on_the_distance_alone(interleaved):
    rotary, q, k = (
        RotaryPositions(frequencies(8, 10_000.0), interleaved),
        torch.randn(1, 1, 1, 8),
        torch.randn(1, 1, 1, 8),
    )

    def product(m, n):
        return (rotary(torch.tensor([[m]]))(q) * rotary(torch.tensor([[n]]))(k)).sum()

    torch.testing.assert_close(product(5, 2), product(105, 102), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(product(5, 2), product(5, 3), atol=1e-4)
    torch.testing.assert_close(rotary(torch.tensor([[7]]))(q).norm(), q.norm())


def test_rotary_turns_a_pair_by_its_angle():
    x = torch.tensor([[[[1.0, 0.0, 0.0, 0.0]]]])
    turned = RotaryPositions(frequencies(4, 100.0), True)(torch.tensor([[2]]))(x)
    torch.testing.assert_close(turned[0, 0, 0], torch.tensor([math.cos(2), math.sin(2), 0.0, 0.0]))
    turned = RotaryPositions(frequencies(4, 100.0), False)(torch.tensor([[2]]))(x)
    torch.testing.assert_close(turned[0, 0, 0], torch.tensor([math.cos(2), 0.0, math.sin(2), 0.0]))


def test_alibi_slopes_and_distances():
    bias = ALiBiBias(8)(torch.tensor([[4]]), torch.tensor([[1, 4]]))
    torch.testing.assert_close(bias[0, :, 0, 0], torch.tensor([-3 * 2.0 ** -(i + 1) for i in range(8)]))
    assert bias[0, :, 0, 1].eq(0).all()
    torch.testing.assert_close(ALiBiBias(3).slopes, torch.tensor([2**-4, 2**-8, 2**-2]))


def test_relative_buckets_follow_the_paper():
    past = RelativePositionBias(2, 32, 128, causal=True)
    assert past.bucket(-torch.tensor([0, 1, 15, 16, 127, 128, 5000])).tolist() == [0, 1, 15, 16, 31, 31, 31]
    assert past.bucket(torch.tensor([5])).item() == 0  # the future, which the mask hides
    both = RelativePositionBias(2, 32, 128, causal=False)
    assert both.bucket(torch.tensor([-7, -8, -200, 1, 7, 200])).tolist() == [7, 8, 15, 17, 23, 31]


def test_norms_follow_their_formulas():
    x = torch.randn(2, 3, 8) * 5 + 1
    torch.testing.assert_close(
        LayerNorm(8)(x), (x - x.mean(-1, True)) / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    )
    torch.testing.assert_close(RMSNorm(8)(x), x / (x.square().mean(-1, True) + 1e-6).sqrt())
    torch.testing.assert_close(RMSNorm(8, plus_one=True)(x), RMSNorm(8)(x))


def test_patches_are_a_convolution():
    front = PatchFront(16, patch_size=4, channels=3, class_token=True, positions=NoAddedPositions(), dropout=0.0)
    images, conv = torch.randn(2, 3, 8, 12), torch.nn.Conv2d(3, 16, 4, stride=4)
    conv.weight.data = front.project.weight.data.view(16, 3, 4, 4)
    conv.bias.data = front.project.bias.data
    out = front(images, torch.zeros(2, 7, dtype=torch.long))
    assert out.shape == (2, front.length(images), 16) == (2, 7, 16)
    torch.testing.assert_close(out[:, 1:], conv(images).flatten(2).mT)
    with pytest.raises(UserError, match="image: 8 × 10 pixels; expected multiples of the patch's 4"):
        front.length(images[..., :10])


def test_learned_positions_are_for_one_size_of_image():
    stack = replace(STACK, positions=parts.Learned(max_length=5))
    front, head = config.Patches(image_size=8, patch_size=4), config.Embedding()
    model = build(config.Encoder(front=front, stack=stack, head=head))
    model(torch.randn(1, 3, 8, 8))
    for shape in ((1, 3, 4, 4), (1, 3, 4, 16)):
        with pytest.raises(UserError, match=r"image: 4 × \d+ pixels; expected 8 × 8"):
            model(torch.randn(shape))


@pytest.mark.parametrize("frames", [10, 11])
def test_audio_halves_the_frames(frames):
    front = AudioFront(16, mels=8, positions=NoAddedPositions(), dropout=0.0)
    mels = torch.randn(2, 8, frames)
    length = front.length(mels)
    assert front(mels, torch.zeros(2, length, dtype=torch.long)).shape == (2, length, 16)


def test_an_encoder_reads_images():
    stack = describe("encoder", positions=parts.Learned(max_length=5)).stack
    head = config.Classification(labels=("a", "b"), pooling="first")
    model = build(config.Encoder(front=config.Patches(image_size=8, patch_size=4), stack=stack, head=head))
    assert model(torch.randn(3, 3, 8, 8)).shape == (3, 2)


@pytest.mark.parametrize("family", ["encoder", "decoder"])
def test_a_text_beyond_the_learned_positions_is_refused(family):
    model = small(family, positions=parts.Learned(max_length=8))
    with pytest.raises(UserError, match="9 tokens; expected at most 8"):
        model(torch.zeros(1, 9, dtype=torch.long))


@pytest.mark.parametrize("tie", [(), ("source", "target"), ("target", "output"), ("source", "target", "output")])
def test_tied_weights_share_storage(tie):
    from dataclasses import replace

    model = build(replace(describe("encoder_decoder"), tie=tie))
    weights = {
        "source": model.encoder.embedding.table.weight,
        "target": model.decoder.embedding.table.weight,
        "output": model.head.project.weight,
    }
    for a in weights:
        for b in weights:
            assert (weights[a] is weights[b]) == (a == b or {a, b} <= set(tie))


def deviation(layer):
    return layer.weight.std().item()


def wide(family, init):
    from dataclasses import replace

    base = describe(family, d_model=256, num_layers=4, attention=parts.Attention(num_heads=4))
    return build(replace(base, init=init))


def test_initial_weights():
    gpt = wide("decoder", config.NormalInit(scaled_residual=True))
    assert deviation(gpt.blocks[0].self_attention.query) == pytest.approx(0.02, rel=0.05)
    assert deviation(gpt.blocks[0].self_attention.out) == pytest.approx(0.02 / 8**0.5, rel=0.05)
    assert deviation(gpt.embedding.table) == pytest.approx(0.02, rel=0.05)
    bert = wide("encoder", config.NormalInit(truncated=True))
    assert bert.blocks[0].feed_forward.up.weight.abs().max() <= 0.04
    t5 = wide("encoder_decoder", config.T5Init())
    assert deviation(t5.encoder.blocks[0].self_attention.query) == pytest.approx((256 * 64) ** -0.5, rel=0.05)
    assert deviation(t5.decoder.embedding.table) == pytest.approx(1.0, rel=0.05)
    paper = wide("encoder_decoder", config.XavierInit())
    bound = (6 / (256 + 256)) ** 0.5
    weight = paper.decoder.blocks[0].cross_attention.key.weight
    assert 0.95 * bound < weight.abs().max() <= bound
    assert deviation(paper.encoder.embedding.table) == pytest.approx(256**-0.5, rel=0.05)
    assert all(p.eq(0).all() for name, p in paper.named_parameters() if name.endswith("bias"))
