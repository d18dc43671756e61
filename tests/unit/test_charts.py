import re
import xml.etree.ElementTree as ElementTree

from sluice import charts


def test_charts_survive_empty_and_infinite_values() -> None:
    chart = charts.Chart("t", "x", "y", logarithmic=True)
    for drawn in (
        charts.lines(chart, []),
        charts.lines(chart, [charts.Series("s", [(1, float("inf")), (2, 0.0), (3, 5.0)])]),
        charts.bars(charts.Chart("t", "x", "y"), {}),
        charts.bars(charts.Chart("t & u", "x", "y", level=("l", 2.0)), {"a<b": 3.0}),
    ):
        ElementTree.fromstring(drawn)


def test_a_legend_aside_leaves_the_lines_alone() -> None:
    series = [charts.Series("one", [(0, 0), (10, 1)]), charts.Series("two", [(0, 1), (10, 0)])]
    drawn = charts.lines(charts.Chart("t", "x", "y", aside=True), series)
    ElementTree.fromstring(drawn)
    ends = [float(path.split()[-1].split(",")[0]) for path in re.findall(r'polyline points="([^"]*)"', drawn)]
    names = [float(x) for x in re.findall(r'<text x="([\d.]+)"[^>]*>(?:one|two)<', drawn)]
    assert len(ends) == len(names) == 2
    assert max(ends) < min(names)


def test_points_without_marks_are_a_line_alone() -> None:
    points = [(number / 100, number / 100) for number in range(100)]
    assert "<circle" in charts.lines(charts.Chart("t", "x", "y"), [charts.Series("s", points)])
    assert "<circle" not in charts.lines(charts.Chart("t", "x", "y", marks=False), [charts.Series("s", points)])
