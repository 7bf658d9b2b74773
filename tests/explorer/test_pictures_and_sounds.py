"""Models that read pictures and sounds: positions stand for the cells that are drawn, and files come by name."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
import soundfile
import torch
from exploring import serve
from fastapi.testclient import TestClient
from PIL import Image as image_library

from pellucid.cli.explore import explore
from pellucid.config import model as config
from pellucid.config.parts import Attention, FeedForward, Learned, Stack
from pellucid.config.run import Conventions
from pellucid.data.sounds import SoundReader
from pellucid.errors import UserError
from pellucid.explorer.app import create_app
from pellucid.explorer.asked import Input
from pellucid.explorer.export import export_html
from pellucid.explorer.opening import open_session
from pellucid.explorer.session import MOST_SHOWN
from pellucid.inference.drawing import CODES, Autoencoder, save_coder
from pellucid.lab.keeping import save, words
from pellucid.lab.makers import decoder
from pellucid.lab.spoken import HOP, MELS, Listener
from pellucid.models.build import build

SIDE, PATCH = 12, 4
RATE = 16_000


def seeing(patch=PATCH):
    torch.manual_seed(0)
    stack = Stack(
        d_model=16, num_layers=2, attention=Attention(num_heads=2), feed_forward=FeedForward(d_ff=24),
        positions=Learned(max_length=(SIDE // patch) ** 2 + 1), placement="pre",
    )  # fmt: skip
    front = config.Patches(image_size=SIDE, patch_size=patch, channels=3)
    return build(config.Encoder(front=front, stack=stack, head=config.Classification(labels=("cat", "dog")))).eval()


def picture(seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    return image_library.fromarray(pixels)


def png(image):
    written = io.BytesIO()
    image.save(written, format="PNG")
    return written.getvalue()


def tone(seconds=0.8, pitch=440.0):
    return (0.3 * np.sin(2 * np.pi * pitch * np.arange(int(seconds * RATE)) / RATE)).astype(np.float32)


def wav(wave):
    written = io.BytesIO()
    soundfile.write(written, wave, RATE, format="WAV")
    return written.getvalue()


@pytest.fixture(scope="module")
def listening(tmp_path_factory):
    """The folder of a model that listens."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("listener")
    Listener(width=16, encoder=1, decoder=1, heads=2).save(folder, torch.from_numpy(tone()))
    return folder


def drawn(seen):
    return np.asarray(image_library.open(io.BytesIO(base64.b64decode(seen["png"].partition(",")[2]))))


def client_of(session):
    return TestClient(create_app(session))


def ran(client, text, **more):
    return client.post("/api/passes", json={"text": text, **more})


# ---- pictures ----------------------------------------------------------------------------------


def test_a_picture_is_drawn_as_it_is_read(tmp_path):
    picture().save(tmp_path / "cat.png")
    session = open_session(seeing(), text=str(tmp_path / "cat.png"))
    client = client_of(session)
    told = client.get("/api/session").json()
    assert told["models"][0]["reads"] == "picture"
    assert told["models"][0]["vocabulary"] is None
    assert told["example"]["text"] == "cat.png"
    made = ran(client, "cat.png").json()
    seen = made["reads"]["seen"]
    assert (seen["rows"], seen["columns"], seen["before"]) == (3, 3, 1)
    assert np.array_equal(drawn(seen), np.asarray(picture()))
    assert made["reads"]["pieces"] == ["[class]", *(f"{row},{column}" for row in (1, 2, 3) for column in (1, 2, 3))]
    assert made["reads"]["ids"] == list(range(10))


def test_each_position_stands_for_its_cell():
    session = open_session(seeing())
    plain = session.run(Input(text=session.show("plain", png(picture()))))
    for cell in range(9):
        row, column = divmod(cell, 3)
        changed = np.asarray(picture()).copy()
        changed[row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH] ^= 255
        other = session.run(Input(text=session.show(f"{cell}", png(image_library.fromarray(changed)))))
        a, b = (held.value("embedding.patches")[0] for held in (plain, other))
        assert [i for i in range(9) if not torch.equal(a[i], b[i])] == [cell]
        assert plain.reading.pieces[1 + cell] == f"{row + 1},{column + 1}"


def test_files_are_taken_by_name_and_bounded():
    session = open_session(seeing())
    client = client_of(session)
    first = client.post("/api/shown", params={"name": "a.png"}, content=png(picture(1))).json()["name"]
    again = client.post("/api/shown", params={"name": "a.png"}, content=png(picture(1))).json()["name"]
    other = client.post("/api/shown", params={"name": "a.png"}, content=png(picture(2))).json()["name"]
    assert first == again == "a.png"
    assert other != first  # a name stands for one file, or a pass would change under its id
    assert ran(client, first).json()["id"] != ran(client, other).json()["id"]
    refused = client.post("/api/shown", params={"name": "b.png"}, content=b"\x89PNG torn")
    assert refused.status_code == 422
    assert refused.json()["error"]["where"] == "b.png"
    assert client.post("/api/shown", params={"name": "c.png"}, content=bytes(17 << 20)).status_code == 413
    missing = ran(client, "b.png")
    assert missing.status_code == 422
    assert missing.json()["error"]["found"] == 'there is none called "b.png"'
    assert ran(client, first, ids={"reads": [1]}).status_code == 422
    assert ran(client, first, padding={"reads": 1}).status_code == 422
    assert ran(client, first, target="x").status_code == 422
    for i in range(MOST_SHOWN):
        session.show(f"{i}", png(picture(i)))
    assert ran(client, first).status_code == 200  # its pass is kept
    assert ran(client, first, edits=[{"kind": "zero", "name": "embedding.out"}]).status_code == 422


