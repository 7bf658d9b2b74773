"""How a model is called, and what it is meant to be, is found out; where it cannot be, the error says what to write."""

from types import SimpleNamespace

import callable_models as models
import pytest
import torch
from torch import nn
from zoo.arithmetic import OverBatch
from zoo.base import BERT, GPT

import pellucid as pl
from pellucid.doctor.differences import mismatch
from pellucid.doctor.finding import Status
from pellucid.doctor.infer import subject_of
from pellucid.doctor.recomputing import differs
from pellucid.doctor.spec import Batch, Spec
from pellucid.doctor.subject import Subject
from pellucid.doctor.ways.plain import outputs_of
from pellucid.errors import UserError

DECODERS = ["Plain", "LastOnly", "LossFirst", "Required", "ByName", "Attribute", "Anything", "IdsSecond", "KeepMask",
            "DropMask", "WideMask", "NumberMask"]  # fmt: skip


def found(model, spec=None):
    with torch.no_grad():
        return subject_of(model, spec)


@pytest.mark.parametrize("name", DECODERS)
def test_all_ways_to_call_a_decoder_give_its_outputs(name):
    model = getattr(models, name)().eval()
    subject, notes = found(model)
    batch = subject.batch()
    assert subject.spec.kind == "decoder"
    assert (subject.spec.vocab_size, subject.spec.max_length) == (models.VOCAB, models.LONGEST)
    assert torch.equal(subject(batch), model.logits(batch.ids).detach())
    assert any(note.startswith("kind: decoder") for note in notes)


@pytest.mark.parametrize("name", ["ByName", "KeepMask", "DropMask", "WideMask", "NumberMask"])
def test_masks_mean_what_they_mean_to_the_model(name):
    model = getattr(models, name)().eval()
    subject, _ = found(model)
    batch = subject.batch()
    keep = torch.ones_like(batch.ids, dtype=torch.bool)
    keep[1, :5] = False
    assert subject.spec.masked
    assert torch.equal(subject(batch.with_(keep=keep)), model.logits(batch.ids, keep).detach())


def test_a_batch_of_the_data_goes_where_the_model_is(monkeypatch):
    batch = Batch(ids=torch.zeros(2, 5, dtype=torch.long), keep=torch.ones(2, 5, dtype=torch.bool))
    moved, asked = batch.to(torch.device("meta")), []
    assert moved.ids.is_meta
    assert moved.keep.is_meta
    assert moved.labels is None
    monkeypatch.setattr(Batch, "to", lambda self, device: asked.append(device) or moved)
    assert found(models.Plain(), Spec(batch=batch))[0].spec.batch is moved
    assert asked == [torch.device("cpu")]


def test_a_model_without_a_mask_argument_is_not_masked():
    assert found(models.Plain())[0].spec.masked is False


def test_tables_that_are_parameters():
    subject, _ = found(models.Bare())
    assert (subject.spec.vocab_size, subject.spec.max_length, subject.length) == (models.VOCAB, 20, 20)


def test_a_length_that_nothing_tells_is_tried():
    class Short(models.Plain):
        def __init__(self):
            super().__init__(longest=13)
            self.place = self.pos  # under a name that says nothing
            del self.pos

        def forward(self, ids):
            x = self.tok(ids) + self.place(torch.arange(ids.size(1)))
            return self.head(self.norm(self.layers[0](x)))

    subject, notes = found(Short())
    assert subject.spec.max_length == 12
    assert "max_length: 12, by trying" in notes


def test_kind_by_what_it_does_and_by_what_is_said():
    assert found(models.Reader())[0].spec.kind == "encoder"
    assert found(models.Pooled())[0].spec.kind == "encoder"
    assert found(models.Plain(), Spec(kind="encoder"))[0].spec.kind == "encoder"
    subject, notes = found(models.Separate())
    assert subject.spec.kind == "encoder"
    assert any("cannot be told" in note and "Spec(kind=" in note for note in notes)


def test_a_name_that_says_two_things_says_nothing():
    Both = type("CausalEncoderLM", (models.Plain,), {})
    assert found(Both())[0].spec.kind == "decoder"


@pytest.mark.parametrize("name", ["MaskedLanguageModel", "MaskedLM", "TinyMLM"])
def test_a_masked_language_model_is_what_it_does(name):
    assert found(type(name, (models.Reader,), {})())[0].spec.kind == "encoder"


def test_outputs_and_not_the_maps_of_attention_behind_them():
    label, maps, hidden = torch.zeros(2, 3), torch.zeros(2, 4, 8, 8), torch.zeros(2, 8, 5)
    assert outputs_of((label, maps)) is label
    assert outputs_of((label, torch.zeros(2, 8, 8))) is label
    assert outputs_of((label, hidden)) is hidden  # a text's label beside its tokens
    assert outputs_of((hidden, maps)) is hidden
    assert outputs_of((None, torch.zeros(()), hidden)) is hidden


