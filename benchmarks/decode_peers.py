"""Their sides of ``decode.py``: transformers, CTranslate2, sentence-transformers, onnxruntime, each at its best.

Found by trying, of CTranslate2 4.8: unless ``include_prompt_in_result`` is off, ``max_length`` counts the prompt;
``min_decoding_length`` is 1 unless told, which bars the end at the first step and changes every score; a length counts
the end; and it stops where ``transformers`` stops with ``early_stopping``, not where no beginning can win any more. Its
reader of Marian models takes the first token for a zero vector and drops the last of the vocabulary: right for opus-mt,
wrong for a model with a begin token of its own, which goes through its reader of BART here.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from decode_models import MODEL, Case, Task
from decode_ours import Side, by_batches

THREADS = 2
BATCHES = (4, 8, 16, 32)
GRAPH, FUSED, BYTES, FUSIONS = "model.onnx", "fused.onnx", "int8.onnx", "fusions.json"


def prepare(task: Task, folder: Path) -> None:
    """Writes what the peers read instead of Hugging Face's folder."""
    if task == "embeddings":
        _export(folder)
    else:
        for weights in ("float32", "int8"):
            _convert(folder, weights)


# ---- transformers --------------------------------------------------------------------------------


def _tensors(rows: Sequence[Sequence[int]], pad: int) -> dict[str, Any]:
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    return {"input_ids": ids, "attention_mask": (torch.arange(longest) < lengths[:, None]).long()}


def _opened(kind: str, folder: Path, weights: str) -> Any:
    """A model with its fused attention, and nothing of how its checkpoint would have it write."""
    import transformers

    transformers.logging.disable_progress_bar()
    dtype = torch.bfloat16 if weights == "bfloat16" else torch.float32
    return getattr(transformers, kind).from_pretrained(folder / MODEL, dtype=dtype, attn_implementation="sdpa").eval()


def _transformers_writes(folder: Path, weights: str, **settings: Any) -> Side:
    model = _opened("AutoModelForCausalLM", folder, weights)
    model.generation_config.eos_token_id = None  # the length is forced; barring the end would cost a pass more

    @torch.inference_mode()
    def run(case: Case) -> list[Any]:
        inputs = _tensors(case.rows, 0)
        found = model.generate(**inputs, do_sample=False, max_new_tokens=case.new, pad_token_id=0, **settings)
        return found[:, inputs["input_ids"].size(1) :].tolist()

    return run


def transformers_writes(folder: Path, weights: str) -> Side:
    return _transformers_writes(folder, weights)


def transformers_writes_static(folder: Path, weights: str) -> Side:
    return _transformers_writes(folder, weights, cache_implementation="static")


def _transformers_translates(folder: Path, weights: str, *, early: bool) -> Side:
    model = _opened("AutoModelForSeq2SeqLM", folder, weights)
    told = model.generation_config
    pad, eos = told.pad_token_id, told.eos_token_id
    ends = set(eos if isinstance(eos, list) else [eos])

    @torch.inference_mode()
    def batch(rows: list[list[int]], case: Case) -> list[list[int]]:
        found = model.generate(
            **_tensors(rows, pad),
            do_sample=False,
            num_beams=case.beams,
            max_new_tokens=case.new,
            length_penalty=1.0,
            early_stopping=early,
        )
        skip = 1 + (told.forced_bos_token_id is not None)
        return [_until(row[skip:], ends) for row in found.tolist()]

    return lambda case: by_batches(case, lambda rows: batch(rows, case))


def transformers_translates(folder: Path, weights: str) -> Side:
    return _transformers_translates(folder, weights, early=False)


def transformers_translates_early(folder: Path, weights: str) -> Side:
    return _transformers_translates(folder, weights, early=True)


def _until(row: list[int], ends: set[int]) -> list[int]:
    return row[: next((i for i, token in enumerate(row) if token in ends), len(row))]


# ---- CTranslate2 ---------------------------------------------------------------------------------


