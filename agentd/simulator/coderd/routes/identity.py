"""`POST /workspaceagents/{aws,azure,google}-instance-identity`: an agent token for an instance identity."""

from typing import Final

from aiohttp import web

from agentd.simulator import gojson, instance_identity
from agentd.simulator.coderd import answers
from agentd.simulator.coderd.workspaces import Caller
from agentd.simulator.coderd.world import World

_REQUIRED: Final = {
    "aws": ("signature", "document"),
    "azure": ("signature", "encoding"),
    "google": ("json_web_token",),
}


def serve(world: World, cloud: str, body: bytes) -> web.Response:
    """Answer with the token of the agent on the instance that the signed document names."""
    if cloud not in _REQUIRED:
        return answers.route_not_found()
    try:
        value = gojson.first_value(gojson.text_of(body))
    except gojson.GoSyntaxError as exc:
        return answers.error(400, "Request body must be valid JSON.", detail=str(exc))
    fields = (
        {name: str(item) for name, item in value if item is not None}
        if isinstance(value, gojson.Pairs)
        else {}
    )
    missing = [name for name in _REQUIRED[cloud] if not fields.get(name)]
    if missing:
        detail = 'Validation failed for tag "required" with value: ""'
        return answers.error(400, "Validation failed.", validations=[(name, detail) for name in missing])
    try:
        instance_id = _verify(cloud, fields)
    except instance_identity.InvalidIdentityError as exc:
        name = {"aws": "AWS", "azure": "Azure", "google": "GCP"}[cloud]
        return answers.error(401, f"Invalid {name} identity.", detail=str(exc))
    return _token_for(world, instance_id, fields.get("agent_name", ""))


def _verify(cloud: str, fields: dict[str, str]) -> str:
    if cloud == "aws":
        return instance_identity.verify_aws(fields["document"], fields["signature"])
    if cloud == "azure":
        return instance_identity.verify_azure(fields["signature"])
    return instance_identity.verify_google(fields["json_web_token"])


def _token_for(world: World, instance_id: str, agent_name: str) -> web.Response:
    found = world.workspaces.of_instance(instance_id)
    if not found:
        return answers.error(404, f'Instance with id "{instance_id}" not found.')
    newest: dict[tuple[str, str], Caller] = {}
    for caller in found:
        newest.setdefault((caller.workspace.id, caller.agent.name), caller)
    fitting = [caller for caller in newest.values() if agent_name in ("", caller.agent.name)]
    if not fitting:
        return answers.error(404, f'No agent found with instance ID "{instance_id}" and name "{agent_name}".')
    if len(fitting) > 1:
        names = ", ".join(sorted(caller.agent.name for caller in fitting))
        return answers.error(
            409,
            f'Multiple agents found with instance ID "{instance_id}". Set CODER_AGENT_NAME to one of: {names}',
        )
    caller = fitting[0]
    if caller.build is not caller.workspace.latest:
        return answers.error(
            400, f'Resource found for id "{instance_id}", but isn\'t registered on the latest history.'
        )
    return answers.reply(200, {"session_token": caller.agent.token})