def test_time_before_batch():
    model = models.TimeFirst().eval()
    subject, notes = found(model)
    batch = subject.batch()
    assert any("reads (T, B)" in note for note in notes)
    assert subject.spec.kind == "decoder"
    assert torch.allclose(subject(batch), model(batch.ids.T).transpose(0, 1), atol=1e-6)
    report = pl.doctor(model, level="quick")
    assert report.healthy, str(report)


@pytest.mark.parametrize("make", [lambda: GPT(OverBatch), lambda: BERT(OverBatch)])
def test_rows_that_attend_to_one_another_are_not_taken_for_positions(make):
    assert not any("(T, B)" in note for note in found(make(), Spec(kind="encoder", masked=False))[1])


def named(model, **names):
    for name, value in names.items():
        setattr(model, name, value)
    return model


@pytest.mark.parametrize(
    ("names", "pad"),
    [
        ({"tok": nn.Embedding(models.VOCAB, models.WIDTH, padding_idx=5)}, 5),
        ({"pos": nn.Embedding(models.LONGEST, models.WIDTH, padding_idx=1)}, None),
        ({"src_pad_idx": 0}, 0),
        ({"config": SimpleNamespace(pad_token_id=7)}, 7),
        ({"config": SimpleNamespace(pad_token_id=models.VOCAB)}, None),
        ({"config": SimpleNamespace(pad_token_id=None)}, None),
    ],
)
def test_padding_that_the_model_names(names, pad):
    subject, notes = found(named(models.Plain(), **names))
    assert subject.spec.pad_id == pad
    assert (f"pad_id: {pad}" in notes) == (pad is not None)
    assert pad is None or not bool((subject.batch().ids == pad).any())


class HidesOneToken(BERT):
    """Padding is told by its id, which nothing says."""

    hidden = 0

    def forward(self, ids):
        return self.head(self.encoded(ids, ids != self.hidden))


def test_the_token_at_which_no_query_looks_is_padding():
    torch.manual_seed(0)
    drawn = found(BERT(vocab=29), Spec(kind="encoder"))[0].batch().ids
    model = named(HidesOneToken(vocab=29), hidden=int(drawn[1, 4]))
    subject, notes = found(model, Spec(kind="encoder"))
    assert subject.spec.pad_id == model.hidden
    assert any(note.startswith(f"padding: token {model.hidden}, at which no query looks") for note in notes)
    report = pl.doctor(model, Spec(kind="encoder"), only=["attn.mask", "pad.invariance"])
    assert [finding.status for finding in report] == [Status.PASS, Status.PASS], str(report)


@pytest.mark.parametrize(("kind", "status"), [(HidesOneToken, Status.PASS), (BERT, Status.FAIL)])
def test_who_hides_padding_by_itself_needs_no_mask_with_the_data(kind, status):
    batch = Batch(ids=torch.tensor([[5, 6, 7, 8, 0, 0], [5, 9, 7, 8, 3, 4]]))
    report = pl.doctor(kind(vocab=29), Spec(kind="encoder", pad_id=0, batch=batch), only=["data.labels"])
    assert report["data.labels"].status is status


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel])
def test_what_compiles_a_model_or_spreads_it_is_looked_through(wrap):
    report = pl.doctor(wrap(models.LastOnly(causal=False)), Spec(kind="decoder"), only=["causal.prefix_invariance"])
    assert report.model == "LastOnly"
    assert report["causal.prefix_invariance"].status is Status.FAIL


@pytest.mark.parametrize(
    ("model", "spec"),
    [(models.Plain(), Spec()), (models.Plain(), Spec(vocab_size=9)), (models.Vectors(), Spec(features=7))],
)
def test_what_is_drawn_is_the_same_whatever_the_default_device(model, spec):
    subject, _ = found(model, spec)
    batch = subject.batch()
    with torch.device("meta"):
        again = Subject(model, subject.spec)
        ids = again.batch().ids
        other = again.other(ids, 4)
    assert torch.equal(ids, batch.ids)
    assert torch.equal(other, subject.other(batch.ids, 4))


def test_what_is_measured_with_random_weights_is_so_too():
    subject, _ = found(models.Plain())
    with torch.device("meta"):
        apart = mismatch(subject)
        assert differs(subject, subject.batch()) == ""
    assert apart is not None
    assert apart < 0.01


def test_vectors():
    subject, _ = found(models.Vectors(), Spec(features=7))
    assert subject.batch().ids.shape == (3, 24, 7)
    assert subject(subject.batch()).shape == (3, 24, models.WIDTH)


def test_vectors_in_the_precision_of_the_model():
    subject, _ = found(models.Vectors().double(), Spec(features=7))
    assert subject(subject.batch()).dtype == torch.float64


@pytest.mark.parametrize("name", ["SourceTarget", "TargetSource"])
def test_two_sequences(name):
    model = getattr(models, name)().eval()
    subject, _ = found(model)
    batch = subject.batch()
    assert subject.spec.kind == "encoder_decoder"
    assert subject.spec.vocab_size == models.VOCAB  # the smaller: its ids are in both
    assert torch.allclose(subject(batch), model.run(batch.source, batch.ids), atol=1e-6)


