"""The picture of the shutdown: the steps of `Shutdown.run` in the order of the code, and the tasks beside them."""

import ast
from collections.abc import Iterable
from itertools import pairwise
from typing import Final, NamedTuple

from drawing.source import Source, SourceError
from drawing.svg import Picture, Rect, wrapped

RUN: Final = "Shutdown.run"

# What a step does, by its function. `{NAME}` is a constant of the module.
CAPTIONS: Final = {
    "LastStop.stopping": "records on disk that a stop has begun",
    "Shutdown._on_stop_hooks": "ends a running event hook, then runs on-stop.d",
    "shutdown.cancelled": "closes the claim stream; a running hook gets SIGTERM, later SIGKILL",
    "Watcher.read_final_messages": "from the agent, or else from what it saved; at most {FINAL_READ_MAX_S:g} s"
    " or {FINAL_READ_SHARE:.0%} of the time left",
    "Recorder.flush_to_disk": "at most {DISK_MAX_S:g} s or {DISK_SHARE:.1%} of the time left; if the disk hangs,"
    " the snapshot is delivered from memory",
    "FinalSnapshot.deliver": "to every destination at once, with retries; ends the agent too,"
    " if shutdown.stop_agent is set and the snapshot is safe",
    "Shutdown._send_final_status": 'replaces a reported "working" by "idle"; at most {FINAL_STATUS_MAX_S:g} s',
    "asyncio.gather(*beside)": "waits for the tasks on the right",
    "cancelled(tasks.watcher, *tasks.others)": "ends the other tasks: watcher, recorder, delivery, …",
    "TaskReports.store": "writes the state of the task",
    "Shutdown._give_up": "cancels what is left, without waiting for a thread that hangs",
    "LastStop.stopped": "records on disk how the stop ended",
}

GATHER: Final = "asyncio.gather(*beside)"
SIGNALS: Final = "SIGTERM, SIGINT or POST /v1/stop"
BEGIN_CAPTION: Final = "the deadline is shutdown.budget_s from here"

WIDTH: Final = 960
MARGIN: Final = 24
INSET: Final = 18
STEP_WIDTH: Final = 484
BAR_WIDTH: Final = 116
BAR_GAP: Final = 12
PADDING: Final = 16
LINE: Final = 20
GAP: Final = 26
BADGE: Final = 12
BADGE_WIDTH: Final = 32
TEXT_INSET: Final = PADDING + BADGE_WIDTH
"""Keeps texts right of the arrows, which run below the badges."""
FRAME_HEADING: Final = 40
PHASE_HEIGHT: Final = 8


class Step(NamedTuple):
    """One thing that `run` awaits. `is_limited`: under the timeout. `at_timeout`: only after it."""

    function: str
    is_skippable: bool
    is_limited: bool
    at_timeout: bool = False


class Beside(NamedTuple):
    """A task that `run` creates. It runs beside the step `first` (a number) and those after it."""

    name: str
    function: str
    first: int
    is_limited: bool


class Phase(NamedTuple):
    """`/v1/status` shows a new phase from the step `first` on."""

    name: str
    first: int


class Order(NamedTuple):
    """What `Shutdown.run` does. Steps are numbered from 0 here."""

    steps: list[Step]
    beside: list[Beside]
    phases: list[Phase]


# Reading the code.


def read(source: Source) -> Order:
    """The steps of `Shutdown.run`. Raises `SourceError` if one has no caption, or a caption has no step."""
    found = Order([], [], [])
    _Reader(source, found).read(source.function(RUN).node.body)
    known = {step.function for step in found.steps} | {one.function for one in found.beside}
    if known != set(CAPTIONS):
        raise SourceError(
            f"{RUN}: steps without a caption in docs/drawing/shutdown.py: {sorted(known - set(CAPTIONS))};"
            f" captions without a step: {sorted(set(CAPTIONS) - known)}"
        )
    return found


