"""The card: operations counted as by hand and as by torch, figures with how they were measured."""

import sys
from dataclasses import replace

import pytest
import torch
from families import STACK, describe, small
from torch.utils.flop_counter import FlopCounterMode

from pellucid.config import model as config
from pellucid.config import parts
from pellucid.config.defaults import default_run
from pellucid.config.optimisation import Training
from pellucid.config.run import Characters, NamedData, Run, TextFiles, fitting_objectives
from pellucid.data.batch import IGNORE, Batch
from pellucid.data.corpus import Corpus
from pellucid.models.build import build
from pellucid.nn.lora import adapt
from pellucid.training import card, precision
from pellucid.training.card import Costs, card_rows, flops_per_token, matrix_peak, measure, peak_memory, write_card
from pellucid.training.session import Session, prepare
from pellucid.training.watch import MetricsFile

D, L, F, V = STACK.d_model, STACK.num_layers, STACK.feed_forward.d_ff, 61


def a_batch(family, rows=3, length=10, source=7):
    tokens = torch.randint(2, V, (rows, length))
    pair = {"source": torch.randint(2, V, (rows, source))} if family == "encoder_decoder" else {}
    return Batch(tokens=tokens, labels=tokens, **pair)


def weights(module):
    return sum(part.weight.numel() for part in module.modules() if isinstance(part, torch.nn.Linear))


def test_a_decoder_by_hand():
    matrices = L * (4 * D * D + 2 * D * F) + D * V
    assert flops_per_token(small("decoder"), a_batch("decoder")) == 6 * matrices + 12 * L * D * 10


def test_an_encoder_decoder_by_hand():
    T, S, rows = 10, 7, 3
    encoder = S * L * 6 * (4 * D * D + 2 * D * F) + L * 12 * D * S * S
    decoder = L * 6 * (T * (4 + 2) * D * D + S * 2 * D * D + T * 2 * D * F) + L * 12 * D * (T * T + T * S)
    whole = rows * (encoder + decoder + 6 * T * D * V)
    found = flops_per_token(small("encoder_decoder"), a_batch("encoder_decoder"))
    assert found == pytest.approx(whole / (rows * (T + S)))


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("encoder", {"feed_forward": parts.FeedForward(d_ff=40, gated=True), "placement": "both"}),
        ("decoder", {"attention": parts.Attention(num_heads=4, num_kv_heads=1, head_dim=12)}),
        ("encoder_decoder", {"attention": parts.Attention(num_heads=4, num_kv_heads=2), "positions": parts.Rotary()}),
    ],
)
def test_torch_counts_the_same(family, changes):
    attention = replace(changes.get("attention", STACK.attention), kernel="explicit")  # fused ones skip or repeat work
    model, batch = small(family, **{**changes, "attention": attention, "num_layers": 1}).train(), a_batch(family)
    inputs = [batch.tokens] if batch.source is None else [batch.source, batch.tokens]
    with FlopCounterMode(display=False) as counter:
        model(*inputs).sum().backward()
    assert flops_per_token(model, batch) * batch.num_tokens == pytest.approx(counter.get_total_flops())


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("family", ["decoder", "encoder_decoder"])
def test_torch_counts_the_same_of_blocks_that_are_frozen(family, adapted):
    """Weights have no gradients; what comes before them is trained, and has."""
    model = small(family, attention=replace(STACK.attention, kernel="explicit"), num_layers=1).train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("blocks." not in name)
    if adapted:
        adapt(model, ("query", "value"), rank=2, alpha=4.0, dropout=0.0)
    batch = a_batch(family)
    inputs = [batch.tokens] if batch.source is None else [batch.source, batch.tokens]
    with FlopCounterMode(display=False) as counter:
        model(*inputs).sum().backward()
    assert flops_per_token(model, batch) * batch.num_tokens == pytest.approx(counter.get_total_flops())


def test_padding_is_no_work_and_the_head_answers_labels_only():
    model, batch = small("encoder"), a_batch("encoder", rows=2)
    pad = torch.zeros(2, 5, dtype=torch.long)
    keep = torch.cat([torch.ones(2, 10), pad], dim=1).bool()
    labels = torch.cat([batch.labels, pad + IGNORE], dim=1)
    padded = Batch(tokens=torch.cat([batch.tokens, pad], dim=1), labels=labels, keep=keep)
    assert flops_per_token(model, padded) == flops_per_token(model, batch)
    half = batch.labels.clone()
    half[:, ::2] = IGNORE
    less = flops_per_token(model, batch) - flops_per_token(model, Batch(tokens=batch.tokens, labels=half))
    assert less == pytest.approx(6 * weights(model.head) / 2)


