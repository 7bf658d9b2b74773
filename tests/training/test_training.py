"""Schedules, objectives, the loop: laws, and that each family learns."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from families import FAMILIES, describe, small
from sacrebleu.metrics import BLEU
from torch import _dynamo as dynamo

from pellucid.config import parts
from pellucid.config.optimisation import AdamW, Constant, Cosine, InverseSquareRoot, Linear, Training
from pellucid.config.run import Bytes, Causal, Characters, Classify, Masked, SequenceToSequence, WordPiece
from pellucid.data.batch import IGNORE, Batch
from pellucid.data.corpus import Corpus, Languages, Pair
from pellucid.data.tokenizers import Tokenizer
from pellucid.errors import TrainingError, UserError
from pellucid.models import tower
from pellucid.models.build import build
from pellucid.models.tower import Learning, set_learning
from pellucid.training.evaluate import Evaluation, evaluate, quality, translation_scores
from pellucid.training.loop import train
from pellucid.training.objectives import loss_function
from pellucid.training.optim import optimizer
from pellucid.training.schedule import learning_rate


def test_the_papers_schedule():
    rate = learning_rate(InverseSquareRoot(warmup_steps=4000), steps=100_000, d_model=512)
    for step in (1, 100, 4000, 4001, 90_000):
        assert rate(step) == pytest.approx(512**-0.5 * min(step**-0.5, step * 4000**-1.5))


@pytest.mark.parametrize("schedule", [Cosine(peak=1.0, warmup_steps=10), Linear(peak=1.0, warmup_steps=10)])
def test_schedules_rise_then_fall(schedule):
    rate = learning_rate(schedule, steps=110, d_model=8)
    values = [rate(step) for step in range(1, 111)]
    assert values[:10] == pytest.approx([i / 10 for i in range(1, 11)])
    assert all(a > b for a, b in pairwise(values[9:]))
    assert values[-1] == pytest.approx(schedule.final)
    assert learning_rate(Constant(peak=0.5), steps=10, d_model=8)(10) == 0.5


def test_decay_is_on_matrices_only():
    decayed, free = optimizer(small("decoder"), AdamW()).param_groups
    assert all(p.dim() >= 2 for p in decayed["params"])
    assert all(p.dim() < 2 for p in free["params"])
    assert free["weight_decay"] == 0.0


def text_batch(rows=4, length=9, seed=0):
    tokens = torch.randint(2, 61, (rows, length + 1), generator=torch.Generator().manual_seed(seed))
    keep = torch.ones(rows, length, dtype=torch.bool)
    keep[0, 5:] = False
    labels = tokens[:, 1:].masked_fill(~keep, IGNORE)
    return Batch(tokens=tokens[:, :-1], labels=labels, keep=keep)


def pair_batch(**sizes):
    batch = text_batch(**sizes)
    return Batch(
        tokens=batch.tokens,
        labels=batch.labels,
        keep=batch.keep,
        source=batch.tokens.flip(1),
        source_keep=batch.keep.flip(1),
    )


OBJECTIVES = {
    "decoder": (Causal(label_smoothing=0.1), text_batch),
    "encoder": (Masked(), text_batch),
    "encoder_decoder": (SequenceToSequence(label_smoothing=0.1), pair_batch),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_ignores_padding_and_smooths_as_the_formula_says(family):
    objective, make = OBJECTIVES[family]
    model, batch = small(family), make()
    loss = loss_function(objective)(model, batch)
    smoothing = getattr(objective, "label_smoothing", 0.0)
    if family == "encoder_decoder":
        logits = model(batch.source, batch.tokens, source_keep=batch.source_keep, keep=batch.keep)
    else:
        logits = model(batch.tokens, keep=batch.keep)
    log_p = logits.log_softmax(-1)[batch.keep]
    picked = log_p.gather(1, batch.labels[batch.keep][:, None]).squeeze(1)
    expected = -((1 - smoothing) * picked + smoothing * log_p.mean(-1)).sum()
    torch.testing.assert_close(loss.total, expected)
    torch.testing.assert_close(loss.nats, -picked.sum())
    assert loss.num_labels == batch.num_labels == int(batch.keep.sum())


class Repeating:
    """The same few batches over and over."""

    def __init__(self, *batches):
        self.batches = batches

    def __getitem__(self, index):
        return self.batches[index % len(self.batches)]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_tells_what_an_evaluation_of_its_batch_would_have_told(family):
    """What is minimised has smoothing and a z-loss in it, and cannot be compared with a validation loss."""
    objective, make = OBJECTIVES[family]
    objective, model, batch = replace(objective, z_loss=1e-2), small(family), make()
    expected = evaluate(model, [batch], objective).loss
    total = loss_function(objective)(model, batch).total.item() / batch.num_labels
    (step,) = train(model, Repeating(batch), objective, Training(steps=1))
    assert step.nats == pytest.approx(expected, rel=1e-5)
    assert step.loss == pytest.approx(total, rel=1e-5) != step.nats


@pytest.mark.parametrize("family", FAMILIES)
def test_accumulating_equals_one_larger_batch(family):
    objective, make = OBJECTIVES[family]
    parts_ = [make(rows=2, seed=1), make(rows=3, seed=2)]
    together = Batch(**{
        name: torch.cat([getattr(part, name) for part in parts_])
        for name in ("tokens", "labels", "keep", "source", "source_keep")
        if getattr(parts_[0], name) is not None
    })  # fmt: skip
    results = []
    for batches, accumulate in ((Repeating(*parts_), 2), (Repeating(together), 1)):
        model = small(family)
        # Plain gradient descent in disguise: Adam would divide the difference of tiny gradients away.
        settings = Training(
            steps=1, accumulate=accumulate, schedule=Constant(peak=1e-2), optimizer=AdamW(epsilon=1.0, weight_decay=0)
        )
        (step,) = train(model, batches, objective, settings)
        results.append((step.loss, step.gradient_norm, torch.cat([p.detach().flatten() for p in model.parameters()])))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    assert results[0][1] == pytest.approx(results[1][1], rel=1e-4)
    torch.testing.assert_close(results[0][2], results[1][2], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_learns(family, precision):
    objective, make = OBJECTIVES[family]
    model = build(describe(family))
    settings = Training(steps=150, schedule=Cosine(peak=1e-2, warmup_steps=10), precision=precision)
    list(train(model, Repeating(make()), objective, settings))
    assert evaluate(model, [make()], objective).accuracy > 0.98


def test_a_copy_is_learned_and_holds_for_new_texts():
    """Reversal, which needs the cross-attention to find the right place."""

    def batch(seed):
        source = torch.randint(2, 61, (32, 8), generator=torch.Generator().manual_seed(seed))
        target = source.flip(1)
        return Batch(
            tokens=torch.cat([torch.zeros_like(target[:, :1]), target[:, :-1]], 1), labels=target, source=source
        )

    class Fresh:
        def __getitem__(self, index):
            return batch(index)

    stack = describe("encoder_decoder", d_model=64, positions=parts.Learned(max_length=8))
    model = build(stack)
    settings = Training(steps=400, schedule=Cosine(peak=5e-3, warmup_steps=50), optimizer=AdamW(betas=(0.9, 0.98)))
    list(train(model, Fresh(), SequenceToSequence(label_smoothing=0.0), settings))
    assert evaluate(model, [batch(10_001)], SequenceToSequence()).accuracy > 0.97


def test_a_classifier_learns():
    from pellucid.config import model as config

    stack = describe("encoder").stack
    model = build(
        config.Encoder(
            front=config.Tokens(vocab_size=61), stack=stack, head=config.Classification(labels=("even", "odd"))
        )
    )
    tokens = torch.randint(2, 61, (64, 6), generator=torch.Generator().manual_seed(0))
    batch = Batch(tokens=tokens, labels=tokens[:, 2] % 2)
    list(train(model, Repeating(batch), Classify(), Training(steps=150, schedule=Constant(peak=3e-3))))
    assert evaluate(model, [batch], Classify()).accuracy > 0.95


def test_a_loss_that_is_not_finite_stops_and_says_where():
    model = small("decoder")
    with torch.no_grad():
        model.blocks[1].feed_forward.up.weight[3, 3] = torch.nan
    with pytest.raises(TrainingError, match=r"step 1.*not finite.*blocks\.1\.feed_forward\.up\.weight"):
        list(train(model, Repeating(text_batch()), Causal(), Training(steps=3)))
    model = small("decoder")
    with torch.no_grad():
        model.blocks[0].feed_forward.up.weight.fill_(1e38)
    with pytest.raises(TrainingError, match=r"the tensor blocks\.0\.feed_forward\.pre"):
        list(train(model, Repeating(text_batch()), Causal(), Training(steps=3)))


def test_a_look_that_fails_hides_no_loss_that_is_not_finite(monkeypatch):
    def full(model):
        raise UserError('recording "logits"', "no room")

    monkeypatch.setattr("pellucid.training.loop.trace", full)
    model = small("decoder")
    with torch.no_grad():
        model.blocks[0].feed_forward.up.weight.fill_(1e38)
    with pytest.raises(TrainingError, match=r"step 1: the loss is not finite.*looking.*failed \(UserError\)"):
        list(train(model, Repeating(text_batch()), Causal(), Training(steps=3)))


def test_a_gradient_that_is_not_finite_stops_before_anything_is_learned_from_it():
    model = small("decoder")
    before = [parameter.detach().clone() for parameter in model.parameters()]
    model.blocks[1].feed_forward.up.weight.register_hook(lambda gradient: gradient * torch.inf)
    message = r"step 1: the gradient is not finite; the first cause seen is the gradient of blocks\.1\.feed_forward\.up"
    with pytest.raises(TrainingError, match=message):
        list(train(model, Repeating(text_batch()), Causal(), Training(steps=3)))
    assert all(torch.equal(now, then) for now, then in zip(model.parameters(), before, strict=True))


def test_perplexity_and_bits_per_byte():
    model = small("decoder")
    evaluation = evaluate(model, [text_batch()], Causal())
    assert evaluation.perplexity == pytest.approx(math.exp(evaluation.loss))
    assert evaluation.bits_per_byte(100) == pytest.approx(evaluation.loss * evaluation.count / math.log(2) / 100)


@pytest.mark.parametrize("apart", [True, False])
def test_bits_per_byte_are_told_where_every_token_was_asked_for(apart):
    model, corpus = small("decoder"), Corpus("text", ["abc", "def"], ["abc", "def"])
    objective, tokenizer = Causal(separate_documents=apart), Tokenizer.train(Characters(), corpus.train)
    evaluation = Evaluation(1.0, 0.5, 4)
    figures = quality(model, corpus, tokenizer, objective, corpus.validation, evaluation, lambda sources: sources)
    assert ("bits_per_byte" in figures) is not apart


@pytest.mark.parametrize(("kind", "told"), [(Bytes(), True), (Characters(), False), (WordPiece(vocab_size=60), False)])
def test_bits_per_byte_are_told_where_the_tokens_say_the_whole_text(kind, told):
    """Pieces of words have lost capitals and spaces, characters those that training had not."""
    corpus = Corpus("text", ["abc def", "def abc"], ["abc def", "A  bé"])
    tokenizer, evaluation = Tokenizer.train(kind, corpus.train), Evaluation(1.0, 0.5, 4)
    figures = quality(
        small("decoder"), corpus, tokenizer, Causal(), corpus.validation, evaluation, lambda sources: sources
    )
    assert ("bits_per_byte" in figures) is told


def test_bleu_of_text_that_was_split_by_moses():
    """The tokens as they are for the published figure, text put together again for the one between projects."""
    hypotheses = ["zwei männer , die im &quot; park &quot; laufen .", "ein hund rennt schnell ."]
    references = ["zwei männer , die im &quot; park &quot; gehen .", "ein hund rennt sehr schnell ."]
    scores = translation_scores(hypotheses, references, split_by_moses="de")
    assert "tok:none" in scores["bleu"]["signature"]
    assert "tok:13a" in scores["bleu_detokenized"]["signature"]
    expected = BLEU(tokenize="none").corpus_score(hypotheses, [references]).score
    assert scores["bleu"]["score"] == pytest.approx(expected)
    joined = [['zwei männer, die im "park" laufen.', "ein hund rennt schnell."]]
    joined.append(['zwei männer, die im "park" gehen.', "ein hund rennt sehr schnell."])
    assert scores["bleu_detokenized"]["score"] == pytest.approx(BLEU().corpus_score(joined[0], [joined[1]]).score)
    assert "bleu_detokenized" not in translation_scores(hypotheses, references)


def test_languages_of_a_reversed_corpus_are_exchanged():
    corpus = Corpus("pairs", [Pair("a", "b")], [Pair("a", "b")], split_by_moses=Languages("en", "de"))
    assert corpus.reversed().split_by_moses == Languages("de", "en")


def trained(family, recompute, precision, **changes):
    objective, make = OBJECTIVES[family]
    model = small(family, dropout=0.1, **changes)
    training = Training(steps=3, schedule=Constant(peak=1e-2), precision=precision, recompute=recompute)
    torch.manual_seed(0)
    losses = [step.loss for step in train(model, [make(seed=i) for i in range(3)], objective, training)]
    return losses, dict(model.named_parameters())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_recomputing_changes_no_bit(family, precision):
    (kept, one), (recomputed, other) = (trained(family, on, precision) for on in (False, True))
    assert kept == recomputed
    assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("family", FAMILIES)
def test_recomputing_reaches_a_learned_bias_that_all_layers_share(family):
    objective, make = OBJECTIVES[family]
    gradients = []
    for on in (False, True):
        model = small(family, positions=parts.RelativeBias(buckets=8, max_distance=20)).train()
        set_learning(model, Learning(recomputed=on))
        loss_function(objective)(model, make()).total.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert any(name.endswith("bias.table.weight") and grad.norm() > 1e-3 for name, grad in gradients[0].items())
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_recomputing_keeps_little(family):
    objective, make = OBJECTIVES[family]
    batch, kept = make(rows=8, length=40), {}
    for on in (False, True):
        model, bytes_kept = small(family).train(), []
        set_learning(model, Learning(recomputed=on))
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

        def pack(x, weights=weights, bytes_kept=bytes_kept):
            if x.untyped_storage().data_ptr() not in weights:
                bytes_kept.append(x.numel() * x.element_size())
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            loss_function(objective)(model, batch).total.backward()
        kept[on] = sum(bytes_kept)
    assert kept[True] < kept[False] / 2


@pytest.mark.compiles
@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_compiled_blocks_learn_the_same_and_share_their_code(family, recomputed, monkeypatch):
    dynamo.reset()
    compiled_call = torch.compile(tower._call, backend="aot_eager")
    monkeypatch.setattr(tower, "_compiled", lambda: compiled_call)
    dynamo.utils.counters.clear()
    objective, make = OBJECTIVES[family]
    gradients = []
    for compiled in (False, True):
        model = small(family, num_layers=4).train()
        set_learning(model, Learning(recomputed=recomputed, compiled=compiled))
        loss_function(objective)(model, make()).total.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    # An encoder's layer and a decoder's, of 4 layers each; the first that sees a mask renders it for the others.
    assert 1 <= dynamo.utils.counters["stats"]["unique_graphs"] <= 4
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value, atol=1e-4, rtol=1e-3)
