"""GitHub's own description of its REST API as the rules of a FakeGitHub."""

import re
from collections.abc import Iterator
from typing import Any

from openapi_schema_validator import OAS30Validator

from tests.records.fake_github import Reply, Request


class OpenApi:
    """What requests may ask and what answers must look like, by an OpenAPI 3.0 description."""

    def __init__(self, description: dict[str, Any]) -> None:
        self._description = description
        by_placeholders = sorted(description["paths"].items(), key=lambda path: path[0].count("{"))
        self._paths = [(_pattern(path), operations) for path, operations in by_placeholders]

    def complaint(self, request: Request) -> str:
        """Why the description does not allow a request; "" when it does."""
        operation = self._operation(request)
        if operation is None:
            return f"there is no {request.method} {request.path}"
        known = {entry["name"]: entry for entry in self._parameters(operation) if entry["in"] == "query"}
        required = {name for name, entry in known.items() if entry.get("required")}
        if unknown := request.params.keys() - known.keys():
            return f"unknown parameters: {', '.join(sorted(unknown))}"
        if missing := required - request.params.keys():
            return f"missing parameters: {', '.join(sorted(missing))}"
        wrong = [name for name, value in request.params.items() if not _fits(value, known[name]["schema"])]
        return f"parameters with a wrong value: {', '.join(wrong)}" if wrong else ""

    def check(self, request: Request, reply: Reply) -> None:
        """Raises when an answer is not as described; statuses that are not described may have any content."""
        operation = self._operation(request)
        response = self._resolved((operation or {})["responses"].get(str(reply.status), {}))
        for content in response.get("content", {}).values():
            validator = OAS30Validator({**content["schema"], "components": self._description["components"]})
            validator.validate(reply.content)

    def example(self, name: str) -> Any:
        """One of the description's examples of an object."""
        return self._description["components"]["examples"][name]["value"]

    def _operation(self, request: Request) -> dict[str, Any] | None:
        """The operation whose path fits with the fewest placeholders."""
        for pattern, operations in self._paths:
            operation: dict[str, Any] | None = operations.get(request.method.lower())
            if operation is not None and pattern.fullmatch(request.path):
                return operation
        return None

    def _parameters(self, operation: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for entry in operation.get("parameters", ()):
            yield self._resolved(entry)

    def _resolved(self, entry: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in entry:
            value: Any = self._description
            for part in entry["$ref"].removeprefix("#/").split("/"):
                value = value[part]
            entry = value
        return entry


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(path)))


def _fits(value: str, schema: dict[str, Any]) -> bool:
    typed: Any = int(value) if schema.get("type") == "integer" and value.isdigit() else value
    if schema.get("type") == "boolean" and value in {"true", "false"}:
        typed = value == "true"
    return not list(OAS30Validator(schema).iter_errors(typed))
