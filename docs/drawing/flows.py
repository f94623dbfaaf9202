"""The pictures of the flows: the components that a claim, a status or a message passes, in order.

A flow is declared here by the names of its functions. Everything else is read from the code: whether one component calls
or subscribes to the next, what is passed, and which other subscribers get it.
"""

from typing import Final, NamedTuple

from drawing.source import Source, SourceError
from drawing.svg import Picture, Rect, width_of, wrapped

WIDTH: Final = 960
MARGIN: Final = 24
MAIN_WIDTH: Final = 380
BESIDE_WIDTH: Final = 320
PADDING: Final = 16
LINE: Final = 20
GAP: Final = 44
BESIDE_GAP: Final = 14
BADGE_WIDTH: Final = 32
KINDS: Final = {
    "component": "component",
    "interface": "interface; one module for each kind",
    "pure": "pure: no I/O, no clock",
    "disk": "on disk",
    "world": "outside of agentd",
}


class World(NamedTuple):
    """Something outside of agentd. `by` is how agentd reaches it; the module `proof` contains its paths and names."""

    title: str
    by: str
    proof: str
    note: str = ""


class Part(NamedTuple):
    """A component, or functions of a module: `functions` in the order of the flow.

    `passed` names what reaches the component if the annotations do not. `connected_by` is the module with a
    function that connects it to the component before, if the types do not show the connection. `implemented_in` is the package with the
    implementations of an interface. `result`: the picture shows what a call of the component returns.
    """

    functions: tuple[str, ...]
    beside: tuple["Part", ...] = ()
    note: str = ""
    on_disk: bool = False
    passed: str = ""
    connected_by: str = ""
    implemented_in: str = ""
    result: bool = True

    @property
    def owner(self) -> str:
        """The class, or the last part of the module's name."""
        return self.functions[0].partition(".")[0]


class Flow(NamedTuple):
    title: str
    steps: tuple[World | Part, ...]

    @property
    def parts(self) -> list[Part]:
        """The numbered steps."""
        return [step for step in self.steps if isinstance(step, Part)]


FLOWS: Final = {
    "claim": Flow(
        "A claim",
        (
            World("coderd", "GET …/reinit?wait=true", "coderd.reinit_stream"),
            Part(("ReinitStream.events",), note="one connection; the listener reconnects"),
            Part(
                ("ClaimListener._connect", "ClaimListener._receive", "ClaimListener._run_claims"),
                beside=(Part(("events.parse",)), Part(("Ledger.admit",), on_disk=True)),
                note="queues an event until it is in the ledger",
            ),
            Part(
                ("HookRunner.run_claim",),
                beside=(
                    Part(
                        ("Ledger.plan_hooks", "Ledger.start", "Ledger.end", "Ledger.settle"),
                        on_disk=True,
                        note="start is durable before the process exists",
                    ),
                ),
                passed="claim id",
                note="one claim at a time, hooks in name order",
            ),
            Part(("HookRun.execute",), passed="path, environment"),
            World("hook program", "create_subprocess_exec", "hooks.run"),
        ),
    ),
    "status": Flow(
        "A status",
        (
            World("the agent", "AgentAPI: GET /status, /events", "agents.agentapi.client"),
            Part(("Agent.observe", "Agent.changes"), implemented_in="agents"),
            Part(
                ("Watcher.poll", "Watcher._follow_changes", "Watcher._apply"),
                beside=(Part(("Tracker.observe",)),),
                note="polling decides; changes shorten the delay",
            ),
            Part(
                ("TaskReports.on_agent_change", "TaskReports.run"),
                beside=(Part(("TurnReports.add",)), Part(("task_file.write",), on_disk=True)),
            ),
            Part(
                ("AppStatusReporter.report", "AppStatusReporter.run"),
                note="one pending report; a newer one replaces it",
            ),
            Part(("Coderd.update_app_status",), connected_by="daemon.build", passed="state, message, uri"),
            World("coderd", "PATCH …/app-status", "coderd.client"),
        ),
    ),
    "message": Flow(
        "A message",
        (
            World("the agent", "AgentAPI: GET /messages, /events", "agents.agentapi.client"),
            Part(("Agent.messages",), implemented_in="agents"),
            Part(("Watcher._read",), note="only if the messages can have changed"),
            Part(
                ("Recorder.record_messages", "Recorder.flush_to_disk", "Recorder._fit"),
                beside=(
                    Part(("Window.replace",)),
                    Part(("SnapshotDue.run",), note="when the agent settles or is gone"),
                    Part(("fit.fit",)),
                ),
                note="a checkpoint while messages change",
            ),
            Part(
                ("Spool.put", "Spool.flush_to_disk", "Spool.entries"),
                on_disk=True,
                note="in memory at once; a thread writes it",
            ),
            Part(
                ("DestinationUploader.wake", "DestinationUploader.run", "DestinationUploader.pending"),
                beside=(
                    Part(("Delivery.request_upload",), note="when the agent has settled"),
                    Part(("Spool.add_receipt",), on_disk=True, result=False),
                ),
                note="one for each destination, with its own retry",
            ),
            Part(("Destination.deliver",), implemented_in="snapshots.destinations"),
            World("coderd", "POST …/log-snapshot", "coderd.client", note="or another destination"),
        ),
    ),
}


