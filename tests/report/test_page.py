import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from kalm.envs.clevr.published import PUBLISHED
from kalm.evaluation.effects import Effect
from kalm.evaluation.grounding import Inspection
from kalm.evaluation.imagined import Quality
from kalm.evaluation.results import Episode, Label
from kalm.evaluation.statistics import rate
from kalm.report.document import Code, Document, DocumentSection, html, to_markdown
from kalm.report.figures import Curve
from kalm.report.films import Film, Filmstrip
from kalm.report.page import ReportData, compose, headline, write_report
from kalm.report.scores import scores
from kalm.report.tables import Table

NASTY = '<script>alert("x")</script> & `code` | *bold*'


def data_of(policy):
    return {"": "plain", "KALM": "kalm"}.get(kind := policy.partition("+")[2], kind)


def episodes(policy, won, played=100, seeds=(0, 1)):
    return [
        Episode(policy, "bc", data_of(policy), seed, level, "w", i % 4 == 0, NASTY, i, i < won, 3, 1.0)
        for level in ("seen", "rephrase", "easy", "hard")
        for seed in seeds
        for i in range(played)
    ]


def full():
    frame = np.zeros((16, 16, 3), dtype=np.uint8)
    off = {"off_table": (rate(1, 9), 0.1)}
    quality = Quality(9, 2.0, rate(3, 9), rate(1, 9), rate(2, 9), off, {"x": 1.0})
    return ReportData(
        title=NASTY,
        published=PUBLISHED,
        rows=episodes("BC", 10) + episodes("BC+KALM", 30),
        imagined={"easy": quality},
        real={"seen": quality},
        grounding=[{"step": 1, "train/text": 2.0}, {"step": 2, "train/text": 1.0, "match/seen": 0.5}],
        inspection=Inspection({"easy": quality}, {}, {"seen_prompt": {"all": rate(3, 9)}}, {}),
        effects=[Effect(NASTY, 0, "match/easy", 0.5, 10)],
        training=[Curve(Label("BC", "bc", "plain", 0), [{"step": 1, "loss": 1.0}])],
        filmstrips=[Filmstrip(NASTY, "easy", (Film(NASTY, (frame,), (0,), True),))],
        config={"env": "clevr", "note": NASTY},
        versions={"kalm": "0.1.0"},
        timings={"collect": 61.2},
        commands=[f"kalm run {NASTY}"],
    )


