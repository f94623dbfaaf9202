"""Several agents in one workspace are observed as one."""

import asyncio
from contextlib import aclosing

import pytest
from agents.scripted import ScriptedAgent

from agentd.agents import combined
from agentd.agents.agent import Activity, Observation, Session, Strength
from agentd.agents.combined import Candidate, CombinedAgent, runs_below
from agentd.agents.hook_events import HookEvent
from agentd.agents.hook_states import HookStates
from agentd.worker_thread import WorkerThread


class Named(ScriptedAgent):
    """A scripted agent of a given kind with a given session."""

    def __init__(self, kind, *, strength=Strength.TOLD, **session):
        super().__init__()
        self.name, self.strength, self.session = kind, strength, Session(**session)

    @property
    def kind(self):
        return self.name

    async def sessions(self):
        return [self.session._replace(is_live=self.activity is not Activity.GONE)]

    async def observe(self):
        return (await super().observe())._replace(strength=self.strength)


@pytest.fixture
def combine(fake_clock):
    disks = []

    def build(*members, **options):
        disks.append(WorkerThread("test"))
        return CombinedAgent(members, clock=fake_clock.as_clock(), disk=disks[-1], **options)

    yield build
    for disk in disks:
        disk.close(1)


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        (Activity.IDLE, Activity.BUSY, Activity.BUSY),
        (Activity.WAITING, Activity.BUSY, Activity.BUSY),
        (Activity.IDLE, Activity.WAITING, Activity.WAITING),
        (Activity.GONE, Activity.IDLE, Activity.IDLE),
        (Activity.BROKEN, Activity.IDLE, Activity.IDLE),
        (Activity.GONE, Activity.BROKEN, Activity.BROKEN),
        (Activity.GONE, Activity.GONE, Activity.GONE),
    ],
)
@pytest.mark.parametrize("swapped", [False, True])
async def test_any_agent_that_works_makes_the_workspace_busy(combine, first, second, together, swapped):
    one, two = Named("one"), Named("two")
    one.turn(first, "which?" if first is Activity.WAITING else "")
    two.turn(second, "which?" if second is Activity.WAITING else "")
    observation = await combine(*((two, one) if swapped else (one, two))).observe()
    assert observation.activity is together
    assert observation.evidence
    assert together is not Activity.WAITING or observation.evidence == "which?"


async def test_the_current_session_is_live_then_in_the_directory_then_prompted_last(combine, tmp_path):
    there = Named("there", directory=str(tmp_path), prompted_at=1.0)
    elsewhere = Named("elsewhere", directory="/elsewhere", prompted_at=9.0)
    newest = Named("newest", directory=str(tmp_path / "below"), prompted_at=5.0)
    agent = combine(there, elsewhere, newest, directory=tmp_path)
    kinds = []
    for gone in (None, newest, there, elsewhere):
        if gone is not None:
            gone.turn(Activity.GONE)
        await agent.observe()
        kinds.append(agent.kind)
    assert kinds == ["newest", "there", "elsewhere", "newest"]


async def test_the_messages_are_those_of_the_current_session(combine):
    old, new = Named("old", prompted_at=1.0), Named("new", prompted_at=2.0)
    new.say("user", "what I asked last")
    agent = combine(old, new)
    await agent.observe()
    assert (await agent.messages(keep=1))[0].content == "what I asked last"
    assert [session.prompted_at for session in await agent.sessions()] == [2.0, 1.0]


async def test_an_agent_is_found_when_its_folder_appears(combine, tmp_path, fake_clock):
    folder = tmp_path / "later"
    agent = combine(candidates=[Candidate("later", folder, lambda: Named("later"))])
    assert (await agent.observe()).activity is Activity.GONE
    folder.mkdir()
    await fake_clock.advance(combined.LOOK_EVERY_S)
    assert (await agent.observe()).activity is Activity.IDLE
    assert agent.kind == "later"


@pytest.mark.parametrize("is_below", [True, False])
async def test_what_an_agent_tells_decides_over_its_screen(combine, monkeypatch, is_below):
    monkeypatch.setattr(
        combined, "runs_below", lambda pid, name: is_below and (pid, name) == (77, "agentapi")
    )
    screen = Named("agentapi", strength=Strength.INFERRED)
    own = Named("claude-code", pid=77, prompted_at=1.0)
    agent = combine(screen, own)
    screen.turn(Activity.BUSY)
    assert (await agent.observe()).activity is (Activity.IDLE if is_below else Activity.BUSY)
    screen.turn(Activity.IDLE)
    own.turn(Activity.BUSY)
    assert (await agent.observe()).activity is Activity.BUSY
    assert agent.can.send_input
    own.turn(Activity.IDLE)
    await agent.observe()
    await agent.send("hello")
    assert screen.inputs == ["hello"]


def test_an_ancestor_is_found_by_its_name(tmp_path):
    assert not runs_below(1, "agentapi")
    assert not runs_below(0, "agentapi")
    assert not runs_below(2**22 + 1, "agentapi")


async def test_without_any_agent_the_state_says_so(combine):
    agent = combine()
    assert await agent.observe() == Observation(Activity.GONE, evidence="no agent was found", readable=False)
    assert (await agent.diagnose()).severity == "fail"
    assert agent.kind == "none"


