"""Rules of writing: each against what it says, row by row in plain Python, and all of them together."""

import math
import random

import pytest
import torch
from families import VOCAB, small

from pellucid.errors import UserError
from pellucid.inference.decode import Prompt, generate
from pellucid.inference.rules import (
    BadWords,
    ForcedPrefix,
    FrequencyPenalty,
    LogitBias,
    MinLength,
    NoRepeat,
    PerPrompt,
    PresencePenalty,
    RepetitionPenalty,
    SoftPrefix,
    Written,
    apply,
    apply_each,
)
from pellucid.inference.sampling import Filtered, Never, Sampling, Temperature, TopK, TopP, Typical
from pellucid.trace import trace
from pellucid.trace.working import Operand

V = 5
INF = math.inf


def repetition(y, token, text, whole):
    return (y / 1.5 if y > 0 else y * 1.5) if token in text else y


def repetition_whole(y, token, text, whole):
    return repetition(y, token, whole, whole)


def no_repeat(n, use_whole):
    def rule(y, token, text, whole):
        before = whole if use_whole else text
        grams = {tuple(before[i : i + n]) for i in range(len(before) - n + 1)}
        return -INF if len(before) >= n - 1 and tuple([*before, token][-n:]) in grams else y

    return rule


def bad(y, token, text, whole):
    after = [*whole, token]
    return -INF if after[-1:] == [4] or after[-2:] == [1, 2] or after[-3:] == [2, 2, 3] else y


RULES = [
    (LogitBias(((1, 2.0), (3, -1.5), (1, 0.5))), lambda y, t, text, whole: y + {1: 2.5, 3: -1.5}.get(t, 0.0)),
    (RepetitionPenalty(1.5), repetition),
    (RepetitionPenalty(1.5, whole=True), repetition_whole),
    (PresencePenalty(0.7), lambda y, t, text, whole: y - 0.7 * (t in text)),
    (FrequencyPenalty(0.7), lambda y, t, text, whole: y - 0.7 * text.count(t)),
    *((NoRepeat(n, whole), no_repeat(n, whole)) for n in (1, 2, 3) for whole in (False, True)),
    (BadWords(((4,), (1, 2), (2, 2, 3))), bad),
    (MinLength(3, (0, 4)), lambda y, t, text, whole: -INF if t in (0, 4) and len(text) < 3 else y),
    (ForcedPrefix((2, 1)), lambda y, t, text, whole: y if len(text) >= 2 or t == (2, 1)[len(text)] else -INF),
]


def rows(count=40, seed=0):
    """Texts of all lengths from a vocabulary so small that everything comes twice."""
    draw = random.Random(seed)
    prompts = [[draw.randrange(V) for _ in range(draw.randrange(4))] for _ in range(count)]
    texts = [[draw.randrange(V) for _ in range(draw.randrange(8))] for _ in range(count)]
    return prompts, texts


def written_of(prompts, texts):
    whole = Written.of([[*p, *t] for p, t in zip(prompts, texts, strict=True)])
    return Written(whole.tokens, torch.tensor([len(t) for t in texts]), whole.prompts)


@pytest.mark.parametrize(("rule", "says"), RULES, ids=[str(rule) for rule, _ in RULES])
def test_every_rule_is_what_it_says_in_plain_python(rule, says):
    prompts, texts = rows()
    scores = torch.randn(len(texts), V)
    got = rule(scores, written_of(prompts, texts))
    for row, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        for token in range(V):
            expected = says(scores[row, token].item(), token, text, [*prompt, *text])
            assert got[row, token].item() == pytest.approx(expected, rel=1e-6, abs=1e-6), (prompt, text, token)


@pytest.mark.parametrize("rule", [rule for rule, _ in RULES], ids=str)
def test_every_rule_as_a_line(rule):
    prompts, texts = rows(12, seed=1)
    scores, written = torch.randn(len(texts), V), written_of(prompts, texts)
    got = rule(scores, written)
    for row in range(len(texts)):
        for token in range(V):
            said = Filtered(rule).explain((row, token), Operand("scores", scores), Operand("written", written))
            names = {"torch": torch, "y": scores[row, token].item()}
            exec(said.steps[-1].code, names)
            assert names["y"] == pytest.approx(got[row, token].item(), rel=1e-6, abs=1e-6)
            assert said.value == got[row, token].item()


def test_a_soft_prefix_mixes_until_the_text_departs():
    scores = torch.randn(4, V)
    written = written_of([[1]] * 4, [[], [2], [3], [2, 1, 4]])
    got = SoftPrefix((2, 1, 4), 0.3)(scores, written)
    p = scores.softmax(-1) * 0.7
    p[0, 2] += 0.3
    p[1, 1] += 0.3
    torch.testing.assert_close(got[:2].exp(), p[:2])
    assert torch.equal(got[2:], scores[2:])  # one departed, one came to the end of it
    barred = Never((2,))(scores)
    assert SoftPrefix((2,), 0.9)(barred, written)[0, 2] == -INF
    assert torch.equal(SoftPrefix((), 0.5)(scores, written), scores)


def test_texts_grow_side_by_side():
    keep = torch.tensor([[1, 1, 0], [0, 1, 1], [1, 1, 1]]).bool()
    written = Written.after(torch.tensor([[5, 6, 0], [0, 7, 8], [1, 2, 3]]), keep)
    assert written.lists(whole=True) == [[5, 6], [7, 8], [1, 2, 3]]
    assert written.lists() == [[], [], []]
    written = written.add(torch.tensor([9, 4, 9])).select(torch.tensor([2, 0, 0])).add(torch.tensor([1, 2, 3]))
    assert written.lists() == [[9, 1], [9, 2], [9, 3]]
    assert written.prompts.tolist() == [2, 0, 0]


