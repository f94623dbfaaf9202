"""A claim and its hooks as the ledger knows them, and their record on disk. Pure."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from agentd.claims.lifecycle import (
    FINAL_CLAIM_STATES,
    FINISHED_HOOK_STATES,
    ClaimState,
    HookState,
    IllegalClaimStepError,
)
from agentd.proc import ProcessIdentity

_TIME_MAX: Final = 253_402_300_799
"""The last second of the year 9999."""


class Hook(NamedTuple):
    """One hook of one claim. Times are Unix seconds.

    `attempt` counts all starts, `failures` and `interruptions` those since the claim was admitted or retried.
    `run_id`, `process` and what follows are of the last start. `exit_code` is negative for a signal. `why`
    explains a failure or interruption; `tail` is the end of the output.
    """

    name: str
    state: HookState = HookState.PENDING
    attempt: int = 0
    failures: int = 0
    interruptions: int = 0
    run_id: str = ""
    process: ProcessIdentity | None = None
    exit_code: int | None = None
    why: str = ""
    tail: str = ""
    started_at: float | None = None
    ended_at: float | None = None


class Claim(NamedTuple):
    """One claim of a prebuild. Times are Unix seconds; `why` explains `held` and `failed`.

    `token_fingerprint` is that of the agent token with which the event was received. `inferred` as in `ClaimEvent`.
    """

    id: str
    workspace_id: str | None
    owner_id: str | None
    reason: str
    token_fingerprint: str
    state: ClaimState
    admitted_at: float
    changed_at: float
    why: str = ""
    hooks: tuple[Hook, ...] = ()
    inferred: bool = False

    @property
    def is_final(self) -> bool:
        """True if the claim is done, failed or held: no hook runs unless an operator acts."""
        return self.state in FINAL_CLAIM_STATES

    @property
    def started_hook(self) -> Hook | None:
        """The hook whose process may exist."""
        return next((hook for hook in self.hooks if hook.state is HookState.STARTED), None)

    @property
    def next_hook(self) -> Hook | None:
        """The first hook, in name order, that is neither succeeded nor skipped."""
        return next((hook for hook in self.hooks if hook.state not in FINISHED_HOOK_STATES), None)

    def hook(self, name: str) -> Hook:
        """Raises `IllegalClaimStepError` for a hook that was never planned."""
        for hook in self.hooks:
            if hook.name == name:
                return hook
        raise IllegalClaimStepError(f"claim {self.id} has no hook {name!r}")

    def with_hook(self, hook: Hook) -> "Claim":
        """This claim with `hook` in place of the hook of the same name."""
        return self._replace(hooks=tuple(hook if old.name == hook.name else old for old in self.hooks))

    def to_record(self) -> dict[str, Any]:
        """The `claim` record of the ledger, which stands for the whole history of this claim."""
        fields = self._asdict()
        fields["token"] = fields.pop("token_fingerprint")
        if not self.inferred:
            del fields["inferred"]  # as written by an agentd that does not know the field
        fields["hooks"] = [
            {**hook._asdict(), "process": hook.process and hook.process._asdict()} for hook in self.hooks
        ]
        return {"kind": "claim", "at": self.changed_at, **fields}


def claim_from_record(record: Mapping[str, Any]) -> Claim:
    """The claim of a `claim` record. `KeyError`, `TypeError` or `ValueError` if it is malformed."""
    hooks = []
    for hook in record["hooks"]:
        process = hook["process"] and ProcessIdentity(**hook["process"])
        times = {name: hook[name] and unix_time(hook[name]) for name in ("started_at", "ended_at")}
        hooks.append(Hook(**{**hook, **times, "state": HookState(hook["state"]), "process": process}))
        _check_texts(hook, "name", "run_id", "why", "tail")
    record = {"inferred": False, **record}
    fields = {name: record["token" if name == "token_fingerprint" else name] for name in Claim._fields}
    times = {name: unix_time(record[name]) for name in ("admitted_at", "changed_at")}
    _check_texts(record, "id", "reason", "token", "why")
    return Claim(**{**fields, **times, "state": ClaimState(record["state"]), "hooks": tuple(hooks)})


def unix_time(value: object) -> float:
    """`value` as Unix seconds. Raises `TypeError` or `ValueError` for a time that cannot be printed."""
    if not isinstance(value, int | float) or not 0 <= value <= _TIME_MAX:
        raise ValueError(f"not a time: {value!r}")
    return float(value)


def _check_texts(record: Mapping[str, Any], *names: str) -> None:
    for name in names:
        if not isinstance(record[name], str):
            raise TypeError(f"{name} is not a text")
