"""Sentencepiece models as tokenizers (Kudo & Richardson 2018), for published folders without a ``tokenizer.json``.

Needs the ``sentencepiece`` extra, whose library reads the files; texts are cut by ``tokenizers`` as everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from pellucid.config.files import read_plain
from pellucid.data.conventions import conventions
from pellucid.data.tokenizers import Tokenizer
from pellucid.errors import DataError, UserError

SOURCE, TARGET, VOCABULARY, TARGET_VOCABULARY = "source.spm", "target.spm", "vocab.json", "target_vocab.json"
SPACE = "▁"
UNIGRAM, BPE = 1, 2  # model types in the file
NORMAL, UNKNOWN, CONTROL, USER, BYTE = 1, 2, 3, 4, 6  # kinds of pieces in the file
AS_NUMBERED = ("t5", "llama", "mistral", "gemma2")  # others put tokens of their own before the file's
Pieces = list[tuple[str, float]]
HIDDEN = "\U000f0000"  # a character for private use, before pieces that texts of one side are not cut into


def sentencepiece_tokenizer(folder: Path, named: Mapping[str, str], told: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of a folder with sentencepiece files: a single model, or Marian's pair with its vocabulary.

    Args:
        named: the names of special tokens by role.
        told: the settings of the model, which say its special tokens by id.

    Raises:
        DataError: for a folder without such files, or files that are torn.
        UserError: when the extra is not installed.
    """
    if all((folder / name).exists() for name in (SOURCE, TARGET, VOCABULARY)):
        return _marian(folder, named, told)
    single = sorted(folder.glob("*.model"))
    if not single:
        wanted = "tokenizer.json, or sentencepiece files (*.model, or source.spm, target.spm and vocab.json)"
        raise DataError(folder, "holds no tokenizer", wanted)
    if (kind := told.get("model_type")) not in AS_NUMBERED:
        hint = "write one: from transformers import AutoTokenizer; AutoTokenizer.from_pretrained(F).save_pretrained(F)"
        found = f"a {kind} with {single[0].name} alone, which does not say how its pieces are numbered"
        raise DataError(folder, found, "tokenizer.json", hint)
    spm = _read(single[0])
    raw = _bpe(spm) if spm.trainer_spec.model_type == BPE else _unigram(spm, [(p.piece, p.score) for p in spm.pieces])
    special = [piece.piece for piece in spm.pieces if piece.type in (UNKNOWN, CONTROL)]
    raw.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special])
    # A Llama text begins with its bos, a T5 text ends with its eos.
    begins, ends = told.get("bos_token_id"), told.get("eos_token_id")
    is_bpe = spm.trainer_spec.model_type == BPE
    frame = ((begins,), ()) if is_bpe and isinstance(begins, int) else ((), (ends,) if isinstance(ends, int) else ())
    return Tokenizer(raw, conventions(raw, frame, named, told))


def _read(path: Path) -> Any:
    try:
        from google.protobuf.message import DecodeError
        from sentencepiece import sentencepiece_model_pb2
    except ImportError:
        hint = "pip install 'pellucid[sentencepiece]'"
        raise UserError(path, "is a sentencepiece model, which needs the sentencepiece extra", hint=hint) from None
    model = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]  # made when it is imported
    try:
        model.ParseFromString(path.read_bytes())
    except (OSError, DecodeError) as error:
        raise DataError(path, f"cannot be read ({error})", "a sentencepiece model", "copy it again") from None
    if model.trainer_spec.model_type not in (UNIGRAM, BPE):
        raise DataError(path, f"model type {model.trainer_spec.model_type}", "unigram (1) or BPE (2)")
    return model


def _unigram(spm: Any, pieces: Pieces) -> tokenizers.Tokenizer:
    unknown = next((i for i, (piece, _) in enumerate(pieces) if piece == "<unk>"), 0)
    has_bytes = any(piece.type == BYTE for piece in spm.pieces)
    raw = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=unknown, byte_fallback=has_bytes))
    _set_spaces(raw, spm)
    return raw


def _bpe(spm: Any) -> tokenizers.Tokenizer:
    """Merges are not in the file: a piece is made of two others, and the better its score the earlier."""
    ids = {piece.piece: i for i, piece in enumerate(spm.pieces)}
    scores = {piece.piece: piece.score for piece in spm.pieces if piece.type in (NORMAL, USER)}
    merges = [
        (-score, ids[left], ids[right], left, right)
        for piece, score in scores.items()
        for left, right in ((piece[:cut], piece[cut:]) for cut in range(1, len(piece)))
        if left in scores and right in scores
    ]
    pairs = [(left, right) for *_, left, right in sorted(merges)]
    has_bytes = any(piece.type == BYTE for piece in spm.pieces)
    model = models.BPE(ids, pairs, unk_token="<unk>", fuse_unk=True, byte_fallback=has_bytes)
    raw = tokenizers.Tokenizer(model)
    _set_spaces(raw, spm)
    return raw


def _set_spaces(raw: tokenizers.Tokenizer, spm: Any) -> None:
    """Normalisation and spaces as the file says."""
    spec = spm.normalizer_spec
    steps: list[normalizers.Normalizer] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if spec.add_dummy_prefix:  # also where a text begins with a space of its own
        steps.append(normalizers.Prepend(" "))
    raw.normalizer = normalizers.Sequence(steps)
    split = spm.trainer_spec.model_type == UNIGRAM
    raw.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme="never", split=split)
    scheme = "always" if spec.add_dummy_prefix else "never"
    spaces = decoders.Metaspace(SPACE, prepend_scheme=scheme)
    raw.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Replace(HIDDEN, ""), spaces, decoders.Fuse()])


def _marian(folder: Path, named: Mapping[str, str], told: Mapping[str, Any]) -> Tokenizer:
    """One numbering for both sides, or one for each, and a model for each that says how its texts are cut."""
    ids = read_plain(folder / VOCABULARY)
    own = folder / TARGET_VOCABULARY
    source, target = (
        _side(folder / name, numbers)
        for name, numbers in ((SOURCE, ids), (TARGET, read_plain(own) if own.exists() else ids))
    )
    end = source.token_to_id("</s>")
    kept = conventions(source, ((), () if end is None else (end,)), named, told)
    return Tokenizer(source, kept, Tokenizer(target, kept))


def _side(path: Path, ids: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """The pieces of one side under the numbers of both; those of the other side alone are never cut, only read."""
    spm = _read(path)
    scores = {piece.piece: piece.score for piece in spm.pieces if piece.type in (NORMAL, USER) and piece.piece in ids}
    lowest = min(scores.values(), default=0.0)
    by_id = {i: piece for piece, i in ids.items()}
    if set(by_id) != set(range(len(ids))):
        raise DataError(path.parent / VOCABULARY, "no numbers for its pieces, or gaps in them", "ids from 0 on")
    languages = [piece for piece in ids if piece.startswith(">>") and piece.endswith("<<")]
    special = ["</s>", "<unk>", "<pad>"]
    known = {*scores, *special, *languages}
    pieces = [
        (piece if piece in known else HIDDEN + piece, scores.get(piece, lowest))
        for piece in (by_id[i] for i in range(len(ids)))
    ]
    raw = _unigram(spm, pieces)
    raw.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special if name in ids])
    raw.add_tokens([AddedToken(name, normalized=False) for name in languages])
    return raw