class _Reader:
    def __init__(self, source: Source, found: Order) -> None:
        self._source = source
        self._found = found
        self._known = source.names_in(RUN)
        self._values: dict[str, ast.expr] = {}

    def read(
        self, statements: Iterable[ast.stmt], *, limited: bool = False, at_timeout: bool = False
    ) -> None:
        for statement in statements:
            match statement:
                case ast.Try(body=body, handlers=handlers):
                    self.read(body, limited=limited)
                    for handler in handlers:
                        self.read(handler.body, limited=limited, at_timeout=True)
                case ast.AsyncWith(body=body):
                    self.read(body, limited=True)
                case ast.If(body=body):
                    self.read(body, limited=limited, at_timeout=at_timeout)
                case _:
                    self._read_simple(statement, limited=limited, at_timeout=at_timeout)

    def _read_simple(self, statement: ast.stmt, *, limited: bool, at_timeout: bool) -> None:
        match statement:
            case ast.Assign(targets=[ast.Attribute(attr="phase")], value=ast.Attribute(attr=name)):
                self._found.phases.append(Phase(name.lower(), len(self._found.steps)))
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                self._values[name] = value
        for node in ast.walk(statement):
            match node:
                case ast.Call(
                    func=ast.Attribute(attr="create_task"),
                    args=[work],
                    keywords=[ast.keyword(arg="name", value=ast.Constant(value=str() as name))],
                ):
                    function, _ = self._awaited(work)
                    self._found.beside.append(Beside(name, function, len(self._found.steps), limited))
                case ast.Await(value=value):
                    function, is_skippable = self._awaited(value)
                    self._found.steps.append(Step(function, is_skippable, limited, at_timeout))

    def _awaited(self, node: ast.expr) -> tuple[str, bool]:
        """The function behind an awaited expression, and whether a second signal skips it."""
        if isinstance(node, ast.Name):
            node = self._values[node.id]
        if not isinstance(node, ast.Call):
            raise SourceError(f"{RUN} awaits {ast.unparse(node)}, which is no call")
        name = self._source.callee(node.func, self._known, RUN)
        if name.startswith("Shutdown.") and node.args and isinstance(node.args[0], ast.Call):
            # A wrapper of one step.
            always = any(ast.unparse(keyword) == "skippable=False" for keyword in node.keywords)
            return self._awaited(node.args[0])[0], not always
        # A call for several tasks keeps its argument, which says which tasks.
        if any(isinstance(argument, ast.Starred) for argument in node.args):
            name = ast.unparse(node)
        return name, False


# Drawing.


def draw(source: Source) -> str:
    return _ShutdownPicture(source).svg()


