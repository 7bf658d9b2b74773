"""Configs: both ways without loss, every value checked, typos answered."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid.config import (
    PRESETS,
    dumps,
    from_dict,
    load_config,
    loads,
    parts,
    preset,
    run,
    save_config,
    to_dict,
    with_overrides,
)
from pellucid.config import model as config
from pellucid.config.defaults import DEMOS, FAMILIES, continued_run, default_run, demo_run
from pellucid.config.optimisation import AdamW, Linear
from pellucid.config.run import Run
from pellucid.errors import ConfigError, UserError

RUNS = [default_run(family, run.TextFiles(train=("a.txt",))) for family in FAMILIES] + [demo_run(d) for d in DEMOS]


@pytest.mark.parametrize("form", ["toml", "json"])
@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_a_file(name, form):
    model = preset(name).model
    assert loads(dumps(model, form), config.Model, form) == model


@pytest.mark.parametrize("form", ["toml", "json"])
@pytest.mark.parametrize("index", range(len(RUNS)))
def test_runs_survive_a_file(tmp_path, index, form):
    path = tmp_path / f"run.{form}"
    save_config(RUNS[index], path)
    assert load_config(path, run.Run) == RUNS[index]


optional = st.none() | st.integers(1, 8)
attentions = st.builds(
    lambda groups, per, head_dim, bias, out_bias, scale, cap, kernel: parts.Attention(
        num_heads=groups * per,
        num_kv_heads=groups,
        head_dim=head_dim,
        bias=bias,
        out_bias=out_bias,
        scale=scale,
        softcap=cap,
        kernel=kernel,
    ),
    st.integers(1, 4), st.integers(1, 4), st.sampled_from([8, 16]), st.booleans(), st.none() | st.booleans(),
    st.none() | st.floats(0.01, 2), st.none() | st.floats(1, 50), st.sampled_from(["auto", "explicit", "flex"]),
)  # fmt: skip
positions = st.one_of(
    st.builds(parts.NoPositions), st.builds(parts.ALiBi), st.builds(parts.Sinusoidal, interleaved=st.booleans()),
    st.builds(parts.Learned, max_length=st.integers(1, 99)), st.builds(parts.Rotary, base=st.floats(10, 1e6)),
    st.builds(parts.RelativeBias, buckets=st.sampled_from([4, 8, 32])),
)  # fmt: skip
stacks = st.builds(
    parts.Stack,
    d_model=st.integers(1, 50).map(lambda n: 2 * n),
    num_layers=st.integers(1, 5),
    attention=attentions,
    feed_forward=st.builds(parts.FeedForward, d_ff=st.integers(1, 99), gated=st.booleans()),
    positions=positions,
    norm=st.builds(parts.LayerNorm, bias=st.booleans()) | st.builds(parts.RMSNorm, plus_one=st.booleans()),
    placement=st.sampled_from(["post", "pre", "both"]),
    windows=st.lists(st.integers(0, 9), min_size=1, max_size=3).map(tuple),
    final_norm=st.none() | st.booleans(),
)


@settings(max_examples=60, deadline=None)
@given(stacks, st.sampled_from(["toml", "json"]))
def test_any_stack_survives_a_file(stack, form):
    assert loads(dumps(stack, form), parts.Stack, form) == stack


def plain():
    return to_dict(preset("gpt2").model)


@pytest.mark.parametrize(("override", "message"), [
    ("stack.d_model=100", r"stack\.d_model: found 100; expected a multiple of attention\.num_heads \(12\)\. The nearest are 96 and 108\."),
    ("stack.atention.num_heads=4", r'stack\.atention: no such setting\. Did you mean "attention"\?'),
    ("num_layer=2", r'num_layer: no such setting\. Did you mean "stack\.num_layers"\?'),
    ("stack.positions.kind=rotery", r'unknown kind "rotery".*Did you mean "rotary"\?'),
    ("stack.placement=\"pro\"", r"stack\.placement: found 'pro'; expected one of post, pre, both"),
    ("stack.num_layers=0", r"stack\.num_layers: found 0; expected more than 0"),
    ("stack.num_layers=2.5", r"stack\.num_layers: found 2\.5; expected a whole number"),
    ("stack.num_layers=true", r"expected a whole number"),
    ("stack.dropout=1.0", r"at least 0 and below 1"),
    ("stack.attention.num_kv_heads=5", r"a divisor of num_heads \(12\)"),
    ("stack.windows=[-1]", r"stack\.windows"),
    ("tie=[\"target\"]", r"tie: found \['target'\]; expected at least two"),
    ("tie=[\"target\", \"source\"]", r"names among target, output"),
    ("front.kind=patches", r"front\.kind: unknown kind \"patches\""),
    ("stack.attention=7", r"stack\.attention: found 7; expected a table"),
])  # fmt: skip
def test_a_value_that_cannot_work_is_told(override, message):
    with pytest.raises(ConfigError, match=message):
        from_dict(config.Model, with_overrides(plain(), [override]))


def test_a_missing_setting_is_named():
    with pytest.raises(ConfigError, match=r"stack\.d_model: missing"):
        from_dict(config.Model, with_overrides(plain(), ["stack.d_model=none"]))
    with pytest.raises(ConfigError, match=r"kind: missing; expected one of encoder, decoder, encoder_decoder"):
        from_dict(config.Model, {})


def test_overrides():
    changed = with_overrides(plain(), ["stack.positions.kind=rotary", "stack.dropout=0", "stack.attention.scale=0.5"])
    model = from_dict(config.Model, changed)
    assert model.stack.positions == parts.Rotary()
    assert model.stack.dropout == 0.0
    assert model.stack.attention.scale == 0.5
    assert plain()["stack"]["positions"]["kind"] == "learned"  # the original is untouched
    short = from_dict(config.Model, with_overrides(plain(), ["stack.positions=alibi"]))
    assert short.stack.positions == parts.ALiBi()
    with pytest.raises(ConfigError, match="not a setting"):
        with_overrides(plain(), ["stack.dropout"])


def test_none_is_the_choice_of_that_kind_or_no_entries_or_the_default():
    def changed(*overrides):
        return from_dict(config.Model, with_overrides(plain(), list(overrides)))

    for path in ("stack.positions", "stack.positions.kind"):
        assert changed(f"{path}=none").stack.positions == parts.NoPositions()
    assert changed("tie=none").tie == ()
    assert changed("stack.attention.scale=none").stack.attention.scale is None
    assert changed("stack.placement=none").stack.placement == "post"
    assert from_dict(AdamW, with_overrides({}, ["betas=none"])) == AdamW()  # two are needed
    with pytest.raises(ConfigError, match=r'num_layer: no such setting\. Did you mean "stack\.num_layers"\?'):
        changed("num_layer=none")


@pytest.mark.parametrize(
    "text", ["[model", "model = 3", "seed = " + "9" * 5000, "x = " + "[" * 5000, "model = { kind = [] }"],
    ids=["torn", "number", "thousands of digits", "nested", "a kind that is a list"],
)  # fmt: skip
def test_a_broken_file_is_told(tmp_path, text):
    path = tmp_path / "broken.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"broken\.toml: not TOML|model: found 3|missing|model\.kind: unknown kind"):
        load_config(path, run.Run)
    with pytest.raises(ConfigError, match="no such file"):
        load_config(tmp_path / "none.toml", run.Run)


def test_unknown_names_get_the_nearest():
    with pytest.raises(ConfigError, match='Did you mean "gpt2-xl"'):
        preset("gpt2xl")
    with pytest.raises(UserError, match='Did you mean "decoder"'):
        default_run("decodr", run.TextFiles(train=()))


def test_the_objective_must_fit_the_model():
    with pytest.raises(ConfigError, match="objective: found Causal; expected SequenceToSequence"):
        replace(demo_run("encoder-decoder"), objective=run.Causal())


@pytest.mark.parametrize(
    "head",
    [
        ["model.head.kind=embedding"],
        ['model.head={kind = "token_classification", labels = ["O", "B-X"]}'],
        ['model.head={kind = "classification", labels = ["relevant"]}'],
    ],
    ids=lambda head: head[0][:50],
)
def test_heads_that_nothing_trains_are_told(head):
    plain = to_dict(default_run("encoder", run.TextFiles(train=("a.txt",))))
    with pytest.raises(ConfigError, match="a head that nothing here trains"):
        from_dict(run.Run, with_overrides(plain, [*head, "model.tie=[]"]))


def test_what_only_the_data_tells_is_filled_in():
    filled = default_run("classifier", run.LabelledFiles(train="x.tsv")).completed(vocab_size=321, labels=("a", "b"))
    assert filled.model.front.vocab_size == 321
    assert filled.model.head.labels == ("a", "b")
    pair = demo_run("encoder-decoder").completed(vocab_size=99, labels=())
    assert pair.model.source.vocab_size == pair.model.target.vocab_size == 99


def test_json_is_json():
    assert json.loads(dumps(preset("t5-small").model, "json"))["kind"] == "encoder_decoder"


def test_errors_of_a_config_file_name_the_file(tmp_path):
    (tmp_path / "recipe.toml").write_text("sedd = 1\n")
    with pytest.raises(ConfigError, match=r"recipe\.toml: .*sedd"):
        load_config(tmp_path / "recipe.toml", Run)
    with pytest.raises(ConfigError, match=r'recpie\.toml: no such file. Did you mean "recipe\.toml"'):
        load_config(tmp_path / "recpie.toml", Run)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["training.patience=3"], r"training\.evaluate_every: found 0; expected 1 or more, since patience counts"),
        (["training.average.kind=checkpoints"], r"evaluate_every: .*since an average of checkpoints counts"),
        (["training.checkpoints.every=50", "training.checkpoints.keep=0"], r"checkpoints\.keep: found 0; .*it is 50"),
        (
            ["objective.curriculum_steps=9", "objective.separate_documents=true"],
            r"objective\.curriculum_steps: found 9",
        ),
        (
            ["objective.curriculum_steps=9", "objective.length=250"],
            r"objective\.length: found 250; expected a multiple of 8",
        ),
    ],
)
def test_settings_that_cannot_both_act_are_told(given, message):
    plain = to_dict(default_run("decoder", run.TextFiles(train=("a.txt",))))
    with pytest.raises(ConfigError, match=message):
        from_dict(run.Run, with_overrides(plain, ["training.evaluate_every=0", *given]))


@pytest.mark.parametrize("kind", ["training.schedule.kind=linear", "training.schedule=linear"])
def test_a_kind_leaves_what_is_given_beside_it_whatever_their_order(kind):
    plain = to_dict(default_run("decoder", run.TextFiles(train=("a.txt",))))
    for both in ([kind, "training.schedule.peak=5e-3"], ["training.schedule.peak=5e-3", kind]):
        assert from_dict(run.Run, with_overrides(plain, both)).training.schedule == Linear(peak=5e-3)


def test_what_goes_on_has_learned_to_read_long_texts():
    learned = default_run("decoder", run.TextFiles(train=("a.txt",)))
    objective = replace(learned.objective, curriculum_steps=2000)
    assert continued_run(learned.model, objective, "runs/a", None, learned.data).objective.curriculum_steps == 0


def test_what_goes_on_from_pairs_or_text_is_trained_by_what_these_are_about():
    pairs, text = run.ParallelFiles(source="a", target="b"), run.TextFiles(train=("a.txt",))
    spans = default_run("encoder-decoder", text)
    for data, kind in ((pairs, run.SequenceToSequence), (text, run.SpanCorruption)):
        assert isinstance(continued_run(spans.model, spans.objective, "runs/spans", None, data).objective, kind)
    kept = replace(spans.objective, length=99)
    for data in (text, run.NamedData(name="python-docs")):
        assert continued_run(spans.model, kept, "runs/spans", None, data).objective == kept
