"""Which models may be put where anybody can take them: what their licence and their gate say.

The licences of this list allow others to hand the files on to everybody. Nothing is known of any other, so it is taken
to forbid that. A gated model is one whose readers have agreed to something, whatever its licence is.
"""

from __future__ import annotations

import re

from include.contracts.image_reference import DOCKER_HUB

#: Identifiers as the hub writes them, in lower case.
REDISTRIBUTABLE = frozenset(
    {
        "afl-3.0",
        "apache-2.0",
        "artistic-2.0",
        "bsd",
        "bsd-2-clause",
        "bsd-3-clause",
        "bsd-3-clause-clear",
        "bsl-1.0",
        "cc0-1.0",
        "cc-by-4.0",
        "cc-by-sa-4.0",
        "cdla-permissive-2.0",
        "isc",
        "mit",
        "ms-pl",
        "ncsa",
        "odc-by",
        "unlicense",
        "wtfpl",
        "zlib",
    }
)
#: Registries whose repositories only their owner's accounts can read unless somebody opens them.
PRIVATE_BY_DEFAULT = re.compile(
    r"[a-z0-9-]+\.azurecr\.(?:io|cn|us)|[0-9]+\.dkr\.ecr(?:-fips)?\.[a-z0-9-]+\.amazonaws\.com(?:\.cn)?"
    r"|[a-z0-9-]+-docker\.pkg\.dev|(?:[a-z]+\.)?gcr\.io"
)


def may_be_public(licence: str, gated: bool) -> str:
    """Why a model must not be where everybody can read it; "" where nothing forbids that.

    :param licence: the identifier that its repository gives, "" where it gives none.
    :param gated: whether its readers have to agree to terms first.
    """
    if gated:
        return "it is gated: whoever takes it has to accept its terms"
    if not licence:
        return "its licence is not known"
    if licence.lower() not in REDISTRIBUTABLE:
        return f"its licence {licence} is not one that is known to allow that"
    return ""


def is_private_by_default(registry: str) -> bool:
    """Whether a registry, as references write it, hides its repositories unless somebody opens them."""
    return registry != DOCKER_HUB and PRIVATE_BY_DEFAULT.fullmatch(registry.partition(":")[0]) is not None
