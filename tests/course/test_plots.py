"""Plots of benchmark pages: under each table of speeds, of the numbers that stand in it."""

import plots

PAGE = """# Speed

| candidate | tokens/s | of the peak |
|---|---|---|
| pellucid | 4,490 (4,066–4,872) | 78% |
| another | 2,220.5 | 40% |
| missing | not installed | |

| setting | what |
|---|---|
| a | 1 |
| b | 2 |
"""


def test_a_table_of_speeds_is_plotted_and_another_is_not():
    text, found = plots.plotted(PAGE, "speed")
    assert list(found) == ["speed-1.svg"]
    assert text.index("| missing |") < text.index("(speed-1.svg)") < text.index("| setting |")
    assert text.replace("\n\n![tokens/s of each row](speed-1.svg)", "") == PAGE
    assert found["speed-1.svg"].startswith(b"<?xml")
    assert plots.plotted(PAGE, "speed")[1] == found  # the same bytes again


def test_bars_are_the_numbers_of_the_table():
    (table,) = [block for block in PAGE.split("\n\n") if "candidate" in block]
    assert list(plots._bars(table)) == [
        plots.Bar("pellucid", 4490, 4066, 4872),
        plots.Bar("another", 2220.5, 2220.5, 2220.5),
    ]
