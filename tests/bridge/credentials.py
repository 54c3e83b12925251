"""A server that lets in nobody without credentials, as its operator sets it up: operator, account and user, each a JWT.

Each is signed by the one above; the user's file has its JWT and the seed of its key, as `nsc` writes it.
"""

import base64
import json
import os
from pathlib import Path
from typing import Any, Final

import nkeys

UNLIMITED: Final = -1
LIMITS: Final = (
    "subs", "data", "payload", "imports", "exports", "conn", "leaf", "mem_storage", "disk_storage", "streams",
    "consumer",
)  # fmt: skip

CREDENTIALS: Final = """\
-----BEGIN NATS USER JWT-----
{jwt}
------END NATS USER JWT------

-----BEGIN USER NKEY SEED-----
{seed}
------END USER NKEY SEED------
"""


def set_up(folder: Path) -> tuple[Path, Path]:
    """Write the server's configuration and a user's file of credentials; return their paths."""
    operator, user = _pair(nkeys.PREFIX_BYTE_OPERATOR), _pair(nkeys.PREFIX_BYTE_USER)
    system, account = accounts = _pair(nkeys.PREFIX_BYTE_ACCOUNT), _pair(nkeys.PREFIX_BYTE_ACCOUNT)
    limits = {**dict.fromkeys(LIMITS, UNLIMITED), "wildcards": True}
    known = {
        one: _signed(operator, one, "account", {"limits": limits} if one is account else {})
        for one in accounts
    }
    user_jwt = _signed(
        account, user, "user", dict.fromkeys(("subs", "data", "payload"), UNLIMITED) | {"pub": {}, "sub": {}}
    )
    config, credentials = folder / "operator.conf", folder / "feed.creds"
    preload = "\n".join(f"{one.public_key.decode()}: {jwt}" for one, jwt in known.items())
    config.write_text(
        f"operator: {_signed(operator, operator, 'operator', {})}\n"
        f"system_account: {system.public_key.decode()}\n"
        f"resolver: MEMORY\nresolver_preload: {{\n{preload}\n}}\n"
    )
    credentials.write_text(CREDENTIALS.format(jwt=user_jwt, seed=user.seed.decode()))
    return config, credentials


def _pair(kind: int) -> nkeys.KeyPair:
    return nkeys.from_seed(nkeys.encode_seed(os.urandom(32), kind))


def _signed(issuer: nkeys.KeyPair, subject: nkeys.KeyPair, kind: str, claims: dict[str, Any]) -> str:
    """Return what the issuer says of the subject."""
    said = {
        "jti": os.urandom(16).hex(),
        "iat": 0,
        "iss": issuer.public_key.decode(),
        "sub": subject.public_key.decode(),
        "name": kind,
        "nats": {**claims, "type": kind, "version": 2},
    }
    parts = [_encoded(json.dumps(one).encode()) for one in ({"typ": "JWT", "alg": "ed25519-nkey"}, said)]
    return ".".join([*parts, _encoded(issuer.sign(".".join(parts).encode()))])


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
