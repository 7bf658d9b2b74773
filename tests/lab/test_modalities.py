"""Images, sounds and drawings of the lab: what goes in is what was meant, and what is kept can be opened."""

import json
import wave

import numpy as np
import pytest
import torch
from PIL import Image
from small import images, made_up, recordings, small

import pellucid as pl
from pellucid.cli.app import app
from pellucid.data.sounds import open_sound
from pellucid.errors import DataError, UserError
from pellucid.explorer.asked import Input
from pellucid.explorer.opening import open_session
from pellucid.inference.drawing import AUTOENCODER, codes_after, drawn, greys, load_coder, words_of
from pellucid.inference.predict import classify
from pellucid.inference.reading import read
from pellucid.inference.transcribe import Transcript, transcribe
from pellucid.lab import digits, run, spoken
from pellucid.lab.fitting import UNASKED
from pellucid.lab.report import REPORT
from pellucid.lab.running import MODEL, RESULT


def edits(found, said):
    """The plain twin: the fewest of all ways to make one of the other."""
    if not found or not said:
        return len(found) + len(said)
    return min(
        edits(found[1:], said) + 1,
        edits(found, said[1:]) + 1,
        edits(found[1:], said[1:]) + (found[0] != said[0]),
    )


def test_errors_are_the_fewest_edits():
    torch.manual_seed(0)
    for _ in range(60):
        found, said = (torch.randint(3, (int(torch.randint(6, ())),)).tolist() for _ in range(2))
        assert spoken.errors(found, said) == edits(found, said)


def test_held_out_recordings_are_in_no_lesson():
    train, test = spoken.load(made_up("fsdd"))
    for speaker in ("ann", "bob"):
        for digit in range(10):
            assert len(train.waves[speaker][digit]) == 1  # number 5
            assert len(test.waves[speaker][digit]) == 5  # numbers 0 to 4, by the set's convention
    assert set(train.of("ann").waves) == {"ann"}


def test_what_is_said_is_what_is_asked_for():
    """Each digit of the made-up recordings is a tone: it can be read off the spectrogram."""
    train, _ = spoken.load(made_up("fsdd"))
    torch.manual_seed(1)
    for _ in range(10):
        sound, said = train.of("ann").sequence(4, changed=False)
        assert 1 <= len(said) <= 4
        pieces, start = [], None
        loud = sound.abs() > 1e-4
        for i in range(0, len(loud), 160):
            if loud[i : i + 160].any() and start is None:
                start = i
            elif not loud[i : i + 160].any() and start is not None:
                pieces.append(sound[start:i])
                start = None
        heard = []
        for piece in pieces:
            spectrum = torch.fft.rfft(piece, 16_000).abs()
            heard.append(round((int(spectrum.argmax()) - 200) / 100))
        assert heard == said


def test_rows_of_the_listener():
    train, _ = spoken.load(made_up("fsdd"))
    rows = train.say(6, 3, changed=True)
    assert rows.tokens.mels.shape == (6, spoken.MELS, spoken.SECONDS * 50)
    for tokens, labels in zip(rows.tokens.tokens.tolist(), rows.labels.tolist(), strict=True):
        assert tokens[:2] == [spoken.START, spoken.UNTIMED]
        assert labels[0] == UNASKED  # Whisper's marks are given, not asked for
        asked = [label for label in labels if label != UNASKED]
        assert asked[-1] == spoken.END
        assert tokens[2 : len(asked) + 1] == asked[:-1]  # each digit is what the one before must foresee


def test_too_long_for_the_window_is_left_out():
    train, _ = spoken.load(made_up("fsdd"))
    for _ in range(20):
        sound, said = train.sequence(4, 0.7, changed=True)
        assert len(sound) <= 0.7 * 16_000
        assert said


@pytest.mark.parametrize("name", ["images", "mnist"])
def test_a_reader_of_images_is_kept(name, tmp_path, monkeypatch):
    run(small(name, monkeypatch), tmp_path, seeds=(0, 1), say=lambda line: None)
    loaded = pl.load(tmp_path / MODEL)
    found = classify(loaded, [loaded.images.drawn(torch.zeros(1, *loaded.images.size)).numpy()[..., 0]])
    assert found[0].label in set("0123456789")
    session = open_session(tmp_path / MODEL, text=str(tmp_path / MODEL / "example.png"))
    shown = session.run(Input(text="example.png"))
    assert len(shown.reading.pieces) == 1 + 16


def test_the_image_that_is_kept_is_the_one_that_was_read(tmp_path):
    image = (torch.arange(64.0) / 32 - 1).view(1, 8, 8)
    model = digits.reader()
    digits.save(tmp_path, model, image)
    loaded = pl.load(tmp_path)
    from PIL import Image

    assert (
        loaded.images([Image.open(tmp_path / "example.png")])[0] - image
    ).abs().max() <= 1.01 / 255  # half a step of a byte