def test_a_name_is_another_files_in_another_session():
    ids = []
    for seed in (1, 1, 2):
        session = open_session(seeing())
        session.show("a.png", png(picture(seed)))
        ids.append(session.run(Input(text="a.png")).id)
    assert ids[0] == ids[1] != ids[2]  # a browser keeps answers under them
    towards = {"kind": "steer", "name": "logits", "towards": {"text": "b.png"}, "away": {"text": "c.png"}}
    assert Input.model_validate({"text": "a.png", "edits": [towards]}).texts == ["a.png", "b.png", "c.png"]


def test_what_reads_text_takes_no_file():
    client = client_of(open_session())
    refused = client.post("/api/shown", params={"name": "a.png"}, content=png(picture()))
    assert refused.status_code == 422
    assert "this model reads text" in refused.text


def test_models_that_read_different_things_are_not_compared(listening):
    with pytest.raises(UserError, match="reads sound; expected a model that reads text too"):
        open_session(other=listening)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.png.*cannot be read"):
        open_session(seeing(), text=str(tmp_path / "nowhere.png"))


def test_a_page_of_a_picture_needs_no_server(tmp_path):
    path = export_html(open_session(seeing()), tmp_path / "page.html")
    assert "data:image/png;base64," in path.read_text()


def test_the_command_saves_a_page_of_a_picture(tmp_path, monkeypatch):
    file, page = tmp_path / "cat.png", tmp_path / "page.html"
    picture().save(file)
    session = open_session(seeing(), text=str(file))
    monkeypatch.setattr("pellucid.explorer.opening.open_session", lambda *given, **more: session)
    explore(text=str(file), export=page)  # the session knows the file by its name alone
    assert "data:image/png;base64," in page.read_text()


# ---- sounds ------------------------------------------------------------------------------------


def test_a_sound_is_drawn_as_it_is_read(listening):
    session = open_session(listening, text=str(listening / "example.wav"))
    client = client_of(session)
    made = ran(client, "example.wav").json()
    seen = made["reads"]["seen"]
    assert (seen["rows"], seen["columns"], seen["before"]) == (1, 75, 0)
    assert seen["seconds"] == pytest.approx(0.8, abs=0.01)
    assert made["reads"]["pieces"][:3] == ["0.00s", "0.04s", "0.08s"]
    mels = SoundReader(MELS, 150, HOP)([tone()])[0]
    assert np.corrcoef(drawn(seen)[::-1].flatten(), mels.flatten())[0, 1] > 0.999  # low tones at the bottom
    assert made["writes"]["pieces"][:2] == ["<|startoftranscript|>", "<|notimestamps|>"]
    weights = next(t for t in made["tensors"] if t["name"] == "decoder.blocks.0.cross_attention.weights")
    assert weights["shape"] == [1, 2, len(made["writes"]["pieces"]), 75]
    told = ran(client, "example.wav", target="3 1 4").json()
    assert told["writes"]["pieces"][2:] == ["3", "1", "4"]


def test_a_position_stands_for_its_moment(listening):
    session = open_session(listening)
    quiet = np.zeros(3 * RATE, dtype=np.float32)
    click = quiet.copy()
    click[RATE : RATE + 160] = 0.5  # at one second
    waves = {"quiet": quiet + 1e-4, "click": click + 1e-4}
    a, b = (session.run(Input(text=session.show(name, wav(wave)))) for name, wave in waves.items())
    moved = (a.value("encoder.embedding.narrow_pre") - b.value("encoder.embedding.narrow_pre")).abs().sum(dim=(0, 1))
    loudest = int(moved.argmax()) // 2
    assert abs(loudest - a.reading.pieces.index("1.00s")) <= 2


# ---- images that a text stands for -------------------------------------------------------------


