"""What looks like a fault and is none: aliases, scores of -inf, rates of tables, noise, losses that are scaled."""

import callable_models as models
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from zoo.base import BERT, GPT, next_token_loss

import pellucid as pl
from pellucid.doctor.finding import Status

DECODER = pl.Spec(kind="decoder")


@pytest.fixture(autouse=True)
def same_numbers():
    torch.manual_seed(0)


def asked(model, check, spec=DECODER, **more):
    return pl.doctor(model, spec, only=[check], **more)[check]


# ---- one module under several names ------------------------------------------------------------


class Wrapped(nn.Module):
    """Its layers are known by a second name; ``times``: each of them is in the list so often."""

    def __init__(self, times=1):
        super().__init__()
        self.net = GPT()
        self.net.blocks = nn.ModuleList(block for block in self.net.blocks for _ in range(times))
        self.blocks = self.net.blocks
        self.first = self.net.blocks[0].attention

    def forward(self, ids):
        return self.net(ids)


class Attending(nn.Module):
    """Layers of PyTorch, which reads the weights of a part without calling it."""

    def __init__(self, several):
        super().__init__()
        self.tok, self.head = nn.Embedding(61, 32), nn.Linear(32, 61)
        made = [nn.MultiheadAttention(32, 4, batch_first=True) for _ in range(2)]
        self.layers = nn.ModuleList([made[0]] * 2 if several else made)
        self.last = self.layers[-1]

    def forward(self, ids):
        x, hidden = self.tok(ids), torch.ones(ids.size(1), ids.size(1), dtype=torch.bool).triu(1)
        for layer in self.layers:
            x = x + layer(x, x, x, attn_mask=hidden)[0]
        return self.head(x)


@pytest.mark.parametrize("model", [Wrapped, lambda: Attending(False)])
def test_a_second_name_of_a_module_is_no_second_layer(model):
    finding = asked(model(), "params.sharing")
    assert finding.status is Status.PASS, finding.seen


@pytest.mark.parametrize("model", [lambda: Wrapped(2), lambda: Attending(True)])
def test_a_layer_that_is_called_several_times_is_one_under_any_names(model):
    finding = asked(model(), "params.sharing")
    assert finding.status is Status.FAIL
    assert "are one parameter" in finding.seen


# ---- scores of -inf ----------------------------------------------------------------------------


class Forbidden(BERT):
    """Never gives the first token."""

    def forward(self, ids, attention_mask=None):
        out = super().forward(ids, attention_mask).clone()
        out[..., 0] = -torch.inf
        return out


class Empty(Forbidden):
    """Gives nothing where padding was."""

    def forward(self, ids, attention_mask=None):
        out = super().forward(ids, attention_mask)
        return out if attention_mask is None else out / attention_mask.float().amin(1)[:, None, None]


def test_infinity_that_is_there_without_padding_is_not_of_padding():
    finding = asked(Forbidden(), "pad.invariance", pl.Spec(kind="encoder"))
    assert finding.status is not Status.FAIL
    assert "infinity" not in finding.seen
    finding = asked(Empty(), "pad.invariance", pl.Spec(kind="encoder"))
    assert finding.status is Status.FAIL
    assert "makes NaN or infinity in outputs of real tokens" in finding.seen


def test_such_scores_are_measured_in_double_precision():
    from pellucid.doctor.infer import subject_of

    with torch.no_grad():
        subject, _ = subject_of(Forbidden(), pl.Spec(kind="encoder"))
        assert subject.in_double(lambda: subject(subject.batch()).dtype) is torch.float64


# ---- rates -------------------------------------------------------------------------------------


def grouped(model, rate):
    """AdamW with a rate for the table of tokens and 4e-3 for all else, as nanochat has."""
    rest = [p for p in model.parameters() if p is not model.tokens.weight]
    return torch.optim.AdamW([{"params": [model.tokens.weight], "lr": rate}, {"params": rest, "lr": 4e-3}])


