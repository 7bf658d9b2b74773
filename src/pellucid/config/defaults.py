"""What ``pellucid train FAMILY`` and ``pellucid demo`` take when nothing else is said."""

from __future__ import annotations

from dataclasses import replace

from pellucid.config.model import (
    Classification,
    Decoder,
    Encoder,
    EncoderDecoder,
    MaskedLanguage,
    Model,
    NormalInit,
    Tied,
    Tokens,
    XavierInit,
    stacks,
)
from pellucid.config.optimisation import AdamW, Checkpoints, Cosine, Linear, Training
from pellucid.config.parts import Attention, FeedForward, RMSNorm, Rotary, Sinusoidal, Stack
from pellucid.config.run import (
    ByteBPE,
    Causal,
    Classify,
    Data,
    Masked,
    NamedData,
    NoObjective,
    Objective,
    ParallelFiles,
    Run,
    SequenceToSequence,
    SpanCorruption,
    TextFiles,
    fitting_objectives,
)
from pellucid.config.start import Pretrained
from pellucid.errors import UserError, nearest

FAMILIES = ("decoder", "encoder", "encoder-decoder", "classifier")
DEMOS = ("encoder-decoder", "decoder", "encoder")


def default_run(family: str, data: Data) -> Run:
    """A run that suits a text of a few megabytes on a laptop.

    Raises:
        UserError: for a family that does not exist, with the nearest.
    """
    match family:
        case "decoder":
            return Run(
                model=Decoder(front=Tokens(), stack=_modern(d_model=256, layers=6, heads=8), init=_GPT),
                data=data,
                tokenizer=ByteBPE(vocab_size=4000),
                objective=Causal(length=256),
                training=Training(steps=2000, batch_tokens=4096, schedule=Cosine(peak=2e-3), precision="auto"),
            )
        case "encoder":
            stack = _modern(d_model=256, layers=6, heads=8)
            return Run(
                model=Encoder(front=Tokens(), stack=stack, head=MaskedLanguage(), tie=_SHARED),
                data=data,
                tokenizer=ByteBPE(vocab_size=4000),
                objective=Masked(length=128),
                training=Training(steps=2000, batch_tokens=4096, schedule=Cosine(peak=2e-3), precision="auto"),
            )
        case "classifier":
            stack = replace(_modern(d_model=128, layers=3, heads=4), dropout=0.2)
            head = Classification(pooling="mean", projected=False, dropout=0.2)
            return Run(
                model=Encoder(front=Tokens(dropout=0.2), stack=stack, head=head),
                data=data,
                tokenizer=ByteBPE(vocab_size=2000),
                objective=Classify(label_smoothing=0.1),
                training=Training(steps=1500, batch_tokens=2048, schedule=Cosine(peak=2e-3), precision="auto"),
            )
        case "encoder-decoder":
            stack = replace(_classic(d_model=256, layers=3, heads=4), dropout=0.1)
            front = Tokens(scaled=True, dropout=0.1)
            return Run(
                model=EncoderDecoder(source=front, encoder=stack, target=front, decoder=stack),
                data=data,
                tokenizer=ByteBPE(vocab_size=6000),
                objective=SpanCorruption() if isinstance(data, TextFiles) else SequenceToSequence(),
                training=Training(steps=4000, batch_tokens=4096, schedule=Cosine(peak=1e-3), precision="auto"),
            )
        case _:
            raise UserError(
                f'family "{family}"', "not known", "one of " + ", ".join(FAMILIES), nearest(family, FAMILIES)
            )


def continued_run(source: Model, objective: Objective | None, path: str, family: str | None, data: Data) -> Run:
    """A run that goes on from the weights of another, on other data or as a classifier.

    Args:
        source: the model that ``path`` holds.
        objective: what it was trained by, which stays unless the data is about another; ``None`` for a published one,
            which is trained by what fits it.
        family: what it shall become; as it was when left out. An encoder can become a classifier.

    Raises:
        UserError: for a model that cannot become this.
    """
    own = family_of(source)
    family = family or own
    run = default_run(family, data)
    if family != own and not (own == "encoder" and family == "classifier"):
        raise UserError(f"--from {path}", f"holds a {own}", f"a run that can become a {family}")
    model = source
    if family != own:
        assert isinstance(source, Encoder)
        model = replace(source, head=Classification(pooling="mean", projected=False), tie=())
    tells = isinstance(data, TextFiles | ParallelFiles)  # a name does not say what kind of data it stands for
    if family != own or objective is None or (tells and type(objective) is not type(run.objective)):
        objective = fitted(run.objective, model)
    if isinstance(objective, Causal):
        objective = replace(objective, curriculum_steps=0)  # what is fine-tuned has learned to read long texts
    # A tenth of the rate that starts at nothing: what was learned should not be shaken off.
    training = replace(run.training, steps=1000, schedule=Cosine(peak=3e-4, warmup_steps=50))
    return replace(run, model=model, objective=objective, training=training, start=Pretrained(path=path))