@pytest.fixture(scope="module")
def drawing(tmp_path_factory):
    """The folder of a decoder that writes codes after words, and of what makes pixels of them."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("drawing")
    names = ("a", "seven", *(f"code{i}" for i in range(CODES)))
    save(folder, decoder(len(names), width=16, positions=Learned(max_length=20)), words(names, (), Conventions(pad=0)))
    save_coder(folder, Autoencoder())
    (folder / "example.txt").write_text(" ".join(("a", "seven", *(f"code{4 * i}" for i in range(16)))))
    return folder


def test_what_a_text_ends_in_is_drawn(drawing):
    session = open_session(drawing)
    client = client_of(session)
    made = ran(client, session.example[0]).json()["reads"]
    assert (made["seen"]["rows"], made["seen"]["columns"], made["seen"]["before"]) == (4, 4, 2)
    assert made["pieces"][:3] == ["a", "seven", "code0"]
    assert made["ids"] == [0, 1, *range(2, 66, 4)]  # a text all the same
    before = drawn(made["seen"])
    other = ran(client, session.example[0].replace("code60", "code61")).json()["reads"]
    changed = np.argwhere(drawn(other["seen"]) != before)
    assert changed.min() >= 3  # the last code is the last corner; its neighbours' pixels it reaches
    assert "seen" not in ran(client, "a seven").json()["reads"]


@pytest.mark.slow
@pytest.mark.browser
def test_the_page_of_a_text_that_is_drawn(page, drawing, axe):
    from playwright.sync_api import expect

    url, server = serve(create_app(open_session(drawing)))
    try:
        page.goto(f"{url}#1?view=tokens")
        expect(page.get_by_test_id("pieces")).to_contain_text("code60")
        page.get_by_test_id("picture").press("End")
        expect(page.get_by_test_id("facts")).to_contain_text("Position 17, piece ‘code60’")
        axe(page)
        page.goto(f"{url}#1?view=attention&query=17")
        expect(page.get_by_test_id("over").get_by_role("heading")).to_contain_text("code60")
        page.get_by_test_id("text").fill("a seven")
        page.get_by_test_id("run").click()
        expect(page.get_by_test_id("over")).to_have_count(0)
    finally:
        server.should_exit = True


# ---- in a browser ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.browser
def test_the_page_of_a_picture(page, axe):
    from playwright.sync_api import expect

    session = open_session(seeing())
    url, server = serve(create_app(session))
    try:
        page.goto(f"{url}#1?view=attention")
        over = page.get_by_test_id("over")
        expect(over).to_contain_text("[class]")
        cells = page.get_by_test_id("picture")
        box = cells.bounding_box()
        cells.click(position={"x": box["width"] / 2, "y": box["height"] / 6})  # first row, second column
        expect(over.get_by_role("heading")).to_contain_text("1,2")
        assert "query=2" in page.url
        cells.press("ArrowDown")
        expect(over.get_by_role("heading")).to_contain_text("2,2")
        cells.press("Escape")
        expect(over.get_by_role("heading")).to_contain_text("[class]")
        page.get_by_test_id("file").set_input_files(
            {"name": "new.png", "mimeType": "image/png", "buffer": png(picture(3))}
        )
        expect(page.get_by_test_id("file-name")).to_have_text("new.png")
        axe(page)
        page.goto(f"{url}#1?view=tokens")
        expect(page.get_by_test_id("no-tokens")).to_contain_text("3 × 3 patches")
        expect(page.get_by_test_id("sum-column")).to_be_visible()
        axe(page)
    finally:
        server.should_exit = True


@pytest.mark.slow
@pytest.mark.browser
def test_what_is_printed_over_a_picture_is_exact(page):
    """Also where the map is so large that it is drawn of eight bits."""
    from playwright.sync_api import expect

    model = seeing(patch=1)
    with torch.no_grad():
        model.blocks[0].self_attention.query.weight.mul_(100)  # weights of many sizes
    session = open_session(model)
    held = session.run(Input(text=session.example[0]))
    weights = held.value("blocks.0.self_attention.weights")[0, 0]
    url, server = serve(create_app(session))
    try:
        for place in (3, 77, 140):
            page.goto(f"{url}#1?view=attention&query={place}")
            over = page.get_by_test_id("over")
            expect(over.get_by_role("heading")).to_contain_text(held.reading.pieces[place])
            told = page.get_by_test_id("picture").get_attribute("aria-valuetext").rpartition(", ")[2]
            assert float(told) == pytest.approx(weights[place, place].item(), rel=5e-3)
            most = re.search(r"the most is ([\d.]+\d)", over.inner_text()).group(1)
            assert float(most) == pytest.approx(weights[place].max().item(), rel=5e-3)
    finally:
        server.should_exit = True


@pytest.mark.slow
@pytest.mark.browser
def test_the_page_of_a_sound(page, listening, axe):
    from playwright.sync_api import expect

    session = open_session(listening, text=str(listening / "example.wav"))
    url, server = serve(create_app(session))
    try:
        page.goto(f"{url}#1?view=attention&tower=decoder.&kind=cross")
        over = page.get_by_test_id("over")
        expect(over).to_contain_text("in the sound")
        page.get_by_test_id("lookers").get_by_role("option").nth(1).click()
        expect(over.get_by_role("heading")).to_contain_text("<|notimestamps|>")
        page.get_by_test_id("target").fill("3 1 4")
        page.get_by_test_id("run").click()
        expect(page.get_by_test_id("lookers")).to_contain_text("4")
        axe(page)
    finally:
        server.should_exit = True
