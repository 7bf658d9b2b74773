"""How a model is called, and what it is meant to be, is found out; where it cannot be, the error says what to write."""

import callable_models as models
import pytest
import torch
from torch import nn

import pellucid as pl
from pellucid.doctor.finding import Status
from pellucid.doctor.infer import subject_of
from pellucid.doctor.spec import Batch, Spec
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
