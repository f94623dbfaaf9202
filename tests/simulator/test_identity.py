"""Instance identities of the simulated metadata services, and their exchange for a token."""

import json

import pytest

from agentd.simulator.coderd import SimulatedCoderd
from agentd.simulator.metadata import SimulatedMetadata

INSTANCE = "i-0123456789abcdef0"


async def identity(ask, cloud, kind):
    if kind == "aws":
        token = (
            await ask(
                "PUT",
                cloud.url + "/latest/api/token",
                headers={"X-aws-ec2-metadata-token-ttl-seconds": "21600"},
            )
        ).text
        headers = {"X-aws-ec2-metadata-token": token}
        base = cloud.url + "/latest/dynamic/instance-identity/"
        return {
            name: (await ask("GET", base + name, headers=headers)).text for name in ("signature", "document")
        }
    if kind == "azure":
        url = cloud.url + "/metadata/attested/document?api-version=2020-09-01"
        return json.loads((await ask("GET", url, headers={"Metadata": "true"})).body)
    url = (
        cloud.url
        + "/computeMetadata/v1/instance/service-accounts/default/identity?audience=coder&format=full"
    )
    return {"json_web_token": (await ask("GET", url, headers={"Metadata-Flavor": "Google"})).text}


@pytest.mark.parametrize("kind", ["aws", "azure", "google"])
async def test_an_instance_identity_is_exchanged_for_the_token_of_the_latest_build(ask, kind):
    async with SimulatedCoderd() as coderd, SimulatedMetadata(INSTANCE) as cloud:
        ws = coderd.add_workspace()
        coderd.set_instance(ws, INSTANCE)
        url = f"{coderd.url}/api/v2/workspaceagents/{kind}-instance-identity"
        body = await identity(ask, cloud, kind)
        first = await ask("POST", url, json=body)
        assert (first.status, first.text) == (200, f'{{"session_token":"{ws.token}"}}\n')

        fresh = coderd.start_build(ws)
        assert json.loads((await ask("POST", url, json=body)).body) == {"session_token": fresh}

        coderd.stop_start(ws)
        late = await ask("POST", url, json=body)
        assert (late.status, json.loads(late.body)["message"]) == (
            400,
            f'Resource found for id "{INSTANCE}", but isn\'t registered on the latest history.',
        )


@pytest.mark.parametrize(
    ("kind", "body", "message"),
    [
        ("aws", {"signature": "eA==", "document": "{}"}, "Invalid AWS identity."),
        ("azure", {"signature": "!", "encoding": "pkcs7"}, "Invalid Azure identity."),
        ("google", {"json_web_token": "a.b.c"}, "Invalid GCP identity."),
    ],
)
async def test_a_wrong_signature_is_a_401(ask, kind, body, message):
    async with SimulatedCoderd() as coderd:
        got = await ask("POST", f"{coderd.url}/api/v2/workspaceagents/{kind}-instance-identity", json=body)

        assert (got.status, got.text) == (
            401,
            f'{{"message":"{message}","detail":"Signature verification failed."}}\n',
        )


async def test_a_refusal_contains_the_instance_and_the_agents(ask):
    async with SimulatedCoderd() as coderd, SimulatedMetadata(INSTANCE) as cloud:
        url = f"{coderd.url}/api/v2/workspaceagents/google-instance-identity"
        body = await identity(ask, cloud, "google")

        async def refused(**more):
            got = await ask("POST", url, json=body | more)
            return got.status, json.loads(got.body)["message"]

        assert await refused() == (404, f'Instance with id "{INSTANCE}" not found.')
        for name in ("b", "a"):
            coderd.set_instance(coderd.add_workspace(agent_name=name), INSTANCE)
        assert await refused() == (
            409,
            f'Multiple agents found with instance ID "{INSTANCE}". Set CODER_AGENT_NAME to one of: a, b',
        )
        assert await refused(agent_name="c") == (
            404,
            f'No agent found with instance ID "{INSTANCE}" and name "c".',
        )
        assert (await ask("POST", url, json=body | {"agent_name": "a"})).status == 200
        missing = await ask("POST", url, json={})
        assert missing.text == (
            '{"message":"Validation failed.","validations":[{"field":"json_web_token",'
            '"detail":"Validation failed for tag \\"required\\" with value: \\"\\""}]}\n'
        )


async def test_the_metadata_service_requires_its_headers(ask):
    async with SimulatedMetadata() as cloud:
        assert (await ask("GET", cloud.url + "/latest/dynamic/instance-identity/document")).status == 401
        assert (await ask("PUT", cloud.url + "/latest/api/token")).status == 400
        assert (await ask("GET", cloud.url + "/metadata/attested/document?api-version=1")).status == 400
        google = cloud.url + "/computeMetadata/v1/instance/service-accounts/default/identity"
        assert (await ask("GET", google)).status == 403
        assert len(cloud.requests) == 4
        cloud.fault("respond", status=503)
        assert (await ask("GET", google)).status == 503
