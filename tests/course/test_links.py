"""Dead links of the site: what is found, and what is not mistaken for one."""

import gather
import hooks
import links


def site(tmp_path, **pages):
    for name, text in pages.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "index.html").write_text(text)
    return tmp_path


def test_a_link_to_a_page_a_place_or_another_site_is_alive(tmp_path):
    alive = (
        '<a href="../b/#here">b</a><a href="#top" id="top"></a><a href="https://example.org/x">x</a><img src="../b/">'
    )
    assert links.dead(site(tmp_path, a=alive, b='<h2 id="here">')) == []


def test_what_leads_nowhere_is_named_with_its_page(tmp_path):
    dead = '<a href="../c/">c</a><a href="../b/#gone">b</a><img src="x.png"><a href="../../outside">o</a>'
    found = links.dead(site(tmp_path, a=dead, b='<h2 id="here">'))
    assert sorted(found) == [f"a/index.html: {x}" for x in ("../../outside", "../b/#gone", "../c/", "x.png")]


def test_links_of_the_repository_lead_somewhere_in_the_site(tmp_path, monkeypatch):
    pages, root = tmp_path / "pages", tmp_path / "root"
    for name in ("docs/course/01-a.md", "docs/decisions/index.md", "docs/guide.md"):
        (pages / name).parent.mkdir(parents=True, exist_ok=True)
        (pages / name).write_text("x")
    (root / "examples").mkdir(parents=True)
    (root / "examples" / "short.py").write_text("pass")
    monkeypatch.setattr(gather, "PAGES", pages)
    monkeypatch.setattr(gather, "ROOT", root)

    def led(text):
        return gather.LINK.sub(lambda found: gather._lead(pages / "docs" / "guide.md", found), text)

    assert led("[a](course/01-a.py)") == "[a](course/01-a.md)"
    assert led("[d](decisions)") == "[d](decisions/index.md)"
    assert led("[e](../examples/short.py)") == "[e](../examples/short.py)"
    assert (pages / "examples" / "short.py").read_text() == "pass"
    assert led("[w](https://example.org/a.py)") == "[w](https://example.org/a.py)"


def test_formulas_become_mathml():
    shown = hooks.on_page_content(r'<p><span class="arithmatex">\(s \le t\)</span></p>')
    assert "<math" in shown
    assert 'display="inline"' in shown
    assert "arithmatex" not in shown
    assert 'display="block"' in hooks.on_page_content(r'<div class="arithmatex">\[x &lt; 1\]</div>')