class Seen(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.tags, self.links, self.text, self.open = [], [], "", []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in ("meta", "img", "source"):
            self.open.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "srcset", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    assert write_report(folder, full()) == folder / "report.html"
    return folder


def test_page_stands_alone_and_is_escaped(report):
    page = Seen((report / "report.html").read_text("utf-8"))
    assert page.open == [] and "script" not in page.tags and "link" not in page.tags
    assert all(link.startswith(("data:image/", "#")) for link in page.links)
    assert page.tags.count("img") == 6 and page.tags.count("source") == 5  # the filmstrip serves both themes
    assert NASTY in page.text
    assert "url(" not in (report / "report.html").read_text("utf-8")


def test_page_links_lead_to_sections(report):
    text = (report / "report.html").read_text("utf-8")
    anchors = re.findall(r'href="#([^"]+)"', text)
    assert anchors and all(f'<section id="{anchor}">' in text for anchor in anchors)


def test_markdown_pictures_are_beside_it(report):
    text = (report / "report.md").read_text("utf-8")
    named = re.findall(r"\]\((figures/[^)]+)\)", text)
    assert len(named) == 6 and all((report / name).read_bytes().startswith(b"\x89PNG") for name in named)
    assert "<script>" not in text.split("```")[0]


def test_directions_have_tables_and_figures_where_they_were_measured():
    data = full()
    measured = replace(data.imagined["easy"], goal_first=rate(5, 8), first_by_direction={"left": rate(5, 8)})
    rows = [replace(row, first="goal", direction="left", family="hand") for row in data.rows]
    document = compose(
        replace(data, rows=rows, imagined={"easy": measured}, refined={"raw": {"easy": measured.to_json()}})
    )
    names = [picture.name for picture in document.pictures()]
    assert {"understood", "directions"} <= set(names)
    told = [block.note for part in document.sections for block in part.blocks if isinstance(block, Table)]
    assert any("the first tries tell" in note for note in told), "kept rollouts tell nothing of understanding"
    assert not {"understood", "directions"} & {picture.name for picture in compose(data).pictures()}
    tables = [block for part in document.sections for block in part.blocks if isinstance(block, Table)]
    by_direction = [table for table in tables if table.title.startswith("Goal first by direction")]
    assert [row[:2] for row in by_direction[0].rows[:2]] == [
        ("seen", "direction: left"),
        ("seen", "words: hand"),
    ]
    assert by_direction[1].rows[1][0] == "direction: left"
    assert any("BC, goal first" in row for table in tables for row in table.rows)


def test_what_the_filter_keeps_without_understanding_stands_beside():
    own, blind = (
        {"match_rate_by_level": {"hard": share}, "rollouts_asked": 9, "rollouts_kept": kept}
        for share, kept in ((0.5, 8), (0.25, 3))
    )
    data = replace(full(), refined=own, shuffled=blind)
    tables = [block for part in compose(data).sections for block in part.blocks if isinstance(block, Table)]
    (table,) = [table for table in tables if table.title.startswith("What the filter keeps")]
    assert [row[1:] for row in table.rows] == [("50.0", "9", "8"), ("25.0", "9", "3")]


def test_the_headline_says_what_the_language_model_adds():
    rows = episodes("BC", 10) + episodes("BC+KALM", 30) + episodes("BC+shuffled", 20)
    first, second, *_ = headline(scores(rows), None)
    assert "imagined rollouts helped" in first
    assert second.startswith("What the language model adds to BC over the filter alone")


def test_headline_tells_numbers_intervals_and_seeds():
    first, orientation = headline(scores(episodes("BC", 10) + episodes("BC+KALM", 30)), PUBLISHED)
    assert first.startswith("BC+KALM reaches 30.0 % (95 % interval ")
    assert "(600 episodes, 2 training seeds)" in first and "Without imagined rollouts: 10.0 %" in first
    assert "Difference +20.0 points (95 % interval +" in first and "imagined rollouts helped" in first
    assert "CQL+KALM 27.1 %" in orientation
    assert len(headline(scores(episodes("BC", 10) + episodes("BC+KALM", 30)), None)) == 1
    tuned = [replace(row, split="tune") for row in episodes("BC", 10)]
    assert "`tune`, on which settings are chosen" in headline(scores(tuned), None)[1]


@pytest.mark.parametrize(
    ("plain", "kalm", "verdict"), [(30, 10, "did harm"), (30, 31, "shows no difference"), (10, 30, "helped")]
)
def test_headline_does_not_claim_too_much(plain, kalm, verdict):
    text = headline(scores(episodes("BC", plain) + episodes("BC+KALM", kalm)), PUBLISHED)[0]
    assert verdict in text


def test_headline_of_one_policy():
    # Wilson for 10 of 100 is 5.52 to 17.44; the mean of three is 10 - 4.48 / sqrt(3) to 10 + 7.44 / sqrt(3).
    assert headline(scores(episodes("BC", 10, seeds=(0,))), None) == [
        "BC reaches 10.0 % (95 % interval 7.4 to 14.3) of novel goals on average over the levels "
        "(300 episodes, 1 training seed)."
    ]


def test_missing_parts_are_named(tmp_path):
    write_report(tmp_path, ReportData("empty", PUBLISHED))
    text = (tmp_path / "report.md").read_text("utf-8")
    for sentence in (
        "No policy has been evaluated",
        "No rollouts were imagined",
        "No filmstrips",
        "was not grounded",
        "Nothing was measured while",
        "was not inspected",
        "No table of effects",
        "No policy was trained",
        "Neither settings nor versions",
    ):
        assert sentence in text
    assert "![" not in text and not (tmp_path / "figures").exists()


def test_a_single_policy_says_what_is_not_compared():
    text = html(compose(ReportData("one", PUBLISHED, rows=episodes("BC", 10))))
    assert "No algorithm was trained both with and without" in text


def test_code_with_backticks_stays_code():
    document = Document("t", (), (DocumentSection("s", (Code("a\n```\nb", "All"),)),))
    assert "````\na\n```\nb\n````" in to_markdown(document, "figures")
    assert "<details><summary>All</summary><pre>a\n```\nb</pre></details>" in html(document)