class _ShutdownPicture:
    def __init__(self, source: Source) -> None:
        self._order = read(source)
        self._constants = source.constants(source.function(RUN).module)
        names = [step.function for step in self._order.steps]
        self._picture = Picture(WIDTH, "The shutdown of agentd", " → ".join(names))

    def svg(self) -> str:
        picture, order = self._picture, self._order
        limited = [step for step in order.steps if step.is_limited and not step.at_timeout]
        after = [step for step in order.steps if not step.is_limited and not step.at_timeout]
        start = Rect(MARGIN + INSET, MARGIN, STEP_WIDTH, 48)
        begin = self._place(start.bottom + GAP, BEGIN_CAPTION)
        frame_top = begin.bottom + GAP
        places = self._places(limited, frame_top + FRAME_HEADING + GAP)
        bars = sum(one.is_limited for one in order.beside)
        frame = Rect(
            MARGIN,
            frame_top,
            STEP_WIDTH + 3 * INSET + bars * (BAR_WIDTH + BAR_GAP) - BAR_GAP,
            places[-1].bottom + FRAME_HEADING - frame_top,
        )
        places += self._places(after, frame.bottom + GAP)

        picture.box(start, "world")
        picture.text(start.x + PADDING, start.y + 31, SIGNALS, "title", limit=STEP_WIDTH)
        self._draw_step("Shutdown.begin", BEGIN_CAPTION, begin, 1)
        self._draw_frame(frame)
        self._draw_bars(places, frame)
        for number, (step, place) in enumerate(zip(limited + after, places, strict=True), 2):
            self._draw_step(step.function, self._caption(step), place, number)
        for above, below in pairwise([start, begin, *places]):
            x = below.x + PADDING + BADGE
            picture.arrow([(x, above.bottom), (x, below.y - 2)])
        for phase in order.phases:
            picture.text(
                places[phase.first].x + TEXT_INSET,
                places[phase.first].y - 9,
                f'phase "{phase.name}"',
                "label",
                limit=STEP_WIDTH / 2,
            )
        return picture.svg(places[-1].bottom + MARGIN)

    def _caption(self, step: Step | Beside) -> str:
        caption = CAPTIONS[step.function].format(**self._constants).replace("%", "\N{NO-BREAK SPACE}%")
        return (
            f"{caption}; a second signal skips it"
            if isinstance(step, Step) and step.is_skippable
            else caption
        )

    def _place(self, y: float, caption: str) -> Rect:
        lines = wrapped(caption, "note", STEP_WIDTH - 2 * PADDING)
        return Rect(MARGIN + INSET, y, STEP_WIDTH, 50 + LINE * len(lines))

    def _places(self, steps: Iterable[Step], y: float) -> list[Rect]:
        phases = {self._order.steps[phase.first] for phase in self._order.phases}
        places = []
        for step in steps:
            y += PHASE_HEIGHT if step in phases else 0
            places.append(self._place(y, self._caption(step)))
            y = places[-1].bottom + GAP
        return places

    def _draw_step(self, function: str, caption: str, place: Rect, number: int) -> None:
        x, limit = place.x + PADDING, place.width - 2 * PADDING
        self._picture.box(place, "component")
        self._picture.badge(x + BADGE, place.y + 25, str(number))
        self._picture.text(x + BADGE_WIDTH, place.y + 31, function, "title", limit=limit - BADGE_WIDTH)
        for line, text in enumerate(wrapped(caption, "note", limit)):
            self._picture.text(x, place.y + 55 + line * LINE, text, "note", limit=limit)

    def _draw_frame(self, frame: Rect) -> None:
        self._picture.box(frame, "band", dashed=True)
        heading = f"Under one timeout, which ends {self._constants['CLOSING_S']:g} s before the deadline"
        x = frame.x + INSET + TEXT_INSET
        self._picture.text(x, frame.y + 26, heading, "heading", limit=frame.width)
        ends = "; ".join(
            f"{step.function} {self._caption(step)}" for step in self._order.steps if step.at_timeout
        )
        self._picture.text(x, frame.bottom - 13, f"At the timeout: {ends}", "note", limit=frame.width)

    def _draw_bars(self, places: list[Rect], frame: Rect) -> None:
        """Draw the tasks beside the steps, each as long as it may run."""
        limited_x, other_x = frame.x + INSET + STEP_WIDTH + INSET, frame.right + BAR_GAP
        waits = [
            place for place, step in zip(places, self._order.steps, strict=False) if step.function == GATHER
        ]
        for one in self._order.beside:
            if one.is_limited:
                bar = Rect(limited_x, places[one.first].y, BAR_WIDTH, waits[0].bottom - places[one.first].y)
                limited_x = bar.right + BAR_GAP
            else:
                bar = Rect(other_x, frame.y, BAR_WIDTH, places[-1].bottom - frame.y)
                other_x = bar.right + BAR_GAP
            self._picture.box(bar, "plain")
            y = bar.y + 26
            for style, text in (("heading", one.name), ("note", self._caption(one))):
                for line in wrapped(text, style, BAR_WIDTH - 20):
                    self._picture.text(bar.x + 10, y, line, style, limit=BAR_WIDTH - 12)
                    y += LINE
                y += 6
