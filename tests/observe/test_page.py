"""The page as a file: what its policy allows is what is in it, and nothing in it can turn a value into markup."""

import base64
import hashlib
import re

from feedhandler.observe.page import Page

PAGE = Page.load()
TEXT = PAGE.body.decode()


def hash_of(tag: str) -> str:
    """Return the hash of an element, as browsers compute it."""
    inside = TEXT.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
    return base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()


def test_the_policy_allows_what_is_in_the_page_and_no_more() -> None:
    """One style and one script by their hashes, requests to where it came from; everything else is forbidden."""
    directives = dict(part.strip().split(" ", 1) for part in PAGE.policy.split(";"))
    assert directives == {
        "default-src": "'none'",
        "connect-src": "'self'",
        "img-src": "data:",
        "style-src": f"'sha256-{hash_of('style')}'",
        "script-src": f"'sha256-{hash_of('script')}'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }


def test_nothing_is_loaded_from_anywhere() -> None:
    """The page names no other host and no other file, and has no inline handlers or styles that the policy forbids."""
    addresses = set(re.findall(r"\w+://[^\s'\"]+", TEXT))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a name, not a place
    assert not re.search(r"<(img|iframe|object|embed|form|base|audio|video)\b", TEXT)
    assert not re.search(r"\b(src|style|on[a-z]+)=", TEXT.partition("<script>")[0])
    assert re.findall(r"<link [^>]*href=\"([a-z]+:)", TEXT) == ["data:"]
    assert TEXT.count("<script") == TEXT.count("<style") == 1


def test_values_are_text() -> None:
    """The script uses nothing that reads text as markup or as code."""
    script = TEXT.partition("<script>")[2]
    for forbidden in (
        "innerHTML",
        "outerHTML",
        "insertAdjacent",
        "document.write",
        "eval(",
        "Function(",
        'setTimeout("',
    ):
        assert forbidden not in script
    assert script.count("fetch(") == 1
    assert 'fetch("status?history=1"' in script