def _convert(folder: Path, weights: str) -> None:
    from ctranslate2.converters import transformers as readers

    told = json.loads((folder / MODEL / "config.json").read_text())
    kind = told["model_type"]

    class Own(readers.BartLoader):  # type: ignore[misc, name-defined]
        """Starts from the begin token of the config, as Marian's reader does not; Pegasus's misses two settings."""

        architecture_name = {"marian": "MarianMTModel", "pegasus": "PegasusForConditionalGeneration"}.get(kind)

        def get_model_spec(self, model: Any) -> Any:
            model.config.normalize_before, model.config.normalize_embedding = kind == "pegasus", False
            return super().get_model_spec(model)

    if kind in ("marian", "pegasus") and told["decoder_start_token_id"] != told["pad_token_id"]:
        readers._MODEL_LOADERS[{"marian": "MarianConfig", "pegasus": "PegasusConfig"}[kind]] = Own()
    converter = readers.TransformersConverter(str(folder / MODEL))
    converter.convert(str(folder / f"ct2-{weights}"), quantization=weights)


def _names(folder: Path) -> list[str]:
    """The vocabulary in order: CTranslate2 is fed words, not numbers."""
    import tokenizers

    raw = tokenizers.Tokenizer.from_file(str(folder / MODEL / "tokenizer.json"))
    return [raw.id_to_token(i) for i in range(raw.get_vocab_size())]


def _settings(weights: str) -> dict[str, Any]:
    return {"device": "cpu", "compute_type": weights, "inter_threads": 1, "intra_threads": THREADS}


def ctranslate2_writes(folder: Path, weights: str) -> Side:
    import ctranslate2

    generator = ctranslate2.Generator(str(folder / f"ct2-{weights}"), **_settings(weights))
    names = _names(folder)

    def run(case: Case) -> list[Any]:
        found = generator.generate_batch(
            [[names[i] for i in row] for row in case.rows],
            max_batch_size=0,
            beam_size=1,
            sampling_topk=1,
            min_length=case.new,
            max_length=case.new,
            include_prompt_in_result=False,
            return_scores=False,
        )
        return [row.sequences_ids[0] for row in found]

    return run


def ctranslate2_translates(folder: Path, weights: str) -> Side:
    import ctranslate2

    translator = ctranslate2.Translator(str(folder / f"ct2-{weights}"), **_settings(weights))
    names = _names(folder)
    ids = {name: i for i, name in enumerate(names)}
    forced = json.loads((folder / MODEL / "config.json").read_text()).get("forced_bos_token_id")

    def translated(rows: list[list[int]], case: Case) -> list[list[int]]:
        found = translator.translate_batch(
            [[names[i] for i in row] for row in rows],
            target_prefix=None if forced is None else [[names[forced]]] * len(rows),
            max_batch_size=case.batch,
            beam_size=case.beams,
            length_penalty=1.0,
            min_decoding_length=0,
            max_decoding_length=case.new,
            max_input_length=0,
            return_scores=False,
        )
        return [[ids[name] for name in row.hypotheses[0]][forced is not None :] for row in found]

    def run(case: Case) -> list[Any]:
        if case.ordered:  # it sorts and batches by itself
            return translated(case.rows, case)
        return by_batches(case, lambda rows: translated(rows, case))

    return run


# ---- sentence-transformers and onnxruntime -------------------------------------------------------


def sentence_transformers_embeds(folder: Path, weights: str) -> Side:
    """``encode``, which sorts and batches by itself."""
    from sentence_transformers import SentenceTransformer

    dtype = torch.bfloat16 if weights == "bfloat16" else torch.float32
    model = SentenceTransformer(str(folder / MODEL), device="cpu", model_kwargs={"dtype": dtype})

    def run(case: Case) -> list[Any]:
        chunks = [case.rows] if case.ordered else [[row] for row in case.rows]
        found = [model.encode(rows, batch_size=case.batch, convert_to_tensor=True) for rows in chunks]
        return torch.cat(found).float().tolist()

    return at_its_best(run)


