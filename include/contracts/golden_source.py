"""Where a golden set lies, as a policy says it: in a ConfigMap, at a URL, or in an image."""

from __future__ import annotations

from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from include.contracts.dataset_links import page_fault
from include.contracts.image_reference import InvalidReference, parse_reference

#: Of a ConfigMap or a Secret.
OBJECT_NAME = r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$"


class GoldenSource(BaseModel):
    """Where a golden set lies: in a ConfigMap with the key golden.yaml, at a URL, or in an image as /data/golden.yaml.

    `secret` is for what is private: with the key AUTHORIZATION, the value of that header, for a URL (https only); of
    the type kubernetes.io/dockerconfigjson for an image. Only a ConfigMap's name is written alone, as a text.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)

    config_map: str | None = Field(default=None, alias="configMap", pattern=OBJECT_NAME)
    url: str | None = Field(default=None, pattern=r"^https?://[^\s?#@]+$", max_length=500)
    image: str | None = Field(default=None, min_length=1, max_length=500)
    secret: str | None = Field(default=None, pattern=OBJECT_NAME)

    @field_validator("url")
    @classmethod
    def _is_a_file(cls, url: str | None) -> str | None:
        if url and (told := page_fault(url)):
            raise ValueError(f"{told[0]}: {told[1]}")
        return url

    @field_validator("image")
    @classmethod
    def _is_a_reference(cls, image: str | None) -> str | None:
        try:
            parse_reference(image or "x")
        except InvalidReference as error:
            raise ValueError(f"is not an image reference: {error}") from None
        return image

    @model_validator(mode="after")
    def _is_one_of_them(self) -> GoldenSource:
        given = [name for name in (self.config_map, self.url, self.image) if name]
        if len(given) != 1:
            raise ValueError("needs one of configMap, url and image, and no two of them")
        if self.secret and (self.config_map or (self.url or "https:").startswith("http:")):
            raise ValueError("has a secret, which is for an image or a URL that starts with https://")
        return self

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> Any:
        written: dict[str, Any] = {key: value for key, value in handler(self).items() if value is not None}
        return self.config_map or written

    def __str__(self) -> str:
        """In words, for a sentence."""
        return f"ConfigMap {self.config_map}" if self.config_map else str(self.url or f"image {self.image}")