def test_a_mask_of_the_source_is_understood():
    model = models.SourceTarget().eval()
    subject, _ = found(model)
    batch = subject.batch()
    keep = torch.ones_like(batch.source, dtype=torch.bool)
    keep[0, -3:] = False
    assert subject.spec.masked
    expected = model.run(batch.source, batch.ids, keep)
    assert torch.allclose(subject(batch.with_(source_keep=keep)), expected, atol=1e-6)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("kind", ["Transformer", "TransformerEncoder", "TransformerDecoder"])
def test_pytorchs_own_stacks(kind, batch_first):
    torch.manual_seed(0)
    match kind:
        case "Transformer":
            model = nn.Transformer(32, 4, 1, 1, 64, batch_first=batch_first)
        case "TransformerEncoder":
            layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=batch_first)
            model = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        case _:
            model = nn.TransformerDecoder(nn.TransformerDecoderLayer(32, 4, 64, batch_first=batch_first), 1)
    subject, _ = found(model.eval())
    batch = subject.batch()
    output = subject(batch)
    assert output.shape == batch.ids.shape
    one = batch.rows(slice(1, 2))
    assert torch.allclose(subject(one), output[1:2], atol=1e-6)  # rows are rows
    if kind != "TransformerEncoder":
        ids = batch.ids.clone()
        ids[:, 9:] += 1
        assert torch.equal(subject(batch.with_(ids=ids))[:, :9], output[:, :9])


def test_a_function_from_ids_to_logits():
    model = models.Plain().eval()
    subject, _ = found(lambda ids: model.logits(ids), Spec(vocab_size=models.VOCAB))
    assert subject.spec.kind == "decoder"
    assert subject.module is None


def test_masks_that_must_be_given_are_asked_for_by_name():
    with pytest.raises(UserError) as error:
        found(models.Annotated())
    told = str(error.value)
    assert (
        'Spec(kind="encoder_decoder", call=lambda model, batch: model(batch.source, batch.ids, src_mask=…, tgt_mask=…))'
        in told
    )
    assert "batch.source_keep" in told


def test_what_it_says_to_write_works():
    def call(model, batch):
        keep = batch.source_keep if batch.source_keep is not None else torch.ones_like(batch.source, dtype=torch.bool)
        return model(batch.source, batch.ids, src_mask=keep[:, None], tgt_mask=None)

    subject, _ = found(models.Annotated().eval(), Spec(kind="encoder_decoder", call=call, masked=True))
    assert subject(subject.batch()).shape == (3, 24, models.VOCAB + 9)


@pytest.mark.parametrize(
    ("model", "spec", "words"),
    [
        (lambda ids: ids, Spec(), ("vocab_size", "Spec(vocab_size=")),
        (3, Spec(), ("found int", "a module, or a callable")),
        (models.LossAlone(), Spec(), ("one number, which may be its loss", "Spec(call=")),
        (models.Plain(), Spec(call=lambda model, batch: model(batch.ids, 1)), ("does not run on ids (3, 24)", "Spec(call=")),
        (lambda ids: None, Spec(vocab_size=9), ("without a tensor", "logits (B, T, V)")),
        (type("Two", (nn.Module,), {"forward": lambda self, first, second: first})(), Spec(vocab_size=9), ("second=…", "Say it: Spec(call=")),
    ],
)  # fmt: skip
def test_what_cannot_be_examined_says_what_to_write(model, spec, words):
    with pytest.raises(UserError) as error:
        found(model, spec)
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*DECODERS, "Bare", "Reader", "Pooled", "SourceTarget", "TargetSource"])
def test_none_of_them_is_said_to_be_ill(name):
    torch.manual_seed(0)
    report = pl.doctor(getattr(models, name)())
    wrong = {f.check: f.seen for f in report.of(Status.FAIL, Status.INCONCLUSIVE)}
    assert not wrong, f"{wrong}\n{report}"


def test_what_is_said_wins():
    call = lambda model, batch: model.logits(batch.ids) * 2  # noqa: E731
    model = models.Plain().eval()
    subject, _ = found(model, Spec(vocab_size=40, max_length=9, call=call))
    batch = subject.batch()
    assert batch.ids.shape == (3, 9)
    assert int(batch.ids.max()) < 40
    assert torch.equal(subject(batch), 2 * model.logits(batch.ids).detach())


def test_inputs_like_an_example():
    class Seen(nn.Module):
        def __init__(self):
            super().__init__()
            self.cut, self.layer = nn.Conv2d(3, models.WIDTH, 8, 8), models.Layer(causal=False)

        def forward(self, images):
            return self.layer(self.cut(images).flatten(2).mT).mean(1)

    subject, _ = found(Seen(), Spec(kind="encoder", example=Batch(ids=torch.zeros(1, 3, 16, 16))))
    assert subject.batch(2).ids.shape == (2, 3, 16, 16)
    assert not subject.per_position