def test_a_high_rate_of_tables_alone_is_a_warning():
    model = GPT()
    finding = asked(model, "schedule.warmup", pl.Spec(kind="decoder", optimizer=grouped(model, 0.2)))
    assert finding.status is Status.WARN
    assert "0.2" in finding.seen
    assert "tables" in finding.seen
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.2)
    finding = asked(model, "schedule.warmup", pl.Spec(kind="decoder", optimizer=optimizer))
    assert finding.status is Status.FAIL


def test_a_prompt_alone_is_no_layer():
    model = GPT()
    model.prompt = nn.Parameter(torch.zeros(4, 32))
    optimizer = torch.optim.Adam([model.prompt], lr=0.3)
    finding = asked(model, "schedule.warmup", pl.Spec(kind="decoder", optimizer=optimizer))
    assert finding.status is Status.WARN


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedder = GPT()

    def forward(self, ids):
        return self.embedder(ids)


def test_layers_of_what_is_named_like_a_table_are_layers():
    model = Named()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.3)
    assert asked(model, "schedule.warmup", pl.Spec(kind="decoder", optimizer=optimizer)).status is Status.FAIL


@pytest.mark.parametrize(
    ("layers", "tables", "status"),
    [
        (0.0, 1e-3, Status.PASS),
        (0.0, 0.3, Status.WARN),
        (0.0, 0.0, Status.FAIL),
        (1e-3, float("nan"), Status.FAIL),
        (float("nan"), 1e-3, Status.FAIL),
    ],
)
def test_layers_may_be_frozen_while_a_table_is_trained(layers, tables, status):
    model = GPT()
    groups = ((model.blocks.parameters(), layers), ([model.tokens.weight], tables))
    optimizer = torch.optim.AdamW([{"params": list(own), "lr": rate} for own, rate in groups])
    finding = asked(model, "schedule.warmup", pl.Spec(kind="decoder", optimizer=optimizer))
    assert finding.status is status, finding.seen
    assert status is not Status.FAIL or shows(finding, model, optimizer)


def shows(finding, model, optimizer):
    """Whether the script of a finding finds it in an optimizer."""
    script = finding.script.replace("optimizer = ...", "")
    try:
        exec(script, {"torch": torch, "model": model, "optimizer": optimizer})
    except AssertionError:
        return True
    return False


def test_a_script_blames_no_table_either():
    model = GPT()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.2)
    finding = asked(model, "schedule.warmup", pl.Spec(kind="decoder", optimizer=optimizer))
    assert shows(finding, model, optimizer)
    assert not shows(finding, model, grouped(model, 0.2))


@pytest.mark.parametrize("tables", [True, False])
def test_a_training_is_not_blamed_for_the_rate_of_its_tables(tables):
    model = GPT()
    optimizer = grouped(model, 0.2) if tables else torch.optim.AdamW(model.parameters(), lr=0.2)
    watched = pl.doctor.watch(model, optimizer)
    ids = torch.randint(61, (4, 12))
    loss = next_token_loss(model(ids), ids)
    loss.backward()
    optimizer.step()
    found = {finding.check for finding in watched.step(loss.detach()).findings if finding.status is Status.FAIL}
    assert ("schedule.warmup" in found) is not tables


# ---- noise -------------------------------------------------------------------------------------


class InAnotherOrder(models.Plain):
    """Its last bits, and those of its copies, differ from pass to pass, as where kernels add in no fixed order."""

    passes = 1

    def __init__(self, tied=False):
        super().__init__()
        if tied:
            self.head.weight = self.tok.weight

    def forward(self, ids):
        InAnotherOrder.passes += 1
        factor = 1 + InAnotherOrder.passes**0.5
        return self.logits(ids) * factor / factor


