"""Ordinary models, calls and batches that are healthy are not blamed; nor do their faults pass with them."""

import callable_models as models
import pytest
import torch
from torch import nn
from zoo.base import GPT, gpt_spec
from zoo.healthy import QKNormed, Unscaled

import pellucid as pl
from pellucid.doctor.finding import Status
from pellucid.doctor.measures import gap
from pellucid.errors import UserError

GPT2 = {"vocab_size": 61, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "pad_token_id": 0}
LLAMA = {
    "vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip
IDS = torch.randint(3, 60, (4, 12), generator=torch.Generator().manual_seed(0))
IDS[0, -3:] = 0
KEEP = IDS != 0


@pytest.fixture(autouse=True)
def same_numbers():
    torch.manual_seed(0)


def gpt2(name="GPT2LMHeadModel"):
    transformers = pytest.importorskip("transformers")
    return getattr(transformers, name)(transformers.GPT2Config(bos_token_id=1, eos_token_id=2, **GPT2))


def told(report):
    return [f"{finding.check}: {finding.seen}" for finding in report.failed]


# ---- a call of one's own ---------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [None, False])
def test_a_call_of_ones_own_need_not_give_masks(masked):
    spec = pl.Spec(call=lambda model, batch: model(batch.ids).logits, masked=masked)
    report = pl.doctor(gpt2(), spec, level="quick")
    assert told(report) == []
    assert report["kv.parity"].status is Status.PASS


def test_nor_one_of_the_layers_of_pytorch():
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    report = pl.doctor(model, pl.Spec(call=lambda model, batch: model(batch.ids)), level="quick")
    assert told(report) == []
    assert any("Spec(masked=True)" in note for note in report.inferred)


def test_what_such_a_call_does_with_masks_is_asked_where_it_is_said():
    spec = pl.Spec(call=lambda model, batch: model(batch.ids).logits, masked=True)
    report = pl.doctor(gpt2(), spec, only=["pad"])
    assert report["pad.invariance"].status is Status.FAIL


def test_padding_on_the_left_of_which_nothing_is_told_is_no_sure_fault():
    spec = pl.Spec(kind="decoder", pad_id=0, pad_sides=("left",), masked=False)
    report = pl.doctor(models.Plain(), spec, only=["pad"])
    assert report["pad.invariance"].status is Status.WARN


class Masking(GPT):
    def forward(self, ids, attention_mask=None):
        return self.step(ids, None, None if attention_mask is None else attention_mask.bool())[0]


def test_a_step_of_ones_own_need_not_take_padding_where_the_model_does():
    found = pl.doctor(Masking(), gpt_spec(), only=["kv.parity"])["kv.parity"]
    assert found.status is Status.PASS, found.seen
    assert "rows of different lengths were not asked, the step takes no padding" in found.seen


class Unwritten(GPT):
    """One token may never be written."""

    def step(self, ids, cache, keep=None):
        outputs, cache = super().step(ids, cache, keep)
        return outputs.index_fill(-1, torch.tensor([0]), self.fill), cache


class UnwrittenFromZero(Unwritten):
    """Positions begin again at each step."""

    def start(self, cache):
        return 0


class UnwrittenByLength(Unwritten):
    """What it reads is larger in a longer text."""

    def embedded(self, ids, start=0):
        return super().embedded(ids, start) * ids.size(1)


FAULTY = (
    (UnwrittenFromZero, "kv.parity", "positions restart at 0"),
    (UnwrittenByLength, "prefix.length_invariance", "depend on the length of the input"),
)


@pytest.mark.parametrize("fill", [-1e9, torch.finfo(torch.float32).min, -torch.inf])
def test_a_large_constant_output_hides_no_fault(fill):
    Unwritten.fill = fill
    only = ["kv.parity", "causal", "batch"]
    assert {f.status for f in pl.doctor(Unwritten(), gpt_spec(), only=only)} == {Status.PASS}
    for faulty, check, cause in FAULTY:
        found = pl.doctor(faulty(), gpt_spec(), only=[check])[check]
        assert found.status is Status.FAIL
        assert cause in found.cause
        exec(found.repro("pass"), {"model": Unwritten(), "__name__": "repro"})
        with pytest.raises(AssertionError):
            exec(found.repro("pass"), {"model": faulty(), "__name__": "repro"})


@pytest.mark.parametrize("rest", [[], [-1e9]])
def test_the_measure_of_a_gap_is_the_largest_output_that_varies(rest):
    expected = torch.tensor([[[1.0, *rest], [2.0, *rest], [4.0, *rest]]])
    found = expected.clone()
    found[0, 1, 0] += 1
    assert (gap(found, expected).share, gap(found, expected).position) == (0.25, 1)
    assert gap(expected[:, :1] + 1, expected[:, :1]).share > 0  # all constant: then that is the measure


def test_a_constant_output_is_measured_by_its_own_size():
    expected = torch.tensor([[[1.0, -1e4], [4.0, -1e4]]])
    found = torch.stack([expected[..., 0], expected[..., 1].nextafter(torch.zeros(()))], -1)
    assert 0 < gap(found, expected).share < 1e-6
    assert gap(expected * 0, expected).share == 1


# ---- scales ----------------------------------------------------------------------------------------


class Unit(QKNormed):
    """Norms set how far scores spread, and a learned gain of theirs is their scale: Gemma 4."""

    def scores(self, q, k):
        return q @ k.transpose(-2, -1)


@pytest.mark.parametrize("trained", [False, True])
def test_without_a_scale_normed_queries_and_keys_may_be_right(trained):
    model = GPT(Unit, learned=False)
    for name, parameter in model.named_parameters():
        if trained and "norm_" in name:
            nn.init.uniform_(parameter, 0.5, 2.0)
    found = pl.doctor(model, gpt_spec(), only=["attn.scale"])["attn.scale"]
    assert found.status is Status.WARN
    assert "no scale at all, of queries and keys that are normed" in found.seen
    assert pl.doctor(GPT(Unscaled), gpt_spec(), only=["attn.scale"])["attn.scale"].status is Status.FAIL


@pytest.mark.parametrize("setting", [{"scale_attn_by_inverse_layer_idx": True}, {"scale_attn_weights": False}])
def test_scales_that_a_config_says_are_meant(setting):
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(bos_token_id=1, eos_token_id=2, **GPT2, **setting)
    found = pl.doctor(transformers.GPT2LMHeadModel(config), only=["attn.scale"])["attn.scale"]
    assert found.status is Status.PASS, found.seen


# ---- heads beside the outputs ----------------------------------------------------------------------


class Valued(models.Body):
    """Logits and a value for each token, as in training by reward; perhaps a part that is never called, and a cache."""

    def __init__(self, idle=False, cached=False):
        super().__init__()
        self.value, self.cached = nn.Linear(models.WIDTH, 1), cached
        self.idle = nn.Linear(models.WIDTH, models.WIDTH) if idle else None

    def forward(self, ids):
        logits = self.logits(ids)
        x = self.tok(ids)
        if self.cached:
            return logits, self.value(x).squeeze(-1), [self.idle(x)]
        return logits, self.value(x).squeeze(-1)


def test_a_second_head_takes_part():
    report = pl.doctor(Valued(), only=["params"])
    assert told(report) == []
    assert report["params.coverage"].status is Status.PASS
    assert pl.doctor(gpt2("GPT2DoubleHeadsModel"), only=["params.coverage"]).healthy


@pytest.mark.parametrize("cached", [False, True])
def test_what_is_beside_no_head_does_not(cached):
    report = pl.doctor(Valued(idle=True, cached=cached), only=["params.coverage"])
    assert "idle.weight" in report["params.coverage"].seen
    assert report["params.coverage"].status is Status.FAIL


def test_of_a_call_that_goes_past_the_model_the_rest_is_not_known():
    spec = pl.Spec(kind="decoder", vocab_size=models.VOCAB, call=lambda model, batch: model.logits(batch.ids))
    report = pl.doctor(Valued(), spec, only=["params.coverage"])
    assert report["params.coverage"].status is Status.WARN


# ---- tables and what is shared ---------------------------------------------------------------------


class Fairseq(models.Body):
    """Positions from 2, a row of zeros for the padding before them."""

    def __init__(self, paired=True):
        super().__init__()
        half = models.WIDTH // 2
        angles = torch.arange(66.0)[:, None] / 10000.0 ** (torch.arange(half) / (half - 1))
        table = torch.cat([angles.sin(), (angles if paired else 0.7 * angles).cos()], dim=1)
        table[1] = 0
        del self.pos
        self.register_buffer("table", table)

    def forward(self, ids):
        x = self.tok(ids) + self.table[2 : 2 + ids.size(1)]
        for layer in self.layers:
            x = layer(x, None)
        return self.head(self.norm(x))


def test_a_table_with_a_row_of_zeros_for_the_padding_is_right():
    spec = pl.Spec(kind="decoder", max_length=64)
    assert pl.doctor(Fairseq(), spec, only=["pos.sinusoid"])["pos.sinusoid"].status is Status.PASS
    assert pl.doctor(Fairseq(paired=False), spec, only=["pos.sinusoid"])["pos.sinusoid"].status is Status.FAIL


class Scaled(nn.Module):
    """What one module gives to all layers: constants that are no buffer, or weights."""

    def __init__(self, trained):
        super().__init__()
        self.freqs = nn.Parameter(1 / 10000 ** (torch.arange(models.WIDTH) / models.WIDTH), requires_grad=trained)

    def forward(self, x):
        return x * (1 + torch.arange(x.size(1))[:, None] * self.freqs).cos()


class Sharing(models.Body):
    def __init__(self, trained):
        super().__init__()
        one = Scaled(trained)
        for layer in self.layers:
            layer.turn = one

    def forward(self, ids):
        x = self.tok(ids)
        for layer in self.layers:
            x = layer(layer.turn(x), None)
        return self.head(self.norm(x))


@pytest.mark.parametrize("trained", [False, True])
def test_constants_may_be_those_of_all_layers(trained):
    found = pl.doctor(Sharing(trained), only=["params.sharing"])["params.sharing"]
    assert found.status is (Status.FAIL if trained else Status.PASS), found.seen


# ---- batches ---------------------------------------------------------------------------------------


def of_batch(spec, **given):
    return {(f.check, f.status) for f in pl.doctor.batch(pl.doctor.Batch(ids=IDS, **given), spec)}


HEALTHY, ASKED = {("data.labels", Status.PASS)}, ("data.padding_asked", Status.FAIL)
WORDS = torch.randint(0, 2, IDS.shape, generator=torch.Generator().manual_seed(1)).masked_fill(~KEEP, -100)


@pytest.mark.parametrize("labels", [torch.tensor([0, 1, 1, 0]), torch.rand(4, 1) - 1, WORDS])
@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_classes_are_no_tokens(kind, labels):
    assert of_batch(pl.Spec(kind=kind, vocab_size=60, pad_id=0), keep=KEEP, labels=labels) == HEALTHY


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_copies_of_the_ids_are(kind):
    spec = pl.Spec(kind=kind, vocab_size=60, pad_id=0)
    assert ASKED in of_batch(spec, keep=KEEP, labels=IDS)
    assert ASKED in of_batch(pl.Spec(kind=kind, vocab_size=60, pad_id=0, labels="same"), labels=WORDS, keep=KEEP)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.uint8])