def at_its_best(run: Side) -> Side:
    """The same with the size of batches that is the fastest of a few, tried when a case is first asked for.

    Our reader of texts makes groups of as many tokens as stay in the cache; theirs are told how many rows to take.
    """
    chosen: dict[str, int] = {}

    def side(case: Case) -> list[Any]:
        if case.batch > 1 and case.name not in chosen:
            seconds = {}
            for size in BATCHES:
                run(replace(case, batch=size, rows=case.rows[: 2 * size]))  # warms up
                began = time.perf_counter()
                run(replace(case, batch=size))
                seconds[size] = time.perf_counter() - began
            chosen[case.name] = min(seconds, key=lambda size: seconds[size])
            print(f"{case.name}: batches of {chosen[case.name]}", file=sys.stderr)
        return run(replace(case, batch=chosen.get(case.name, case.batch)))

    return side


class _Pooled(torch.nn.Module):
    """A BERT, the mean of its last states over real tokens, of unit length."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        states = self.model(input_ids=input_ids, attention_mask=attention_mask)[0]
        keep = attention_mask[:, :, None].to(states.dtype)
        return torch.nn.functional.normalize((states * keep).sum(1) / keep.sum(1), dim=-1)


def _export(folder: Path) -> None:
    """The graph as exported, the same with onnxruntime's fusions for BERT, and that one with int8 weights."""
    from onnx import TensorProto
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder / MODEL, attn_implementation="eager", add_pooling_layer=False).eval()
    example = (torch.full((2, 9), 7), torch.tensor([[1] * 9, [1] * 6 + [0] * 3]))
    axes = {name: {0: "batch", 1: "length"} for name in ("input_ids", "attention_mask")}
    torch.onnx.export(
        _Pooled(model),
        example,
        str(folder / GRAPH),
        input_names=list(axes),
        output_names=["embedding"],
        dynamic_axes={**axes, "embedding": {0: "batch"}},
        opset_version=17,
        dynamo=False,  # the fusions know this exporter's patterns
    )
    told = model.config
    optimizer = import_module("onnxruntime.transformers.optimizer")
    sizes = {"num_heads": told.num_attention_heads, "hidden_size": told.hidden_size}
    fused = optimizer.optimize_model(str(folder / GRAPH), model_type="bert", opt_level=0, **sizes)
    (folder / FUSIONS).write_text(json.dumps(fused.get_fused_operator_statistics()))
    fused.save_model_to_file(str(folder / FUSED))
    quantize_dynamic(
        str(folder / FUSED),
        str(folder / BYTES),
        weight_type=QuantType.QInt8,
        per_channel=True,
        extra_options={"DefaultTensorType": TensorProto.FLOAT},  # the types of fused operators cannot be inferred
    )


def _onnxruntime_embeds(folder: Path, graph: str) -> Side:
    import onnxruntime
    import tokenizers

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.inter_op_num_threads = THREADS, 1
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(str(folder / graph), settings, providers=["CPUExecutionProvider"])
    raw = tokenizers.Tokenizer.from_file(str(folder / MODEL / "tokenizer.json"))

    def batch(texts: list[str]) -> list[Any]:
        ids = [encoding.ids for encoding in raw.encode_batch(texts)]
        inputs = {name: tensor.numpy() for name, tensor in _tensors(ids, 0).items()}
        return session.run(None, inputs)[0].tolist()

    return at_its_best(lambda case: by_batches(case, batch))


def onnxruntime_embeds(folder: Path, weights: str) -> Side:
    return _onnxruntime_embeds(folder, GRAPH)


def onnxruntime_embeds_fused(folder: Path, weights: str) -> Side:
    return _onnxruntime_embeds(folder, BYTES if weights == "int8" else FUSED)


def quieten() -> None:
    """Keeps libraries from writing bars and from looking for models on the network."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
