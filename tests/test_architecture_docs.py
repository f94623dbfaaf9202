"""The pictures, tables and lists of docs/architecture.md are those of the code."""

import re
from xml.etree import ElementTree as ET

import pytest
from drawing import DOCUMENT, IMAGES, flows, pictures, shutdown
from drawing.flows import Part, link
from drawing.source import Source, SourceError
from drawing.svg import DrawingError, Picture, Rect
from drawing.tables import MARK, table

from agentd import config

TEXT = DOCUMENT.read_text("utf-8")
KEYS = set(config.keys())
STALE = "the code has changed; run `make docs` and read what changed"


@pytest.fixture(scope="module")
def source():
    return Source()


@pytest.fixture(scope="module")
def drawn(source):
    return pictures(source)


# Pictures.


@pytest.mark.parametrize("name", ["packages", *flows.FLOWS, "shutdown"])
def test_a_picture_is_as_the_code_gives_it(name, drawn):
    assert (IMAGES / f"{name}.svg").read_text("utf-8") == drawn[f"{name}.svg"], STALE


def test_the_document_shows_every_picture_with_a_text_for_readers_who_do_not_see_it(drawn):
    shown = {path: text for text, path in re.findall(r"!\[(.*?)\]\(images/(.*?)\)", TEXT)}
    assert set(shown) == set(drawn) == {path.name for path in IMAGES.iterdir()}
    assert all(len(text) > 20 for text in shown.values())


@pytest.mark.parametrize("name", ["packages", *flows.FLOWS, "shutdown"])
def test_a_picture_is_an_svg_with_a_title_for_light_and_dark_mode(name, drawn):
    root = ET.fromstring(drawn[f"{name}.svg"])  # noqa: S314 - drawn by this repository
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert {"title", "desc", "style"} <= tags
    assert tags.isdisjoint({"script", "image", "foreignObject"})
    assert "@media (prefers-color-scheme: dark)" in drawn[f"{name}.svg"]
    # It loads nothing: no URL but the name of the format.
    assert drawn[f"{name}.svg"].count("://") == 1


def test_the_picture_of_the_packages_has_every_package_of_the_contract(source, drawn):
    texts = {element.text for element in ET.fromstring(drawn["packages.svg"]).iter()}  # noqa: S314 - as above
    assert {name for layer in source.layers for name in layer} <= texts


def test_a_picture_that_would_be_unreadable_is_refused():
    picture = Picture(200, "", "")
    with pytest.raises(DrawingError, match="make the box wider"):
        picture.text(10, 20, "a long text", "note", limit=20)
    picture.text(10, 20, "one", "note", limit=100)
    picture.text(12, 22, "two", "note", limit=100)
    with pytest.raises(DrawingError, match="'two' overlaps 'one'"):
        picture.svg(100)
    picture = Picture(200, "", "")
    picture.box(Rect(0, 0, 50, 50), "plain")
    picture.box(Rect(40, 40, 50, 50), "plain")
    with pytest.raises(DrawingError, match="two boxes overlap"):
        picture.svg(100)


# What the pictures are drawn from.


def test_a_connection_that_the_code_does_not_have_is_refused(source):
    with pytest.raises(SourceError, match="calls one of"):
        link(source, Part(("Tracker.observe",)), Part(("Spool.put",)))
    with pytest.raises(SourceError, match="was it renamed"):
        link(source, Part(("Watcher.poll",)), Part(("Tracker.perceive",)))


def test_a_request_that_the_client_does_not_make_is_refused(source):
    flow = flows.Flow(
        "x", (flows.World("coderd", "GET …/no-such-path", "coderd.client"), Part(("Spool.put",)))
    )
    with pytest.raises(SourceError, match="no-such-path"):
        flows.draw(source, flow)


def test_calls_are_found_through_attributes_local_names_imports_and_own_methods(source):
    assert source.does_call("Watcher.poll", "Agent.observe")  # a parameter of the constructor
    assert source.does_call("HookRunner.run_claim", "Ledger.start")  # a local name for an attribute
    assert source.does_call("Recorder._fit", "fit.fit")  # an imported function
    assert source.does_call("Recorder.flush_to_disk", "Spool.put")  # through a method of the class
    assert source.does_call("ClaimListener._admit_queued", "Ledger.admit")  # passed to a thread
    assert not source.does_call("Recorder.record_messages", "Spool.put")


def test_subscriptions_are_found_in_the_order_of_the_calls(source):
    found = [
        one.target for one in source.subscriptions if (one.owner, one.signal) == ("Watcher", "messages_read")
    ]
    assert found == ["Recorder.record_messages", "TaskReports.on_messages"]