def test_masks_of_a_tokenizer_are_masks(dtype):
    labels = IDS.masked_fill(~KEEP, -100)
    spec = pl.Spec(kind="decoder", vocab_size=60, pad_id=0)
    assert of_batch(spec, keep=KEEP.to(dtype), labels=labels) == HEALTHY
    assert pl.doctor.Batch(ids=IDS, source=IDS, source_keep=KEEP.to(dtype)).source_keep.dtype == torch.bool


def test_masks_that_are_added_are_not():
    with pytest.raises(UserError, match="keep: found numbers from -10000 to 0; expected True or 1 where"):
        pl.doctor.Batch(ids=IDS, keep=(KEEP.float() - 1) * 10000)


# ---- rates -----------------------------------------------------------------------------------------


def scheduled(base, rule):
    model = models.Plain()
    optimizer = torch.optim.AdamW(model.parameters(), base)
    torch.optim.lr_scheduler.LambdaLR(optimizer, rule)
    return pl.doctor(model, pl.Spec(optimizer=optimizer), only=["schedule"])["schedule.warmup"]


def test_a_warmup_that_is_attached_begins_where_it_begins():
    found = scheduled(1e-3, lambda step: min(1, step / 100))
    assert found.status is Status.PASS
    assert "0.001" in found.seen
    assert "Spec(schedule=…)" in found.seen


