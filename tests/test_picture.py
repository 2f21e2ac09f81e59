"""A report as a picture: well-formed SVG, whatever was reported, and true to the times."""

import math
import re
from xml.etree import ElementTree

import hypothesis
import pytest
from hypothesis import strategies as st

from trio_run import ActorReport, Cause, Report

SVG = "{http://www.w3.org/2000/svg}"


def report(*actors: ActorReport, duration: float = 10.0, began: float = 100.0) -> Report:
    return Report(Cause(reason="SIGTERM received"), duration, 0, actors, "shop", began)


def parsed(svg: str) -> ElementTree.Element:
    root = ElementTree.fromstring(svg)
    assert root.tag == f"{SVG}svg"
    return root


def bars(root: ElementTree.Element) -> list[tuple[str, float, float]]:
    return [
        (rect.get("class", ""), float(rect.get("x", "")), float(rect.get("width", "")))
        for rect in root.iter(f"{SVG}rect")
    ]


def texts(root: ElementTree.Element) -> list[str]:
    return [text.text or "" for text in root.iter(f"{SVG}text")]


def test_bars_are_as_long_as_the_times() -> None:
    told = report(
        ActorReport("api", "returned", 0, 100, 105, detail="12 drained, 0 cut"),
        ActorReport("store", "cut", 0, 105, 110),
        ActorReport("startup", "returned", 0, None, 3),
        ActorReport("late", "never started", None, None, None),
        ActorReport("gone", "failed", 0, 110, 99),
    )
    root = parsed(told.svg())
    works, stops, also_works, cut, ends_before = bars(root)
    assert [bar[0] for bar in (works, stops, also_works, cut, ends_before)] == [
        *("works", "stops", "works", "cut", "works")
    ]
    assert stops[2] == pytest.approx(cut[2], abs=0.2)
    assert stops[1] + stops[2] == pytest.approx(cut[1], abs=0.2)
    assert also_works[2] - works[2] == pytest.approx(stops[2], abs=0.2)
    assert ends_before[1] == works[1]
    said = texts(root)
    assert said[0] == "shop stopped in 10.00 s: SIGTERM received"
    assert said[1] == "the stop begins"
    assert said[2:4] == ["api", "returned"]
    assert [text for text in said if text.endswith(" s")] == [
        "0 s",
        "2 s",
        "4 s",
        "6 s",
        "8 s",
        "10 s",
    ]
    [title, *_] = [title.text for title in root.iter(f"{SVG}title")]
    assert title == "api: returned, 12 drained, 0 cut"


def test_one_that_never_got_ready_is_drawn_from_when_it_was_interrupted() -> None:
    told = report(
        ActorReport("starts", "cut", None, 100, 110), ActorReport("api", "returned", 0, 100, 110)
    )
    cut, _works, stops = bars(parsed(told.svg()))
    assert (cut[0], stops[0]) == ("cut", "stops")
    assert cut[1:] == stops[1:]


def test_what_is_long_or_wide_is_shortened_to_the_frame() -> None:
    why = "the disk " + "is full, and so is the other one, " * 20
    wide = "\N{CJK UNIFIED IDEOGRAPH-6F22}"
    told = Report(
        Cause(reason=why),
        *(10.0, 0, (ActorReport(wide * 18, "returned", 0, 100, 110),)),
        *("shop", 100.0),
    )
    svg = told.svg(marks={0.5: why, 9.0: why})
    said = texts(parsed(svg))
    assert said[0].startswith("shop stopped in 10.00 s: the disk is full")
    assert said[0].endswith("...")
    assert len(said[0]) < 105
    assert [text for text in said if wide in text] == [wide * 15 + "..."]
    marks = [text for text in said if text.startswith("the disk")]
    assert all(text.endswith("...") and len(text) < 105 for text in marks)
    assert len(marks) == 2
    assert parsed(svg).get("aria-label") == f"shop stopped in 10.00 s: {why.strip()}"


def test_letters_that_are_wide_have_room() -> None:
    def starts(name: str) -> float:
        [(_, x, _)] = bars(parsed(report(ActorReport(name, "returned", 99, None, 110)).svg()))
        return x

    assert starts("WWWW") > starts("ABCD") > starts("abcd")


@pytest.mark.parametrize("moment", [math.inf, -math.inf, math.nan, -1.0])
def test_a_moment_that_is_none_is_refused(moment: float) -> None:
    with pytest.raises(ValueError, match="a mark is at a number of seconds from 0 on, not at "):
        report().svg(marks={moment: "never"})


def test_moments_may_be_marked() -> None:
    root = parsed(report(ActorReport("a", "returned", 0, 100, 105)).svg(marks={20.0: "the grace"}))
    marks = [line for line in root.iter(f"{SVG}line") if line.get("class") == "mark"]
    assert len(marks) == 1
    assert "the grace" in texts(root)
    assert "20 s" in texts(root)  # the scale reaches as far


def test_it_is_light_or_dark_by_itself_and_asks_for_nothing() -> None:
    svg = report(ActorReport("a", "returned", 0, 100, 105)).svg()
    assert "@media (prefers-color-scheme: dark)" in svg
    assert svg.count("http") == 1  # the name of SVG
    assert "script" not in svg


def test_of_very_many_actors_those_that_took_longest_have_a_row() -> None:
    many = [ActorReport(f"a{number}", "returned", 0, 100, 101) for number in range(1000)]
    root = parsed(report(*many).svg())
    assert len(list(root.iter(f"{SVG}rect"))) == 200
    assert texts(root)[-1] == "and 900 more: 900 returned"


def test_a_stop_that_takes_no_time_of_a_group_without_actors_has_a_picture() -> None:
    root = parsed(report(duration=0.0, began=0.0).svg())
    assert texts(root)[0] == "shop stopped in 0.00 s: SIGTERM received"


times = st.none() | st.floats(0, 1e9)


@hypothesis.given(
    st.lists(
        st.builds(
            ActorReport,
            st.text(),
            st.sampled_from(["returned", "failed", "cut", "never started"]),
            *(times, times, times),
            detail=st.text(),
        ),
        max_size=5,
    ),
    st.floats(0, 1e7),
    st.floats(0, 1e9),
    st.dictionaries(st.floats(0, 1e6), st.text(), max_size=3),
)
def test_whatever_is_reported_it_is_well_formed_and_within_its_frame(
    actors: list[ActorReport], duration: float, began: float, marks: dict[float, str]
) -> None:
    svg = report(*actors, duration=duration, began=began).svg(marks=marks)
    for kind, x, width in bars(parsed(svg)):
        assert kind in ("works", "stops", "cut")
        assert math.isfinite(x)
        assert width >= 2
    assert not re.search("nan|inf\\b", " ".join(re.findall(r'[xy]\d?="([^"]*)"', svg)))
