"""The API description: complete, self-consistent, and true."""

from __future__ import annotations

import json
import re

import pytest

from cluster.api.app import ROUTES
from cluster.api.openapi import describe_api, public_path
from cluster.api.search_schema import QueryPoints
from cluster.config import Config
from tests.unit.api_router import served

DESCRIPTION = describe_api(ROUTES, "1.2.3", locked=True)


def test_every_route_is_described():
    """Each row of the route table is an operation of the document, and nothing else is."""
    described = {
        (method.upper(), path)
        for path, operations in DESCRIPTION["paths"].items()
        for method in operations
    }

    assert described == {(route.method, public_path(route)) for route in ROUTES}


def test_every_reference_leads_somewhere():
    """Each `$ref` names a schema of the document."""
    names = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(DESCRIPTION)))

    assert names <= DESCRIPTION["components"]["schemas"].keys()
    assert names


def test_operations_have_names_of_their_own():
    """Generated clients need one name per operation."""
    names = [
        operation["operationId"]
        for operations in DESCRIPTION["paths"].values()
        for operation in operations.values()
    ]

    assert len(set(names)) == len(names)


def test_path_variables_are_described():
    """Every variable of a path is a required parameter."""
    for path, operations in DESCRIPTION["paths"].items():
        for operation in operations.values():
            names = {item["name"] for item in operation["parameters"] if item["in"] == "path"}

            assert names == set(re.findall(r"\{(\w+)\}", path))


def test_bodies_refuse_unknown_fields_and_lacking_ones():
    """Request schemas are closed, and a field that is not served may be null only."""
    schema = DESCRIPTION["components"]["schemas"]["QueryPoints"]

    assert schema["additionalProperties"] is False
    assert {
        name: schema["properties"][name]["type"] for name in QueryPoints.lacking
    } == dict.fromkeys(QueryPoints.lacking, "null")


@pytest.mark.parametrize("status", ["400", "401", "404", "413", "415", "503", "507"])
def test_refusals_have_the_error_envelope(status):
    """Writes document each refusal with the one error shape."""
    operation = DESCRIPTION["paths"]["/collections/{collection_name}/points"]["put"]
    content = operation["responses"][status]["content"]["application/json"]

    assert content["schema"] == {"$ref": "#/components/schemas/ErrorEnvelope"}


async def test_the_description_is_served_behind_the_key():
    """/openapi.json is the bare document, and needs the key as every route does."""
    async with served(config=Config(api_key="k")) as client:
        url = f"http://127.0.0.1:{client.port}/openapi.json"
        async with client.session.get(url) as refused:
            pass
        async with client.session.get(url, headers={"api-key": "k"}) as answer:
            document = await answer.json()

        assert refused.status == 401
        assert document["openapi"] == "3.1.0"
        assert "/openapi.json" in document["paths"]