def test_every_subscription_of_wiring_is_found(source):
    added = re.findall(r"\.(\w+)\.add\(", source.text("daemon.wiring"))
    signals = [one.signal for one in source.subscriptions]
    assert len(added) > 5
    assert all(signals.count(signal) >= added.count(signal) for signal in added)


def test_the_order_of_the_shutdown_is_that_of_the_code(source):
    body = source.text("daemon.shutdown")
    body = body[body.index("async def run(") :]
    names = [step.function.partition("(")[0].rpartition(".")[2] for step in shutdown.read(source).steps]
    assert len(names) > 8
    place = 0
    for name in names:
        place = body.index(f"{name}(", place)


def test_a_new_step_of_the_shutdown_needs_a_caption(source, monkeypatch):
    monkeypatch.delitem(shutdown.CAPTIONS, "TaskReports.store")
    with pytest.raises(SourceError, match=r"without a caption .*TaskReports\.store"):
        shutdown.read(source)


# Tables.


@pytest.mark.parametrize("mark", list(MARK.finditer(TEXT)), ids=lambda mark: mark["name"] or mark["module"])
def test_a_table_is_as_the_code_gives_it(mark, source):
    assert mark["table"] == table(mark, source), STALE


def test_every_package_has_a_table_of_its_modules(source):
    packages = {name for name, path in source.paths.items() if path.name == "__init__.py" and "." not in name}
    tables = [mark["module"] for mark in MARK.finditer(TEXT) if mark["kind"] == "modules"]
    assert sorted(tables) == sorted({*packages, "agentd"})


# Lists.


def section(heading: str) -> str:
    return TEXT.partition(f"### {heading}\n")[2].partition("\n##")[0]


def items(heading: str) -> list[list[str]]:
    """The functions and signals that each item of the numbered list names, in order."""
    numbered = re.split(r"^\d+\. ", section(heading), flags=re.MULTILINE)[1:]
    names = [re.findall(r"`([A-Za-z_]+\.[a-z_]+)`", item) for item in numbered]
    return [[name for name in named if name not in KEYS] for named in names]


HEADINGS = {"claim": "A claim", "status": "A status", "message": "A message"}


@pytest.mark.parametrize("name", HEADINGS)
def test_each_item_of_a_list_names_the_functions_of_its_number_in_the_picture(name):
    found = items(HEADINGS[name])
    parts = flows.FLOWS[name].parts
    assert len(found) == len(parts)
    for named, part in zip(found, parts, strict=True):
        expected = [*part.functions, *(function for one in part.beside for function in one.functions)]
        assert set(expected) <= set(named)
        assert next(one for one in named if one in part.functions) == part.functions[0]


def test_the_list_of_the_shutdown_names_the_steps_in_the_order_of_the_picture(source):
    steps = [step for step in shutdown.read(source).steps if not step.at_timeout]
    expected = ["Shutdown.begin", *(step.function.partition("(")[0] for step in steps)]
    numbered = re.split(r"^\d+\. ", section("The shutdown"), flags=re.MULTILINE)[1:]
    assert [re.match(r"`([\w.]+)`", item)[1] for item in numbered] == expected


@pytest.mark.parametrize("name", HEADINGS)
def test_a_list_is_a_walk_through_the_code(name, source):
    """Each function is called by one that is named before, calls it, is of its class, or subscribes to a signal."""
    signals = {f"{one.owner}.{one.signal}" for one in source.subscriptions}
    subscribers = {one.target for one in source.subscriptions}
    connected = {part.functions[0] for part in flows.FLOWS[name].parts if part.connected_by}
    named = [one for item in items(HEADINGS[name]) for one in item if one not in signals]
    assert len(named) > 6
    for number, function in enumerate(named[1:], 1):
        reached = any(
            source.does_call(one, function)
            or source.does_call(function, one)
            or source.function(one).owner == source.function(function).owner
            for one in named[:number]
        )
        assert reached or function in subscribers | connected, function


def test_every_name_in_the_document_exists(source):
    """`Class.name` is a method, an attribute or a module's name; `package/module.py` is a file."""
    for name in re.findall(r"`([A-Z]\w+\.\w+)`", TEXT):
        assert source.has(name), name
    for path in re.findall(r"`([\w/]+/\w+\.py)`", TEXT.partition("## The modules")[0]):
        assert (source.root / "agentd" / path).exists() or (source.root / path).exists(), path