def test_what_a_scheduler_makes_of_a_rate_is_not_known():
    assert scheduled(1.0, lambda step: 1e-3 * min(1, (step + 1) / 100)).status is Status.INCONCLUSIVE
    assert scheduled(0.1, lambda step: 1).status is Status.FAIL
    assert scheduled(0.0, lambda step: 1).status is Status.FAIL


# ---- classifiers that hide the future --------------------------------------------------------------


@pytest.mark.parametrize("name", ["GPT2ForSequenceClassification", "GPT2ForTokenClassification"])
def test_a_causal_classifier_is_healthy(name):
    report = pl.doctor(gpt2(name), level="quick")
    assert told(report) == []
    assert report["attn.mask"].status is Status.PASS
    assert any(note.startswith("kind: decoder, as all of its attention is causal") for note in report.inferred)


def test_so_is_a_model_of_rewards():
    transformers = pytest.importorskip("transformers")
    model = transformers.LlamaForSequenceClassification(transformers.LlamaConfig(num_labels=1, **LLAMA))
    assert told(pl.doctor(model, level="quick")) == []


class TextClassifier(models.Body):
    def forward(self, ids):
        return self.logits(ids)[..., 0]


class TextEncoder(models.Body):
    def forward(self, ids):
        return self.logits(ids)