def draw(source: Source, flow: Flow) -> str:
    return _FlowPicture(source, flow).svg()


# Connections.


class Link(NamedTuple):
    """A connection of two parts by `function`, one of the first part. Labels are "" if nothing worth showing is passed.

    `signal`: the second part subscribes to it. `is_reversed`: the second part calls the first.
    """

    function: str
    passed: str = ""
    result: str = ""
    signal: str = ""
    is_reversed: bool = False


def link(source: Source, first: Part, second: Part) -> Link:
    """How the code connects two parts. Raises `SourceError` if it does not."""
    connecting = (one.name for one in source.functions.values() if one.module == second.connected_by)
    if any({first.owner, second.functions[0]} <= source.calls(name) for name in connecting):
        return Link(first.functions[-1], second.passed)
    for one in source.subscriptions:
        if one.owner == first.owner and one.target in second.functions:
            return Link(
                first.functions[-1], _data(source, source.function(one.target).argument), signal=one.signal
            )
    for caller in reversed(first.functions):
        for callee in second.functions:
            if source.does_call(caller, callee):
                called = source.function(callee)
                passed = second.passed or _data(source, called.argument)
                return Link(caller, passed, _data(source, called.result) if second.result else "")
    for caller in second.functions:
        for callee in first.functions:
            if source.does_call(caller, callee):
                called = source.function(callee)
                return Link(
                    callee, _data(source, called.argument), _data(source, called.result), is_reversed=True
                )
    raise SourceError(
        f"no function of {', '.join(first.functions)} calls one of {', '.join(second.functions)} or is called by one;"
        " change docs/drawing/flows.py"
    )


def _data(source: Source, text: str) -> str:
    """The text of a type if it names one of agentd, else ""."""
    return text if source.names_a_type(text) and not text.startswith("Callable") else ""


# Drawing.


