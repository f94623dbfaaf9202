"""An agent that is known by its hooks only: its states are told, its messages are unknown."""

from collections.abc import Sequence

from agentd.agents.agent import Activity, Agent, Diagnosis, Observation, Session, Strength
from agentd.agents.hook_states import HookStates
from agentd.conversation.message import Message


class HookOnlyAgent(Agent):
    """The agent that calls `agentd hook NAME`. `hooks` holds what its hooks said."""

    def __init__(self, name: str, hooks: HookStates) -> None:
        self._name = name
        self._hooks = hooks

    @property
    def kind(self) -> str:
        return self._name

    @property
    def is_announcing(self) -> bool:
        return True

    async def sessions(self) -> Sequence[Session]:
        return [
            Session(told.event.session, told.event.directory, is_live=True, prompted_at=told.prompted_at)
            for told in self._hooks.of(self._name)
        ]

    async def observe(self) -> Observation:
        told = next(iter(self._hooks.of(self._name)), None)
        if told is None:
            return Observation(Activity.GONE, evidence="no hook tells of a session", readable=False)
        return Observation(told.activity, Strength.TOLD, told.evidence)

    async def messages(
        self,
        *,
        keep: int,  # noqa: ARG002 - there are none
        timeout_s: float | None = None,  # noqa: ARG002 - there are none
        fresh: bool = False,  # noqa: ARG002 - there are none
    ) -> Sequence[Message]:
        """None: a hook tells a state, not the conversation."""
        return ()

    async def close(self) -> None:
        """Nothing is open."""

    async def diagnose(self) -> Diagnosis:
        observation = await self.observe()
        if observation.activity is Activity.GONE:
            return Diagnosis(
                "warn", observation.evidence, f"configure `agentd hook {self._name}` in the agent"
            )
        return Diagnosis("ok", f"{self._name} is observed by its hooks: {observation.evidence}")
