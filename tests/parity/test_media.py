"""Images and sound become the numbers that ``transformers`` makes of them, and the words the same."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

transformers = pytest.importorskip("transformers")
image_library = pytest.importorskip("PIL.Image")

from tokenizers import AddedToken

from parity.cases import Case
from parity.test_parity import close, folders  # noqa: F401
from pellucid.cli.app import app
from pellucid.config import run
from pellucid.data.images import ImageReader, open_image
from pellucid.data.sounds import RATE, SoundReader, open_sound
from pellucid.data.tokenizers import Tokenizer
from pellucid.errors import ConfigError, DataError, UserError
from pellucid.inference.predict import classify
from pellucid.inference.transcribe import Marks, _Listener, transcribe
from pellucid.models.checkpoint import Loaded
from pellucid.models.load import load

# ---- images ------------------------------------------------------------------------------------


def pictures(count=3):
    generator = np.random.default_rng(4)
    return [image_library.fromarray(generator.integers(0, 256, (30 + i, 25, 3), dtype=np.uint8)) for i in range(count)]


@pytest.mark.parametrize("settings", [{}, {"image_mean": [0.1, 0.2, 0.3], "resample": 3}, {"do_normalize": False}])
def test_images(tmp_path, settings):
    told = {"size": {"height": 12, "width": 12}, "do_convert_rgb": True} | settings
    processor = transformers.ViTImageProcessorPil(**told)
    processor.save_pretrained(tmp_path)
    reader = ImageReader.of(tmp_path, 12, 3)
    expected = processor(pictures(), return_tensors="pt")["pixel_values"]
    close(reader(pictures()), expected)
    close(reader([np.asarray(picture) for picture in pictures()]), expected)


def test_steps_that_are_not_honoured(tmp_path):
    for told, message in (
        ({"do_center_crop": True}, "do_center_crop: not known here"),
        ({"size": 99}, "found 99; expected 12"),
        ({"size": {"shortest_edge": 12}}, "found {'shortest_edge': 12}; expected 12"),
        ({"image_mean": [0.5]}, r"image_mean: found \[0\.5\]; expected 3 numbers"),
    ):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(told))
        with pytest.raises(ConfigError, match=message):
            ImageReader.of(tmp_path, 12, 3)


def test_grey_images(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text("{}")
    reader, grey = ImageReader.of(tmp_path, 12, 1), np.arange(144, dtype=np.uint8).reshape(12, 12)
    values = reader([grey, grey[..., None]])
    assert values.shape == (2, 1, 12, 12)
    assert torch.equal(values[0], values[1])
    assert np.array_equal(reader.drawn(values[0]).numpy()[..., 0], grey)


VIT = Case("vit/media", "ViTForImageClassification", {
    "num_hidden_layers": 2, "intermediate_size": 20, "image_size": 12, "patch_size": 4, "hidden_size": 16,
    "num_attention_heads": 2, "id2label": {0: "cat", 1: "dog", 2: "owl"},
})  # fmt: skip


def test_an_image_is_classified(folders, tmp_path, capsys):  # noqa: F811
    folder, oracle, _ = folders(VIT)
    transformers.ViTImageProcessorPil(size={"height": 12, "width": 12}).save_pretrained(folder)
    loaded = load(folder)
    found = classify(loaded, pictures(20))
    with torch.no_grad():
        expected = oracle(ImageReader(size=(12, 12))(pictures(20))).logits.softmax(-1)
    close(torch.tensor([list(label.probabilities.values()) for label in found]), expected)
    assert {label.label for label in found} <= {"cat", "dog", "owl"}
    pictures(1)[0].save(tmp_path / "one.png")
    app(["classify", str(folder), str(tmp_path / "one.png"), "--json", "--device", "cpu"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["label"] == found[0].label
    with pytest.raises(UserError, match="reads no text"):
        loaded.tokenizer  # noqa: B018
    (tmp_path / "torn.png").write_bytes(b"\x89PNG")
    with pytest.raises(DataError, match=r"torn\.png: cannot be read"):
        open_image(tmp_path / "torn.png")


# ---- sound -------------------------------------------------------------------------------------


def tone(seconds, pitch=440.0):
    time = np.arange(int(seconds * RATE)) / RATE
    noise = np.random.default_rng(3).standard_normal(time.size)
    return (0.4 * np.sin(2 * np.pi * pitch * time) + 0.05 * noise).astype(np.float32)


@pytest.mark.parametrize(("mels", "hop"), [(80, 160), (128, 160), (40, 320)])
def test_spectrograms(mels, hop):
    extractor = transformers.WhisperFeatureExtractor(feature_size=mels, chunk_length=2, hop_length=hop)
    waves = [tone(1.3), tone(2.0, 1200.0), tone(2.7, 90.0)]
    expected = extractor(waves, sampling_rate=RATE, return_tensors="pt", truncation=True)["input_features"]
    found = SoundReader(mels, 2 * RATE // hop, hop)(waves)
    assert found.shape == expected.shape == (3, mels, 2 * RATE // hop)
    assert (found - expected).abs().max() <= 1e-4


def test_a_front_that_is_not_ours(tmp_path):
    transformers.WhisperFeatureExtractor(feature_size=20, chunk_length=2).save_pretrained(tmp_path)
    assert SoundReader.of(tmp_path, 20, 200) == SoundReader(20, 200)
    with pytest.raises(ConfigError, match="feature_size: found 20; expected 80"):
        SoundReader.of(tmp_path, 80, 200)
    for told, message in (
        ({"hop_length": 80, "chunk_length": 2}, "chunk_length: found 2; expected 1"),
        ({"hop_length": 0}, "hop_length: found 0; expected a number"),
        ({"dither": 1e-5}, "dither: found 1e-05; expected 0"),
        ({"trims_silence": True}, "trims_silence: not known here"),
    ):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(told))
        with pytest.raises(ConfigError, match=message):
            SoundReader.of(tmp_path, 20, 200)


WORDS = 60
NAMES = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|translate|>", "<|transcribe|>"]
NAMES += ["<|startofprev|>", "<|notimestamps|>"]
MARKS = {name: WORDS + i for i, name in enumerate(NAMES)}
SPEECH = Case("whisper/media", "WhisperForConditionalGeneration", {
    "vocab_size": WORDS + len(NAMES) + 31, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 30,
    "decoder_ffn_dim": 30, "d_model": 24, "encoder_attention_heads": 2, "decoder_attention_heads": 3,
    "max_source_positions": 30, "max_target_positions": 40, "pad_token_id": WORDS, "bos_token_id": WORDS,
    "eos_token_id": WORDS, "decoder_start_token_id": WORDS + 1, "begin_suppress_tokens": [3, 4],
    "suppress_tokens": [5, 6, WORDS + 6],
})  # fmt: skip


@pytest.fixture
def listener(folders):  # noqa: F811
    _folder, oracle, ours = folders(SPEECH)
    raw = Tokenizer.train(run.Characters(), ["abcdefghijklmnopqrstuvwxyz 0123456789.,;:!?-'ABCDEFGHIJKLMN"]).raw
    raw.add_special_tokens([AddedToken(name, special=True) for name in NAMES])
    ids = {raw.token_to_id(name) for name in NAMES}
    assert ids == set(range(min(ids), min(ids) + len(NAMES)))
    conventions = run.Conventions(
        pad=WORDS, ends=(WORDS,), start=(WORDS + 1,), never=(5, 6, WORDS + 6), never_first=(3, 4)
    )
    settings = oracle.generation_config
    settings.is_multilingual, settings.no_timestamps_token_id = True, MARKS["<|notimestamps|>"]
    settings.lang_to_id = {"<|en|>": MARKS["<|en|>"], "<|de|>": MARKS["<|de|>"]}
    settings.task_to_id = {task: MARKS[f"<|{task}|>"] for task in ("translate", "transcribe")}
    settings.suppress_tokens, settings.begin_suppress_tokens = [5, 6, WORDS + 6], [3, 4]
    settings.prev_sot_token_id, settings.max_initial_timestamp_index = MARKS["<|startofprev|>"], 50
    tokenizer = Tokenizer(raw, conventions)
    return oracle, Loaded(ours, tokenizer, None)


@pytest.mark.parametrize("latest", [50, 3])
@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_a_window_is_heard_as_there(listener, timed, seed, latest):
    oracle, loaded = listener
    oracle.generation_config.max_initial_timestamp_index = latest
    torch.manual_seed(seed)
    mels = torch.randn(1, 80, 60) * 2
    marks = replace(
        Marks.of(loaded.tokenizer),
        start=MARKS["<|startoftranscript|>"],
        languages={"en": MARKS["<|en|>"], "de": MARKS["<|de|>"]},
        tasks={task: MARKS[f"<|{task}|>"] for task in ("translate", "transcribe")},
        untimed=MARKS["<|notimestamps|>"],
        latest_start=latest,
    )
    prompt = marks.prompt("de", "transcribe", timed)
    found = _Listener(loaded.model, marks, prompt, timed, 12).hear(mels)
    # One window: the oracle's own generate would go on to hear what is left of it.
    kinds = transformers.generation.logits_process
    rules = [
        kinds.SuppressTokensAtBeginLogitsProcessor([3, 4], len(prompt)),
        kinds.SuppressTokensLogitsProcessor([5, 6, WORDS + 6]),
    ]
    if timed:
        rules.append(kinds.WhisperTimeStampLogitsProcessor(oracle.generation_config, begin_index=len(prompt)))
    with torch.no_grad():
        theirs = transformers.GenerationMixin.generate(
            oracle,
            input_features=mels,
            decoder_input_ids=torch.tensor([prompt]),
            logits_processor=rules,
            max_new_tokens=12,
            do_sample=False,
        )[0].tolist()
    theirs = theirs[len(prompt) :] if theirs[: len(prompt)] == prompt else theirs
    theirs = theirs[: theirs.index(WORDS)] if WORDS in theirs else theirs
    assert found == theirs


def test_recordings(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(tmp_path / "a.wav", np.stack([tone(0.5), tone(0.5)], 1), RATE)
    assert np.abs(open_sound(tmp_path / "a.wav") - tone(0.5)).max() < 1e-4
    soundfile.write(tmp_path / "b.flac", np.repeat(tone(0.5), 3), 3 * RATE)
    assert open_sound(tmp_path / "b.flac").shape == tone(0.5).shape
    (tmp_path / "c.wav").write_bytes(b"RIFF")
    with pytest.raises(DataError, match=r"c\.wav: cannot be read"):
        open_sound(tmp_path / "c.wav")
    with pytest.raises(DataError, match="no such file"):
        open_sound(tmp_path / "d.wav")
    (tmp_path / "f.wav").write_bytes((tmp_path / "a.wav").read_bytes()[:44])
    with pytest.raises(DataError, match="holds no sound"):
        open_sound(tmp_path / "f.wav")


def test_long_recordings_are_heard_window_by_window(listener):
    _, loaded = listener
    found = transcribe(loaded, tone(1.5), max_new_tokens=8)
    assert found.language in ("en", "de")
    assert all(0 <= segment.start <= segment.end <= 1.6 for segment in found.segments)
    assert found.text == "".join(segment.text for segment in found.segments).strip()
    plain = transcribe(loaded, tone(1.5), language="en", timed=False, max_new_tokens=8)
    assert plain.segments == ()
    assert transcribe(loaded, tone(0.1), language="en", timed=False, max_new_tokens=0).text == ""
    with pytest.raises(UserError, match="max_new_tokens: found -1; expected 0 or more"):
        transcribe(loaded, tone(0.1), language="en", max_new_tokens=-1)
    with pytest.raises(UserError, match='found "fr"'):
        transcribe(loaded, tone(0.1), language="fr")


def test_a_model_of_one_language_is_asked_for_no_other():
    marks = Marks(start=1, languages={}, tasks={}, untimed=2, end=3, never=(), never_first=(), latest_start=None)
    assert marks.prompt(None, "transcribe", True) == [1]
    for language, task in (("de", "transcribe"), (None, "translate")):
        with pytest.raises(UserError, match="was not taught several"):
            marks.prompt(language, task, True)