def test_a_listener_is_kept(tmp_path, monkeypatch, capsys):
    run(small("sounds", monkeypatch), tmp_path, seeds=(0,), say=lambda line: None)
    folder = tmp_path / MODEL
    loaded = pl.load(folder)
    with wave.open(str(folder / "example.wav")) as opened:
        assert opened.getframerate() == 16_000
    sound = open_sound(folder / "example.wav")
    found = transcribe(loaded, sound)
    assert found.segments == ()  # a vocabulary without times is not asked for any
    assert set(found.text) <= set("0123456789 ")
    reader = loaded.sounds
    assert (reader.hop, reader.frames) == (spoken.HOP, 150)
    app(["transcribe", str(folder), str(folder / "example.wav"), "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out.splitlines()[0])["text"] == found.text
    monkeypatch.setattr("pellucid.inference.transcribe.transcribe", lambda *given, **how: Transcript("3 1 4", None))
    app(["transcribe", str(folder), str(folder / "example.wav")], standalone_mode=False)
    assert capsys.readouterr().out.strip() == "3 1 4"  # without times too


def test_what_draws_is_kept(tmp_path, monkeypatch, capsys):
    run(small("pictures", monkeypatch), tmp_path, seeds=(0,), say=lambda line: None)
    loaded, coder = pl.load(tmp_path / MODEL), load_coder(tmp_path / MODEL)
    session = open_session(tmp_path / MODEL)
    example, _ = session.example
    text = " ".join(example.split()[:3])
    assert text.startswith("a handwritten ")
    seen = session.run(Input(text=example)).reading.drawn
    assert (seen.rows, seen.columns, seen.before, len(seen.pieces)) == (4, 4, 3, 19)
    codes = torch.tensor([[int(piece.removeprefix("code")) for piece in seen.pieces[3:]]])
    assert torch.equal(seen.drawn[..., 0], greys(coder.decode(codes))[0])
    for without in (text, f"{example} code1", f"code1 {example}", " ".join(example.split()[:-1]), f"{example} a"):
        assert drawn(read(loaded, without), coder, loaded.tokenizer.vocab_size) is None

    def draw(*more):
        app(["draw", str(tmp_path / MODEL), text, "--out", str(tmp_path / "drawn.png"), *more], standalone_mode=False)
        return np.asarray(Image.open(tmp_path / "drawn.png"))

    strip = draw("--count", "3", "--size", "16")
    assert strip.shape == (16, 48)
    capsys.readouterr()
    assert (draw("--count", "3", "--size", "16", "--json") == strip).all()  # the seed's
    for nth, whole in enumerate(json.loads(capsys.readouterr().out)["whole"]):  # to be opened by the explorer
        seen = session.run(Input(text=whole)).reading.drawn
        assert (seen.drawn[..., 0].numpy() == strip[::2, 16 * nth : 16 * (nth + 1) : 2]).all()
    assert (draw("--count", "3", "--size", "16", "--seed", "1") != strip).any()
    for wrong, told in (("a handwriten six", "only a, handwritten, zero.*handwritten"), (" ", "no word")):
        with pytest.raises(UserError, match=f"(?s){told}"):
            words_of(wrong, loaded.tokenizer)
    with pytest.raises(UserError, match="text: 5 words; expected at most 4"):
        codes_after(loaded.model, words_of("a a a handwritten six", loaded.tokenizer))
    assert codes_after(loaded.model, words_of("a a handwritten six", loaded.tokenizer)).shape == (1, 16)
    (tmp_path / MODEL / "example.txt").write_bytes(b"a \xff seven")
    assert open_session(tmp_path / MODEL).example[0].startswith("a ")  # not text, and no reason to stop
    several = torch.cat([words_of(f"a handwritten {name}", loaded.tokenizer) for name in ("six", "two")])
    assert coder.decode(codes_after(loaded.model, several)).shape == (2, 1, 8, 8)
    (tmp_path / MODEL / AUTOENCODER).unlink()
    with pytest.raises(UserError, match=rf"no {AUTOENCODER}; expected the folder of a model that writes images"):
        draw()


def test_a_file_of_images_that_is_torn(tmp_path):
    for path in made_up("mnist").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    train, test = digits.load_mnist(tmp_path)
    assert train.images.shape == test.images.shape == (40, 1, 28, 28)
    assert train.labels.tolist() == [i % 10 for i in range(40)]
    path = tmp_path / "train-images-idx3-ubyte.gz"
    for torn in (path.read_bytes()[:50], b"", (tmp_path / "train-labels-idx1-ubyte.gz").read_bytes()):
        path.write_bytes(torn)
        with pytest.raises(DataError, match=r"cannot be read .*IDX"):
            digits.load_mnist(tmp_path)
    assert images().name != recordings().name


def test_what_cannot_be_had_does_not_keep_the_others_from_running(tmp_path, monkeypatch, capsys):
    small("heads", monkeypatch)

    def refused(name, mirror, progress):
        raise DataError("its home", "cannot be reached")

    monkeypatch.setattr("pellucid.lab.running.get", refused)
    with pytest.raises(UserError, match=r"could not be run: mnist \(its home: cannot be reached"):
        app(["lab", "mnist", "heads", "--seeds", "1", "--out", str(tmp_path)], standalone_mode=False)
    assert "left out: its home" in capsys.readouterr().out
    assert (tmp_path / "heads" / RESULT).exists()
    assert (tmp_path / REPORT).exists()
    for names in (["mnist"], ["mnist", "sounds"]):
        with pytest.raises(UserError, match="cannot be reached"):
            app(["lab", *names, "--out", str(tmp_path / "none")], standalone_mode=False)