def test_where_the_kind_is_told_or_named_a_causal_mask_is_a_fault():
    only = ["attn.mask"]
    assert pl.doctor(TextClassifier(), only=only).healthy
    assert not pl.doctor(TextClassifier(), pl.Spec(kind="encoder"), only=only).healthy
    assert not pl.doctor(TextEncoder(), only=only).healthy


# ---- half precision --------------------------------------------------------------------------------


class Insisting(models.Body):
    def forward(self, ids):
        assert self.tok.weight.dtype == torch.bfloat16, "weights must be in bfloat16"
        return self.logits(ids)


def test_a_model_of_one_precision_is_told_so():
    model = Insisting().to(torch.bfloat16)
    with pytest.raises(UserError, match="runs in bfloat16, and not in float32, in which it is examined") as raised:
        pl.doctor(model)
    assert "weights must be in bfloat16" in str(raised.value)
    assert "Spec(" not in str(raised.value)
    with pytest.raises(UserError, match="does not run on ids"):
        pl.doctor(Insisting())
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("cast", [torch.bfloat16, torch.float32])
def test_what_a_callable_rounds_in_half_precision_is_no_fault(cast):
    model = models.Plain().to(torch.bfloat16).eval()
    with torch.no_grad():
        report = pl.doctor(lambda ids: model.logits(ids).to(cast), SPEC, only=["prefix"])
    assert report["prefix.length_invariance"].status is Status.INCONCLUSIVE


def test_what_is_beyond_rounding_is():
    model = models.Plain().to(torch.bfloat16).eval()
    with torch.no_grad():
        report = pl.doctor(lambda ids: model.logits(ids) * (1 + ids.size(1) / 50), SPEC, only=["prefix"])
    assert report["prefix.length_invariance"].status is Status.FAIL


SPEC = pl.Spec(kind="decoder", vocab_size=models.VOCAB, max_length=models.LONGEST)
