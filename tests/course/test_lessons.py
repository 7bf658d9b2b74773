"""The course: every lesson runs, and its judge refuses what stands there and accepts the solution."""

import re

import lessons
import nbformat
import pytest

LESSONS = lessons.lessons()


@pytest.mark.slow
@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_runs_and_its_judge_can_tell(lesson):
    begun, solved = lessons.verdicts(lessons.executed(lesson))
    assert begun.startswith("not yet: ")
    assert solved.splitlines()[-1] == "right"


WINDOWS = (
    "(key <= query) & (key // W == query // W)",
    "(key <= query) & (query - key < W) & (query - key != 2)",
    "(key <= query) & (query - key < W) & (T > 3)",
    "((key <= query) & (query - key < W))[None]",
    "key <= query",
    "(key <= query) & nowhere",
)


@pytest.mark.slow
def test_the_judge_of_the_mask_refuses_what_hides_the_future_and_is_no_window(capsys):
    lesson = {}
    exec((lessons.COURSE / "06-the-mask.py").read_text(), lesson)
    for allowed in WINDOWS:
        exec(
            f"def window(T, W=4):\n    query, key = torch.arange(T)[:, None], torch.arange(T)\n    return {allowed}",
            lesson,
        )
        capsys.readouterr()
        lesson["judge"](lesson["window"])
        assert capsys.readouterr().out.startswith("not yet: "), allowed


def test_there_are_twenty_in_one_row_of_numbers():
    assert [int(path.stem[:2]) for path in LESSONS] == list(range(1, 21))


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_has_a_title_an_exercise_and_a_solution(lesson):
    text = lesson.read_text()
    assert re.search(rf"^# # {int(lesson.stem[:2])} · ", text, re.MULTILINE)
    assert text.count("# your turn") == 1
    assert 'tags=["solution"]' in text
    assert "# ## Further" in text
    assert ("import Figure" in text) == (
        "# %matplotlib inline" in text
    )  # else a notebook names it and does not show it


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)
def test_the_course_lists_it_and_the_site_leads_to_it(lesson):
    assert f"({lesson.name})" in (lessons.COURSE / "README.md").read_text()
    assert f"docs/course/{lesson.stem}.md" in (lessons.ROOT / "mkdocs.yml").read_text()


def cell(kind, source, outputs=(), tags=()):
    made = nbformat.v4.new_code_cell(source) if kind == "code" else nbformat.v4.new_markdown_cell(source)
    if kind == "code":
        made.outputs = list(outputs)
        made.metadata["tags"] = list(tags)
    return made


def test_a_page_shows_what_cells_printed_and_folds_the_solution():
    stream, later = (nbformat.v4.new_output("stream", text=text) for text in ("\x1b[31mtwo\x1b[0m\n", "three\n"))
    drawn = nbformat.v4.new_output("display_data", data={"image/png": "aGk=", "text/plain": "<Figure>"})
    cells = [
        cell("markdown", "# 3 · Title\n\nProse with $x$."),
        cell("code", "print('two')", [stream, later]),
        cell("code", "figure", [drawn]),
        cell("markdown", "## Solution"),
        cell("code", "answer = 1", tags=["solution"]),
    ]
    text, pictures = lessons.page(nbformat.v4.new_notebook(cells=cells), "03-title")
    assert text.startswith("# 3 · Title\n\n[Download the notebook](03-title.ipynb)")
    assert "```{ .text .output }\ntwo\nthree\n```" in text
    assert pictures == {"03-title-1.png": b"hi"}
    assert "(03-title-1.png)" in text
    assert "<Figure>" not in text
    assert '??? success "Solution"\n\n    ```{ .python }\n    answer = 1' in text
    assert "## Solution" not in text