def test_a_window_is_less_work():
    batch = a_batch("decoder")
    causal, wide = (flops_per_token(small("decoder", windows=(window,)), batch) for window in (3, 0))
    assert wide - causal == 12 * L * D * (10 - 3)
    both = flops_per_token(small("encoder", windows=(3,)), a_batch("encoder"))
    assert flops_per_token(small("encoder"), a_batch("encoder")) - both == 12 * L * D * (10 - 5)


def test_a_classifier_reads_once_a_text():
    model = build(
        config.Encoder(front=config.Tokens(vocab_size=V), stack=STACK, head=config.Classification(labels=("a", "b")))
    )
    tokens = torch.randint(2, V, (3, 10))
    found = flops_per_token(model, Batch(tokens=tokens, labels=torch.zeros(3, dtype=torch.long)))
    blocks = 6 * L * (4 * D * D + 2 * D * F) + 12 * L * D * 10
    assert found == pytest.approx(blocks + 6 * weights(model.head) / 10)


def test_what_this_machine_can_do():
    assert matrix_peak(torch.device("cpu"), "float32") > 1e9
    assert peak_memory(torch.device("cpu")) > 50e6


def test_a_slow_product_is_timed_once_and_no_larger_one_is_tried(monkeypatch):
    cpu, tried = torch.device("cpu"), []

    def seconds(a, b, kind):
        tried.append(len(a))
        return 0.01 if len(a) < 512 or kind == "float32" else 0.3

    monkeypatch.setattr(precision, "_seconds", seconds)
    assert precision.product_seconds(cpu, "bfloat16", 2048) == (512, [0.3])
    assert tried == [256, 256, 512, 512]
    assert precision.product_seconds(cpu, "float32", 1024) == (1024, [0.01] * 5)


@pytest.mark.parametrize(("speed", "said"), [(1e9, True), (50e9, False), (200e9, False)])
def test_a_precision_that_is_slow_here_is_told_when_a_run_begins(monkeypatch, speed, said):
    speeds = {"float32": 60e9, "bfloat16": speed}
    monkeypatch.setattr(precision, "_speed", lambda device, kind: speeds[kind])
    precision.slowness.cache_clear()
    asked = replace(default_run("decoder", NamedData(name="python-docs")), tokenizer=Characters())
    run = replace(asked, training=replace(asked.training, precision="bfloat16"))
    chosen = prepare(run, corpus=Corpus(kind="text", train=["some text"] * 9, validation=["more text"] * 9)).chosen
    precision.slowness.cache_clear()
    assert run.training.precision == "bfloat16"
    expected = "bfloat16 (products in bfloat16 are 60 times as slow here as in float32; training.precision=auto takes"
    assert chosen.get("precision", "").startswith(expected) == said
    assert said or "precision" not in chosen


def test_kibibytes_on_linux_and_bytes_on_a_mac(monkeypatch):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrusage", lambda who: type("Usage", (), {"ru_maxrss": 2048}))
    for system, expected in (("linux", 2048 * 1024), ("darwin", 2048)):
        monkeypatch.setattr(sys, "platform", system)
        assert peak_memory(torch.device("cpu")) == expected


def a_session():
    model = describe("decoder")
    corpus = Corpus("text", ["abc"] * 7, ["abc"], notes={"licence": "CC0", "languages": ["en", "de"]})
    run = Run(
        model=model,
        data=TextFiles(train=("x",)),
        tokenizer=Characters(),
        objective=fitting_objectives(model)[0](),
        training=Training(),
    )
    return Session(run, corpus, None, build(model))


RESULTS = {
    "step": 300,
    "loss": 1.25,
    "bleu": {"score": 36.4321, "signature": "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.5.1"},
}
COSTS = Costs(tokens_per_second=5000.0, flops_per_token=2e7, matrix_peak=4e11, memory=1_234_000_000, seconds=3725.0)


def test_the_share_is_the_models_own_arithmetic():
    assert COSTS.share_of_peak == pytest.approx(5000 * 2e7 / 4e11)