@pytest.mark.parametrize("tied", [None, False, True])
def test_noise_is_not_lost_in_saving_nor_a_tie(tied):
    for passes in range(1, 7):  # some of which change no bit
        InAnotherOrder.passes = passes
        finding = asked(InAnotherOrder(bool(tied)), "params.sharing", pl.Spec(kind="decoder", tied=tied))
        assert finding.status is Status.PASS, finding.seen


# ---- encoders ----------------------------------------------------------------------------------


class Core(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.encoder = nn.TransformerEncoder(layer(), 2, enable_nested_tensor=False)
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(32, 4, 64), 2)


ROUNDING = 1e-7


class Translating(nn.Module):
    """Time first inside, its encoder under a path that speaks of the decoder as well."""

    def __init__(self, leaks=0.0, reads=True):
        super().__init__()
        self.tok, self.pos = nn.Embedding(61, 32), nn.Embedding(64, 32)
        self.encoder_decoder = Core(lambda: nn.TransformerEncoderLayer(32, 4, 64))
        self.head, self.leaks, self.reads = nn.Linear(32, 61), leaks, reads

    def forward(self, src, tgt):
        x, y = ((self.tok(ids) + self.pos(torch.arange(ids.size(1)))).transpose(0, 1) for ids in (src, tgt))
        if not self.reads:
            x = self.pos(torch.arange(src.size(1)))[:, None].expand_as(x)
        memory = self.encoder_decoder.encoder(x + self.leaks * y.mean(0))
        hidden = nn.Transformer.generate_square_subsequent_mask(len(y))
        return self.head(self.encoder_decoder.decoder(y, memory, hidden).transpose(0, 1))


@pytest.mark.parametrize(("leaks", "status"), [(0.0, Status.PASS), (ROUNDING, Status.PASS), (1.0, Status.FAIL)])
def test_an_encoder_is_looked_at_however_its_axes_lie_and_wherever_it_stands(leaks, status):
    finding = asked(Translating(leaks), "cross.encoder_alone", pl.Spec(kind="encoder_decoder", vocab_size=61))
    assert finding.status is status, finding.seen
    assert "bits" not in finding.seen
    if status is Status.FAIL:
        assert "encoder_decoder.encoder" in finding.where
        exec(finding.repro("pass"), {"model": Translating(ROUNDING)})
        with pytest.raises(AssertionError, match="depends on the target"):
            exec(finding.repro("pass"), {"model": Translating(leaks)})


class Hidden(Translating):
    """Encodes by a function, so that no module of it is seen."""

    def forward(self, src, tgt):
        y = self.tok(tgt) + self.pos(torch.arange(tgt.size(1)))
        return self.head(y + F.embedding(src, self.tok.weight).mean(1, keepdim=True))


def test_an_encoder_that_is_not_seen_is_not_said_to_be_alone():
    finding = asked(Hidden(), "cross.encoder_alone", pl.Spec(kind="encoder_decoder", vocab_size=61))
    assert finding.status is Status.INCONCLUSIVE
    assert "nothing that was looked at depends on the source" in finding.seen


# ---- losses ------------------------------------------------------------------------------------


def over_all(outputs, batch):
    """A sum over what is asked, divided by all tokens."""
    lost = F.cross_entropy(outputs[:, :-1].flatten(0, 1), batch.ids[:, 1:].flatten(), reduction="sum")
    return lost / batch.ids.numel()


def penalised(outputs, batch):
    """A mean, and a z-loss."""
    lost = F.cross_entropy(outputs[:, :-1].flatten(0, 1), batch.ids[:, 1:].flatten())
    return lost + 4e-3 * outputs.logsumexp(-1).square().mean()


@pytest.mark.slow
@pytest.mark.parametrize("criterion", [over_all, penalised])
def test_a_loss_that_is_scaled_has_a_floor_that_is_and_a_penalty_lifts_none(criterion):
    finding = asked(models.Plain(), "loss.random_floor", pl.Spec(kind="decoder", criterion=criterion), level="full")
    assert finding.status is Status.PASS, finding.seen
