"""The page for people: one HTML file with its style and its script inside, and the policy that allows just those.

The page asks ``status?history=1`` of the daemon that it came from, again and again, and draws what it gets. It loads
nothing else from anywhere. Style and script are allowed by their hashes, so that nothing that gets into the page by
another way is ever run; the page writes values as text and never as markup.
"""

import base64
import hashlib
import re
from importlib.resources import files
from typing import NamedTuple, Self

POLICY = (
    "default-src 'none'; connect-src 'self'; img-src data:; style-src {style}; script-src {script}; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Page(NamedTuple):
    """The page and its content security policy."""

    body: bytes
    policy: str

    @classmethod
    def load(cls) -> Self:
        """Read the page from the package."""
        text = files("feedhandler.observe").joinpath("page.html").read_text(encoding="utf-8")
        return cls(text.encode(), POLICY.format(style=_hash(text, "style"), script=_hash(text, "script")))


def _hash(text: str, tag: str) -> str:
    """Return the hash of the one element of its kind, as a policy names it."""
    [inside] = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()}'"