def test_the_card_says_what_it_must(tmp_path):
    for name in ("curves.svg", "samples.svg", "metrics.jsonl"):
        (tmp_path / name).write_text("")
    chosen = {"kernel": "blocked: 9,160 tokens/s, sdpa 5,270"}
    write_card(a_session(), tmp_path, command="pellucid train x.toml", results=RESULTS, costs=COSTS, chosen=chosen)
    text = (tmp_path / "README.md").read_text()
    for part in (
        f"# {tmp_path.name}\n",
        "    pellucid train x.toml",
        "![The loss over the steps](curves.svg)",
        "![Samples over the steps](samples.svg)",
        "| loss | 1.25 | mean negative log-likelihood in nats per label |",
        r"| bleu | 36.4321 | nrefs:1\|case:mixed\|eff:no\|tok:13a\|smooth:exp\|version:2.5.1 |",
        "| speed | 5,000 tokens/s |",
        "| share of peak | 25% of this machine's matrix products (400 GFLOP/s in float32) |",
        "| peak memory | 1.23 GB |",
        "| time | 1 h 02 min |",
        f"torch {torch.__version__}",
        f"| threads | {torch.get_num_threads()} of ",
        "A token takes 2e+07 floating-point operations",
        "| kernel | blocked: 9,160 tokens/s, sdpa 5,270 |",
        "- training examples: 7",
        "- languages: en, de",
        "- [metrics.jsonl](metrics.jsonl)",
    ):
        assert part in text
    assert "config.toml" not in text  # no link leads nowhere


def test_the_terminal_gets_the_same_rows(tmp_path):
    rows = card_rows(a_session(), tmp_path, RESULTS, COSTS)
    assert rows["model"].startswith("Decoder of ")
    assert rows["loss"] == "1.25"
    assert rows["bleu"].startswith("36.4321 (nrefs:1|")
    assert rows["speed"] == "5,000 tokens/s"
    assert "pictures" not in rows
    (tmp_path / "curves.svg").write_text("")
    assert card_rows(a_session(), tmp_path, RESULTS, COSTS)["pictures"] == str(tmp_path / "curves.svg")


@pytest.fixture
def known_machine(monkeypatch):
    monkeypatch.setattr(card, "matrix_peak", lambda device, precision: 1e12)


def test_costs_come_from_the_metrics(tmp_path, known_machine):
    metrics = MetricsFile(tmp_path)
    for seconds in (9.0, 0.1, 0.2):
        metrics.scalars(1, {"loss": 1.0, "tokens": 100, "seconds": seconds})
    session, batch = a_session(), a_batch("decoder")
    costs = measure(session, tmp_path, batch, seconds=12.3)
    assert costs.tokens_per_second == pytest.approx(500)
    assert costs.flops_per_token == flops_per_token(session.model, batch)
    assert costs.share_of_peak == pytest.approx(500 * costs.flops_per_token / 1e12)
    assert card_rows(session, tmp_path, {}, costs)["time"] == "12.3 s"


def test_several_processes_have_several_machines_products(tmp_path, known_machine):
    MetricsFile(tmp_path).scalars(1, {"loss": 1.0, "tokens": 100, "seconds": 0.2})
    session, batch = a_session(), a_batch("decoder")
    costs = measure(session, tmp_path, batch, seconds=12.3, processes=4, resumed=True)
    assert costs.share_of_peak == pytest.approx(500 * costs.flops_per_token / 4e12)
    rows = card_rows(session, tmp_path, {}, costs)
    assert "of 4 processes' matrix products (1 TFLOP/s in float32 each)" in rows["share of peak"]
    assert rows["time"] == "12.3 s since it was resumed"


def test_a_run_without_metrics_has_a_card(tmp_path, known_machine):
    costs = measure(a_session(), tmp_path, a_batch("decoder"))
    assert costs.share_of_peak is None
    write_card(a_session(), tmp_path, command="x", results={}, costs=costs)
    text = (tmp_path / "README.md").read_text()
    assert "speed" not in text
    assert "Chosen" not in text


def test_the_peak_of_memory_is_read_before_a_product_is_timed(tmp_path, monkeypatch):
    """On a GPU three matrices of 8192 rows are more than many a model."""
    used = [5]
    monkeypatch.setattr(card, "peak_memory", lambda device: max(used))
    monkeypatch.setattr(card, "matrix_peak", lambda device, precision: used.append(805_306_368) or 1e12)
    assert measure(a_session(), tmp_path, a_batch("decoder")).memory == 5