async def test_each_agent_has_a_diagnosis_and_an_absent_agentapi_has_none_beside_another(combine, tmp_path):
    (tmp_path / "later").mkdir()
    screen, own = Named("agentapi"), Named("one")
    screen.turn(Activity.GONE)
    agent = combine(screen, own, candidates=[Candidate("later", tmp_path / "later", lambda: Named("later"))])
    assert list(await agent.diagnoses()) == ["one", "later"]
    screen.turn(Activity.BROKEN)
    found = await agent.diagnoses()
    assert {kind: one.severity for kind, one in found.items()} == {
        "agentapi": "fail",
        "one": "ok",
        "later": "ok",
    }


async def test_agents_that_cannot_be_observed_are_all_named(combine):
    screen, own = Named("agentapi"), Named("one")
    screen.turn(Activity.GONE)
    own.turn(Activity.GONE)
    assert list(await combine(screen, own).diagnoses()) == ["agentapi", "one"]
    assert list(await combine().diagnoses()) == ["none"]


# Hooks.


def said(agent, state, *, session="s-1", text=""):
    return HookEvent(agent, session, "/workspace", state, text)


@pytest.fixture
def hooks(fake_clock):
    return HookStates(fake_clock.as_clock())


async def test_an_agent_without_a_kind_of_its_own_is_known_by_its_hooks(combine, hooks):
    agent = combine(hooks=hooks, any_hook=True)
    assert (await agent.observe()).activity is Activity.GONE
    for state, expected in (("busy", Activity.BUSY), ("waiting", Activity.WAITING), ("idle", Activity.IDLE)):
        hooks.take(said("my-agent", state, text="which?"))
        observation = await agent.observe()
        assert (observation.activity, observation.strength) == (expected, Strength.TOLD)
        assert agent.kind == "my-agent"
        assert [one.id for one in await agent.sessions()] == ["s-1"]
        assert await agent.messages(keep=5) == ()
        assert (await agent.diagnoses())["my-agent"].severity == "ok"
    assert observation.evidence == "its hook says idle: which?"
    hooks.take(said("my-agent", "gone"))
    assert (await agent.observe()).activity is Activity.GONE
    assert (await agent.diagnoses())["my-agent"].severity == "warn"


async def test_an_agent_that_is_known_by_its_hooks_hides_no_messages_of_another(combine, hooks):
    other = Named("agentapi", strength=Strength.INFERRED)
    agent = combine(other, hooks=hooks, any_hook=True)
    hooks.take(said("my-agent", "busy"))
    observation = await agent.observe()
    assert (observation.activity, observation.evidence) == (Activity.BUSY, "my-agent: its hook says busy")
    assert agent.kind == "agentapi"
    assert len(await agent.messages(keep=5)) == 2
    other.turn(Activity.GONE)
    await agent.observe()
    assert agent.kind == "my-agent"


async def test_a_hook_refines_the_kind_that_is_observed_by_its_files(combine, hooks):
    codex = Named("codex", strength=Strength.RECORDED, id="s-1")
    codex.turn(Activity.BUSY)
    agent = combine(codex, hooks=hooks, any_hook=True)
    hooks.take(said("codex", "waiting", text="which?"))
    observation = await agent.observe()
    assert (observation.activity, observation.evidence) == (Activity.WAITING, "which?")
    assert [one.kind for one in agent.members] == ["codex"]


@pytest.mark.parametrize(
    ("name", "any_hook"), [("agentapi", True), ("codex", True), ("codex", False), ("my-agent", False)]
)
async def test_a_hook_of_a_kind_that_is_not_allowed_or_has_no_files_yet_does_not_count(
    combine, hooks, tmp_path, name, any_hook
):
    candidate = Candidate("codex", tmp_path / "missing", ScriptedAgent)
    agent = combine(candidates=[candidate], hooks=hooks, any_hook=any_hook)
    hooks.take(said(name, "busy"))
    assert (await agent.observe()).activity is Activity.GONE


async def test_agents_that_are_known_by_their_hooks_are_bounded(combine, hooks):
    agent = combine(hooks=hooks, any_hook=True)
    for number in range(50):
        hooks.take(said(f"agent-{number}", "busy"))
    await agent.observe()
    assert len(agent.members) == combined.HOOK_ONLY_MAX


async def test_a_hook_is_announced_at_once(combine, hooks):
    agent = combine(Named("one"), hooks=hooks, any_hook=True)
    async with aclosing(agent.changes()) as changes:
        hooks.take(said("my-agent", "busy"))
        first = await anext(changes)
        assert (first.observation, first.lost) == (None, True)  # nothing was observed yet
        await agent.observe()
        hooks.take(said("my-agent", "waiting", text="which?"))
        second = await anext(changes)
        assert second.observation.activity is Activity.WAITING
        assert second.observation.evidence == "which?"


async def test_a_hook_that_comes_while_another_agent_is_asked_counts_in_that_answer(combine, hooks):
    other = Named("agentapi", strength=Strength.INFERRED)
    other.turn(Activity.GONE)
    agent = combine(other, hooks=hooks, any_hook=True)
    asked, answer = asyncio.Event(), asyncio.Event()
    observe = other.observe

    async def slow():
        asked.set()
        await answer.wait()
        return await observe()

    other.observe = slow
    observing = asyncio.create_task(agent.observe())
    await asked.wait()
    hooks.take(said("my-agent", "busy"))
    answer.set()
    assert (await observing).activity is Activity.BUSY
    assert (await agent.sessions())[0].id == "s-1"
