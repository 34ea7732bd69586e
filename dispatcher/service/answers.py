"""What the service answers: as JSON the same from the API and the command line."""

from typing import Any, Generic, TypeVar

import msgspec
from pydantic import BaseModel, ConfigDict, Field


class Answer(BaseModel):
    """What the service answers; as JSON it is the same from the API and the command line."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def json_bytes(self) -> bytes:
        """UTF-8 JSON, with events' data as it was written."""
        return msgspec.json.encode(self.model_dump())

    def model_dump_json(self, *, indent: int | None = None, **options: Any) -> str:
        """JSON text, with events' data as it was written; `options` are those of `model_dump`."""
        encoded = msgspec.json.encode(self.model_dump(**options))
        return (encoded if indent is None else msgspec.json.format(encoded, indent=indent)).decode()


Item = TypeVar("Item")


class Page(Answer, Generic[Item]):
    """A part of a list, newest first."""

    data: list[Item]
    next_cursor: str | None = Field(description="For the next part, as `cursor`; null: this is the last.")