class _FlowPicture:
    def __init__(self, source: Source, flow: Flow) -> None:
        self._source = source
        self._flow = flow
        names = [step.title if isinstance(step, World) else step.owner for step in flow.steps]
        self._picture = Picture(WIDTH, f"{flow.title} on its way through agentd", " → ".join(names))
        self._kinds: set[str] = set()

    def svg(self) -> str:
        before: World | Part | None = None
        bottom, number = float(MARGIN - GAP), 0
        for step in self._flow.steps:
            label = self._label(before, step)
            if isinstance(before, Part) and isinstance(step, Part):
                signal = link(self._source, before, step).signal
                if signal:
                    bottom = self._draw_subscribers(before, signal, step, bottom)
            number += isinstance(step, Part)
            rect = self._draw_step(step, bottom + GAP, number)
            if before is not None:
                self._draw_arrow_down(bottom, rect.y, label)
            before, bottom = step, rect.bottom
        return self._picture.svg(self._draw_legend(bottom + GAP / 2) + MARGIN)

    def _label(self, before: World | Part | None, step: World | Part) -> str:
        match before, step:
            case (World() as world, Part()) | (Part(), World() as world):
                return self._request(world)
            case Part() as first, Part() as second:
                found = link(self._source, first, second)
                return (found.result or found.passed) if found.is_reversed else found.passed
        return ""

    def _request(self, world: World) -> str:
        """How agentd reaches it. Raises `SourceError` if the module does not contain that."""
        text = self._source.text(world.proof)
        for word in world.by.split():
            path = word.lstrip("…").strip("/,").partition("?")[0]
            if ("/" in word or "_" in word) and path not in text:
                raise SourceError(f"{world.proof} does not contain {path!r}; change docs/drawing/flows.py")
        return world.by

    def _draw_arrow_down(self, top: float, bottom: float, label: str) -> None:
        x = MARGIN + MAIN_WIDTH / 2
        self._picture.arrow([(x, top), (x, bottom - 2)])
        self._picture.text(x + 14, (top + bottom) / 2 + 4, label, "label", limit=WIDTH / 2)

    def _draw_step(self, step: World | Part, y: float, number: int) -> Rect:
        """Draw the box and those beside it; return the place of the box."""
        if isinstance(step, World):
            rect = Rect(MARGIN, y, MAIN_WIDTH, 28 + LINE * (1 + bool(step.note)))
            self._draw_box("world", rect, step.title, "", [("note", step.note)] if step.note else [])
            return rect
        links = [link(self._source, step, one) for one in step.beside]
        heights = [self._height(one, BESIDE_WIDTH) for one in step.beside]
        beside = sum(heights) + BESIDE_GAP * max(0, len(heights) - 1)
        apart = {found.function for found in links} if len(step.functions) > 1 else set()
        own = tuple(name for name in step.functions if name not in apart)
        rect = Rect(MARGIN, y, MAIN_WIDTH, max(self._height(step, MAIN_WIDTH, own), beside))
        self._draw_part(step, rect, own, number)
        other_y = rect.y + (rect.height - beside) / 2
        for one, found, height in zip(step.beside, links, heights, strict=True):
            other = Rect(WIDTH - MARGIN - BESIDE_WIDTH, other_y, BESIDE_WIDTH, height)
            self._draw_part(one, other, one.functions)
            self._connect(found, rect, other)
            if found.function in apart:
                name = found.function.partition(".")[2]
                self._picture.text(
                    rect.right - 10, other.centre + 5, name, "code", limit=MAIN_WIDTH / 2, anchor="end"
                )
            other_y += height + BESIDE_GAP
        return rect

    def _connect(self, found: Link, left: Rect, right: Rect) -> None:
        x, limit, y = (left.right + right.x) / 2, right.x - left.right - 12, right.centre
        passed, result = found.passed, found.result
        if found.is_reversed:
            self._picture.arrow([(right.x, y), (left.right + 2, y)])
            self._picture.text(x, y - 8, passed, "label", limit=limit, anchor="middle")
            return
        call_y = y - 7 if result else y
        self._picture.arrow([(left.right, call_y), (right.x - 2, call_y)])
        self._picture.text(x, call_y - 8, passed, "label", limit=limit, anchor="middle")
        if result:
            self._picture.arrow([(right.x, y + 7), (left.right + 2, y + 7)])
            self._picture.text(x, y + 24, result, "label", limit=limit, anchor="middle")

    def _height(self, part: Part, width: float, functions: tuple[str, ...] | None = None) -> float:
        return 28 + LINE * (
            1 + len(self._lines(part, width, part.functions if functions is None else functions))
        )

    def _lines(self, part: Part, width: float, functions: tuple[str, ...]) -> list[tuple[str, str]]:
        """The lines below the title: style and text."""
        limit = width - 2 * PADDING
        lines = [("path", self._path(part.functions[0]))]
        if len(part.functions) > 1 and functions:
            names = " · ".join(name.partition(".")[2] for name in functions)
            lines += [("code", text) for text in wrapped(names, "code", limit)]
        if part.implemented_in:
            found = ", ".join(self._source.implementations(part.owner, part.implemented_in))
            lines += [("note", text) for text in wrapped(f"Kinds: {found}", "note", limit)]
        if part.note:
            lines += [("note", text) for text in wrapped(part.note, "note", limit)]
        return lines

    def _path(self, function: str) -> str:
        return f"{self._source.function(function).module.replace('.', '/')}.py"

    def _draw_part(self, part: Part, rect: Rect, functions: tuple[str, ...], number: int = 0) -> None:
        for name in part.functions:
            self._source.function(name)  # raises if it does not exist
        title = part.functions[0] if len(part.functions) == 1 else part.owner
        lines = self._lines(part, rect.width, functions)
        self._draw_box(self._kind(part), rect, title, str(number or ""), lines)

    def _draw_box(self, kind: str, rect: Rect, title: str, number: str, lines: list[tuple[str, str]]) -> None:
        self._kinds.add(kind)
        self._picture.box(rect, kind)
        x, limit = rect.x + PADDING, rect.width - 2 * PADDING
        if number:
            self._picture.badge(x + 12, rect.y + 25, number)
        left = BADGE_WIDTH if number else 0
        self._picture.text(x + left, rect.y + 31, title, "title", limit=limit - left)
        for count, (style, text) in enumerate(lines, 1):
            self._picture.text(x, rect.y + 32 + count * LINE, text, style, limit=limit)

    def _kind(self, part: Part) -> str:
        if part.implemented_in:
            return "interface"
        if part.on_disk:
            return "disk"
        is_pure = self._source.function(part.functions[0]).module in self._source.pure_modules
        return "pure" if is_pure else "component"

    def _draw_subscribers(self, part: Part, signal: str, receiver: Part, above: float) -> float:
        """Draw a frame with every subscriber of a signal, in the order of the calls; return its lower edge."""
        found = [one for one in self._source.subscriptions if (one.owner, one.signal) == (part.owner, signal)]
        rect = Rect(MARGIN, above + GAP / 2, WIDTH - 2 * MARGIN, 42 + LINE * len(found))
        self._draw_arrow_down(above, rect.y, "")
        self._picture.box(rect, "band", dashed=True)
        heading = f"{part.owner}.{signal} calls, in this order:"
        self._picture.text(rect.x + PADDING, rect.y + 25, heading, "heading", limit=rect.width)
        for number, one in enumerate(found, 1):
            style, y = "strong" if one.target in receiver.functions else "code", rect.y + 27 + LINE * number
            self._picture.text(rect.x + PADDING, y, f"{number}. {one.target}", style, limit=500)
            self._picture.text(
                WIDTH - MARGIN - BESIDE_WIDTH + PADDING, y, self._path(one.target), "path", limit=BESIDE_WIDTH
            )
        return rect.bottom

    def _draw_legend(self, y: float) -> float:
        x: float = MARGIN
        for kind, text in KINDS.items():
            if kind in self._kinds:
                if x + 30 + width_of(text, "note") > WIDTH - MARGIN:
                    x, y = MARGIN, y + LINE + 4
                self._picture.box(Rect(x, y, 22, 16), kind)
                self._picture.text(x + 30, y + 13, text, "note", limit=300)
                x += 30 + width_of(text, "note") + 18
        return y + 16