def fitted(objective: Objective, model: Model) -> Objective:
    """The objective, or where the model has another, that one; texts no longer than its positions reach."""
    kinds = fitting_objectives(model)
    objective = objective if isinstance(objective, kinds) else kinds[0]()
    if isinstance(objective, NoObjective):
        return objective
    longest = min((stack.max_length for stack in stacks(model) if stack.max_length), default=None)
    if longest is None:
        return objective
    if isinstance(objective, Causal | Masked | SpanCorruption):
        return replace(objective, length=min(objective.length, longest))
    return replace(objective, max_length=min(objective.max_length, longest))


def family_of(model: Model) -> str:
    """The family whose defaults suit a model."""
    match model:
        case Decoder():
            return "decoder"
        case EncoderDecoder():
            return "encoder-decoder"
        case Encoder(head=Classification()):
            return "classifier"
        case _:
            return "encoder"


def demo_run(family: str) -> Run:
    """The demonstration of a family: real data that comes with the package, a minute or two on two cores.

    Raises:
        UserError: for a family that has none, with the nearest.
    """
    match family:
        case "encoder-decoder":
            return _demo_dates()
        case "decoder":
            # Half a megabyte of text, read a dozen times over: without dropout it would be learned by heart.
            stack = replace(_modern(d_model=128, layers=4, heads=4), dropout=0.1)
            writer = Decoder(front=Tokens(dropout=0.1), stack=stack, init=_GPT)
            return _demo_python_docs(writer, Causal(length=128), steps=900, peak=4e-3)
        case "encoder":
            stack = _modern(d_model=128, layers=4, heads=4)
            model = Encoder(front=Tokens(), stack=stack, head=MaskedLanguage(), tie=_SHARED, init=XavierInit())
            # Twice BERT's rate: so small a text gives more to learn from (Wettig et al. 2023).
            return _demo_python_docs(model, Masked(length=128, rate=0.3), steps=1100, peak=6e-3)
        case _:
            raise UserError(f'demo "{family}"', "not known", "one of " + ", ".join(DEMOS), nearest(family, DEMOS))


def _demo_dates() -> Run:
    encoder = _classic(d_model=96, layers=2, heads=3)
    front = Tokens(scaled=True)
    return Run(
        model=EncoderDecoder(source=front, encoder=encoder, target=front, decoder=replace(encoder, num_layers=1)),
        data=NamedData(name="dates"),
        tokenizer=ByteBPE(vocab_size=2500),
        objective=SequenceToSequence(label_smoothing=0.0, max_length=64),
        training=Training(
            steps=1650,
            batch_tokens=1536,
            optimizer=AdamW(betas=(0.9, 0.98), weight_decay=0.01),
            schedule=Linear(peak=3e-3, warmup_steps=150, final=0.02),
            evaluate_every=550,
            checkpoints=Checkpoints(keep=0, weights="bfloat16"),
            precision="auto",
        ),
    )


def _demo_python_docs(model: Decoder | Encoder, objective: Causal | Masked, steps: int, peak: float) -> Run:
    return Run(
        model=model,
        data=NamedData(name="python-docs"),
        tokenizer=ByteBPE(vocab_size=1500),
        objective=objective,
        training=Training(
            steps=steps,
            batch_tokens=2048,
            schedule=Linear(peak=peak, warmup_steps=100),
            evaluate_every=300,
            checkpoints=Checkpoints(keep=0, weights="bfloat16"),
            precision="auto",
        ),
    )


_GPT = NormalInit(scaled_residual=True)
_SHARED: tuple[Tied, ...] = ("source", "output")


def _modern(*, d_model: int, layers: int, heads: int) -> Stack:
    """Pre-norm, RMSNorm, rotary positions, gated feed-forward of about the classic one's size (Touvron et al. 2023)."""
    return Stack(
        d_model=d_model,
        num_layers=layers,
        attention=Attention(num_heads=heads, bias=False, qk_norm=True),
        feed_forward=FeedForward(d_ff=_third(d_model), activation="silu", gated=True, bias=False),
        positions=Rotary(),
        norm=RMSNorm(),
        placement="pre",
    )


def _third(d_model: int) -> int:
    """8/3 of the width, rounded up to a multiple of 32: three matrices of it weigh as much as two of four widths."""
    return -(-8 * d_model // 3 // 32) * 32


def _classic(*, d_model: int, layers: int, heads: int) -> Stack:
    """The paper's parts in pre-norm order, which needs no careful warm-up (Xiong et al. 2020)."""
    return Stack(
        d_model=d_model,
        num_layers=layers,
        attention=Attention(num_heads=heads),
        feed_forward=FeedForward(d_ff=4 * d_model),
        positions=Sinusoidal(),
        placement="pre",
    )
