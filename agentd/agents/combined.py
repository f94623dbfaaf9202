"""All agents of a workspace as one: any that works makes it busy, and the current session has the conversation.

The current session is, in this order: one with a live process, one in the configured directory, the one with the latest
prompt of the user. AgentAPI can run an agent in its terminal that also tells its own state: then what the agent tells
counts for the state and the messages, and AgentAPI takes the input.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Final, NamedTuple

from agentd import log
from agentd.agents.agent import (
    Activity,
    Agent,
    AgentGoneError,
    CannotEndError,
    CannotSendError,
    Capabilities,
    Change,
    Diagnosis,
    Observation,
    Session,
    Strength,
)
from agentd.agents.hook_only import HookOnlyAgent
from agentd.agents.hook_states import HookStates
from agentd.clock import Clock
from agentd.conversation.message import Message
from agentd.proc import read_name, read_stat
from agentd.worker_thread import WorkerThread

LOOK_EVERY_S: Final = 5.0
"""Time between two looks for an agent that was not there."""
LOOK_TIMEOUT_S: Final = 2.0
AGENTAPI: Final = "agentapi"
ANCESTORS_MAX: Final = 64
HOOK_ONLY_MAX: Final = 8
"""Agents that are known by their hooks only."""

# The order of the activities: the first that any agent shows is the activity of all.
_ORDER: Final = (Activity.BUSY, Activity.WAITING, Activity.IDLE, Activity.BROKEN, Activity.GONE)


class Candidate(NamedTuple):
    """A kind of agent that may appear: it is there as soon as `folder` exists, and `build` then makes it."""

    kind: str
    folder: Path
    build: Callable[[], Agent]


class CombinedAgent(Agent):
    """`members` are there from the start, the first one is shown when none can be observed. `directory`: as `agent.directory`.

    `hooks`: what agents' own hooks said, of the `members` and `candidates`, and with `any_hook` of every other agent.
    """

    def __init__(
        self,
        members: Sequence[Agent],
        candidates: Sequence[Candidate] = (),
        *,
        clock: Clock,
        disk: WorkerThread,
        directory: Path | None = None,
        hooks: HookStates | None = None,
        any_hook: bool = False,
    ) -> None:
        self._members = list(members)
        self._candidates = list(candidates)
        self._clock = clock
        self._disk = disk
        self._directory = directory
        self._hooks = hooks
        self._any_hook = any_hook
        self._own: dict[Agent, Observation] = {}
        """What each member observes itself, without hooks."""
        self._seen: dict[Agent, Observation] = {}
        self._sessions: dict[Agent, Sequence[Session]] = {}
        self._current: Agent | None = members[0] if members else None
        self._why = ""
        self._looked_at = float("-inf")
        self._appeared = asyncio.Event()
        self._log = log.get("agents")

    @property
    def kind(self) -> str:
        return self._current.kind if self._current else "none"

    @property
    def can(self) -> Capabilities:
        abilities = [member.can for member in self._members]
        return Capabilities(
            send_input=any(one.send_input for one in abilities),
            end_process=any(one.end_process for one in abilities),
        )

    @property
    def is_announcing(self) -> bool:
        present = self._present()
        return bool(present) and all(member.is_announcing for member in present)

    @property
    def members(self) -> Sequence[Agent]:
        """The agents that are there, for `agentd doctor`."""
        return tuple(self._members)

    async def look(self) -> None:
        """Build the candidates whose folder exists now."""
        self._looked_at = self._clock.monotonic()
        waiting = self._candidates
        try:
            async with asyncio.timeout(LOOK_TIMEOUT_S):
                found = await self._disk.run(lambda: [one for one in waiting if one.folder.is_dir()])
        except (TimeoutError, OSError, RuntimeError):
            return  # looked for again at the next poll that is due
        for candidate in found:
            self._candidates.remove(candidate)
            self._members.append(candidate.build())
            self._log.info("agent.found", kind=candidate.kind, folder=str(candidate.folder))
            self._appeared.set()

    # Observing.

    async def sessions(self) -> Sequence[Session]:
        own = self._sessions.get(self._current, ()) if self._current else ()
        return [
            *own,
            *(one for member, all_ in self._sessions.items() if member is not self._current for one in all_),
        ]

    async def observe(self) -> Observation:
        if self._candidates and self._clock.monotonic() - self._looked_at >= LOOK_EVERY_S:
            await self.look()
        members = [one for one in self._members if not isinstance(one, HookOnlyAgent)]
        observations = await asyncio.gather(*(member.observe() for member in members))
        self._own = dict(zip(members, observations, strict=True))
        sessions = await asyncio.gather(*(member.sessions() for member in members))
        self._sessions = dict(zip(members, sessions, strict=True))
        await self._take_hooks()  # at last: they may have come during the questions above
        return self._combine()

    async def messages(
        self, *, keep: int, timeout_s: float | None = None, fresh: bool = False
    ) -> Sequence[Message]:
        if self._current is None:
            raise AgentGoneError("no agent was found")
        return await self._current.messages(keep=keep, timeout_s=timeout_s, fresh=fresh)

    async def saved_messages(self, *, keep: int) -> Sequence[Message]:
        for member in self._members:
            if saved := await member.saved_messages(keep=keep):
                return saved
        return ()

    async def changes(self) -> AsyncGenerator[Change, None]:
        """The announcements of every member, also of one that appears later."""
        queue: asyncio.Queue[tuple[Agent | None, Change]] = asyncio.Queue(maxsize=64)

        async def follow(member: Agent) -> None:
            async with aclosing(member.changes()) as changes:
                async for change in changes:
                    await queue.put((member, change))

        async def follow_all() -> None:
            followed: set[Agent] = set()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follow_hooks(queue), name="agents' hooks")
                while True:
                    self._appeared.clear()
                    for member in self._members:
                        if member not in followed:
                            followed.add(member)
                            group.create_task(follow(member), name=f"changes of {member.kind}")
                    await self._appeared.wait()

        following = asyncio.create_task(follow_all(), name="agents' changes")
        getting: asyncio.Task[tuple[Agent | None, Change]] | None = None
        try:
            while True:
                getting = asyncio.create_task(queue.get(), name="next change")
                await asyncio.wait({getting, following}, return_when=asyncio.FIRST_COMPLETED)
                if not getting.done():
                    following.result()  # raises what ended it
                member, change = getting.result()
                yield self._combined_change(member, change) if member else await self._after_hook()
        finally:
            if getting is not None:
                getting.cancel()
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    # Acting.

    async def send(self, content: str) -> None:
        for member in self._present():
            if member.can.send_input:
                await member.send(content)
                return
        raise CannotSendError("no agent that runs takes input")

    async def end(self, *, timeout_s: float) -> None:
        for member in self._members:
            if member.can.end_process:
                await member.end(timeout_s=timeout_s)
                return
        raise CannotEndError("no agent that was found can be ended")

    async def diagnose(self) -> Diagnosis:
        if not self._members:
            return Diagnosis(
                "fail", "no agent was found", "start an agent, or set agent.home to the home of its user"
            )
        found = await asyncio.gather(*(member.diagnose() for member in self._members))
        usable = [one for one in found if one.severity == "ok"]
        if usable:
            return Diagnosis("ok", "; ".join(one.cause for one in usable))
        return min(found, key=lambda one: ("warn", "fail").index(one.severity))

    async def diagnoses(self) -> Mapping[str, Diagnosis]:
        """Every agent that is there. AgentAPI is left out if it does not answer and another one can be observed."""
        if self._candidates:
            await self.look()
        if not self._members:
            return {self.kind: await self.diagnose()}
        members = list(self._members)
        found = dict(zip(members, await asyncio.gather(*(one.diagnose() for one in members)), strict=True))
        for member in members:
            if member.kind != AGENTAPI or found[member].severity != "fail":
                continue
            if any(one.severity == "ok" for one in found.values()):
                seen = await member.observe()
                if seen.activity is Activity.GONE:
                    del found[member]
        return {member.kind: diagnosis for member, diagnosis in found.items()}

    async def close(self) -> None:
        for member in self._members:
            await member.close()
        self._disk.close(0)

    # What hooks say.

    async def _follow_hooks(self, queue: "asyncio.Queue[tuple[Agent | None, Change]]") -> None:
        while self._hooks is not None:
            await self._hooks.arrived.wait()
            self._hooks.arrived.clear()
            await queue.put((None, Change()))

    def _add_hook_only(self) -> None:
        """Add the agents that are known by their hooks only."""
        if self._hooks is None or not self._any_hook:
            return
        known = {AGENTAPI, *(one.kind for one in self._members), *(one.kind for one in self._candidates)}
        left = HOOK_ONLY_MAX - sum(isinstance(one, HookOnlyAgent) for one in self._members)
        for name in [one for one in self._hooks.agents() if one not in known][:left]:
            self._members.append(HookOnlyAgent(name, self._hooks))
            self._log.info("agent.found", kind=name, folder="")
            self._appeared.set()

    def _with_hooks(self, member: Agent) -> Observation:
        own = self._own[member]
        if self._hooks is None or isinstance(member, HookOnlyAgent):
            return own
        return self._hooks.refined(member.kind, own, self._sessions.get(member, ()))

    async def _after_hook(self) -> Change:
        """What follows from an event of a hook, without asking the agents that have none."""
        if not self._own:
            return Change(lost=True)  # nothing was observed yet: a poll is due
        await self._take_hooks()
        return Change(self._combine(), lost=True)

    async def _take_hooks(self) -> None:
        """Bring what the members were seen to do up to date with the hooks."""
        self._add_hook_only()
        for member in self._members:
            if isinstance(member, HookOnlyAgent):
                self._own[member] = await member.observe()
                self._sessions[member] = await member.sessions()
        self._seen = {member: self._with_hooks(member) for member in self._own}

    # What follows from the observations.

    def _present(self) -> list[Agent]:
        gone = (Activity.GONE, Activity.BROKEN)
        return [member for member, seen in self._seen.items() if seen.activity not in gone]

    def _combine(self) -> Observation:
        """The observation of all members, and the choice of the current one."""
        counted = {
            member: seen for member, seen in self._seen.items() if not self._is_screen_of_another(member)
        }
        if not counted:
            return Observation(Activity.GONE, evidence="no agent was found", readable=False)
        self._choose(counted)
        current = (
            self._current if self._current is not None and self._current in counted else next(iter(counted))
        )
        activity = next(one for one in _ORDER if any(seen.activity is one for seen in counted.values()))
        if activity is Activity.GONE:
            return counted[current]
        if counted[current].activity is activity:
            return counted[current]._replace(evidence=self._evidence(current, counted[current]))
        decisive = next(member for member, seen in counted.items() if seen.activity is activity)
        seen = counted[decisive]
        return counted[current]._replace(
            activity=activity, strength=seen.strength, evidence=self._evidence(decisive, seen)
        )

    def _evidence(self, member: Agent, seen: Observation) -> str:
        if len(self._seen) == 1 or seen.activity is Activity.WAITING:
            return seen.evidence  # of a waiting agent it is its question
        return f"{member.kind}: {seen.evidence}"

    def _choose(self, counted: dict[Agent, Observation]) -> None:
        gone = (Activity.GONE, Activity.BROKEN)
        # An agent that is known by its hooks only has no messages.
        has_messages = any(
            seen.activity not in gone and not isinstance(member, HookOnlyAgent)
            for member, seen in counted.items()
        )
        ranked = [
            (self._rank(session), -number, member)
            for number, member in enumerate(counted)
            for session in self._sessions.get(member, ())[:1]
            if not (has_messages and isinstance(member, HookOnlyAgent))
        ]
        if not ranked:
            return
        _, _, best = max(ranked, key=lambda one: one[:2])
        if best is not self._current:
            previous, self._current = self._current, best
            if previous is not None:
                self._log.info("agent.current", kind=best.kind, before=previous.kind)

    def _rank(self, session: Session) -> tuple[bool, bool, float]:
        inside = self._directory is None or Path(session.directory).is_relative_to(self._directory)
        return session.is_live, inside, session.prompted_at

    def _is_screen_of_another(self, member: Agent) -> bool:
        """Whether `member` is AgentAPI, and shows the terminal of an agent that tells its own state."""
        if member.kind != AGENTAPI or self._seen[member].strength > Strength.INFERRED:
            return False
        return any(
            seen.activity not in (Activity.GONE, Activity.BROKEN)
            and seen.strength > Strength.INFERRED
            and any(one.is_live and runs_below(one.pid, AGENTAPI) for one in self._sessions.get(other, ()))
            for other, seen in self._seen.items()
            if other is not member
        )

    def _combined_change(self, member: Agent, change: Change) -> Change:
        if change.observation is not None:
            self._own[member] = change.observation
            self._seen[member] = self._with_hooks(member)
            change = change._replace(observation=self._combine())
        return change._replace(messages=change.messages and member is self._current)


def runs_below(pid: int, name: str) -> bool:
    """Whether an ancestor of process `pid` has the command name `name`."""
    for _ in range(ANCESTORS_MAX):
        stat = read_stat(pid) if pid > 1 else None
        if stat is None:
            return False
        pid = stat.parent
        if read_name(pid) == name:
            return True
    return False