def test_each_row_its_own_rules():
    prompts, texts = rows(30)
    scores, written = torch.randn(30, V), written_of(prompts, texts)
    some = [(), (NoRepeat(2), Temperature(0.5)), (BadWords(((1,),)), TopK(2)), (PresencePenalty(1.0),)]
    own = [some[row % 4] for row in range(30)]
    got = apply_each(own, scores, written)
    for row in range(30):
        alone = written.select(torch.tensor([row]))
        assert torch.equal(got[row : row + 1], apply(own[row], scores[row : row + 1], alone))
    assert torch.equal(PerPrompt(tuple(own))(scores, written), got)
    assert torch.equal(apply_each([some[1]] * 30, scores, written), apply(some[1], scores, written))


def test_typical_against_a_loop():
    scores = torch.randn(50, 12) * 2
    scores[0, 3] = -INF
    for p in (0.05, 0.5, 0.9, 1.0):
        got = Typical(p)(scores)
        for row in range(50):
            q = scores[row].softmax(0)
            entropy = -sum(x * math.log(x) for x in q.tolist() if x)
            order = sorted(range(12), key=lambda t: abs(-math.log(q[t].clamp(min=1e-38)) - entropy))
            kept, mass = set(), 0.0
            for token in order:
                if mass >= p - 1e-6:
                    break
                kept.add(token)
                mass += q[token].item()
            assert set(got[row].isfinite().nonzero().flatten().tolist()) == kept - ({3} if row == 0 else set())


def test_typical_as_a_line():
    scores = torch.randn(3, 12) * 2
    for p in (0.3, 0.9):
        got = Typical(p)(scores)
        for token in range(12):
            said = Filtered(Typical(p)).explain((1, token), Operand("scores", scores))
            names = {"torch": torch, "x": scores[1].double(), "y": scores[1, token].item()}
            exec(said.steps[-1].code, names)
            assert names["y"] == pytest.approx(got[1, token].item(), rel=1e-6)


def test_order_matters_as_it_is_given():
    scores, written = torch.tensor([[2.0, 1.0, 0.0]]), written_of([[]], [[0]])
    first = apply((PresencePenalty(3.0), TopK(1)), scores, written)
    last = apply((TopK(1), PresencePenalty(3.0)), scores, written)
    assert first.argmax() == 1
    assert last.argmax() == 0


@pytest.mark.parametrize("family", ["decoder", "encoder_decoder"])
def test_rules_in_writing_against_a_loop(family):
    model, tokens = small(family), torch.randint(2, VOCAB, (3, 4))
    source = torch.randint(2, VOCAB, (3, 6)) if family != "decoder" else None
    rules = (
        LogitBias(((5, 1.0),)), RepetitionPenalty(1.3), FrequencyPenalty(0.4), NoRepeat(1), BadWords(((7, 8), (9,))),
        Never((3,)), ForcedPrefix((11, 12)), Temperature(0.8), TopP(0.9),
    )  # fmt: skip
    written = generate(model, Prompt(tokens, source=source), max_new_tokens=9, sampling=Sampling(rules))
    for row in range(3):
        text = tokens[row].tolist()
        for _ in range(9):
            ids = torch.tensor([text])
            with torch.no_grad():
                scores = (model(ids) if source is None else model(source[row : row + 1], ids))[:, -1]
            now = Written(ids, torch.tensor([len(text) - 4]), torch.tensor([0]))
            text.append(int(apply(rules, scores, now).argmax()))
        assert written[row] == text[4:]
        assert written[row][:2] == [11, 12]
        assert len(set(written[row])) == 9


def test_how_a_rule_chose_is_told():
    model = small("decoder")
    sampling = Sampling((RepetitionPenalty(1.5), NoRepeat(1)), seed=2)
    with trace(model, watch="sampling.*") as tape:
        rows = generate(model, Prompt(torch.randint(2, VOCAB, (2, 3))), max_new_tokens=3, sampling=sampling)
    for step in range(3):
        for i in range(2):
            name = f"sampling.filtered_{i}@{step}"
            assert torch.equal(tape.recompute(name), tape[name])
    said = tape.explain("sampling.filtered_1@2", (0, rows[0][0]))
    assert "dropped by NoRepeat(n=1, whole=False)" in str(said)
    assert "would come twice" in said.script


@pytest.mark.parametrize(("make", "message"), [
    (lambda: RepetitionPenalty(0), r"repetition_penalty: found 0; expected more than 0"),
    (lambda: NoRepeat(0), "no_repeat"),
    (lambda: BadWords(((),)), "bad_words"),
    (lambda: SoftPrefix((1,), 1.0), "prefix_bias.*force a prefix"),
    (lambda: Typical(0), "typical_p"),
    (lambda: PresencePenalty(math.inf), "presence_penalty: found inf; expected a finite number"),
    (lambda: FrequencyPenalty(math.nan), "frequency_penalty: found nan"),
    (lambda: RepetitionPenalty(math.inf), "repetition_penalty: found inf"),
    (lambda: LogitBias(((3, math.inf),)), "logit_bias: found inf.*force a prefix"),
    (lambda: LogitBias(((3, math.nan),)), "logit_bias: found nan"),
])  # fmt: skip
def test_settings_that_cannot_work(make, message):
    with pytest.raises(UserError, match=message):
        make()
