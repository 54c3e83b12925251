"""A NATS server in operator mode: operator, accounts and users are key pairs, each signed for by the one above."""

import base64
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import nkeys

LIMITS = {
    "subs": -1,
    "data": -1,
    "payload": -1,
    "imports": -1,
    "exports": -1,
    "wildcards": True,
    "conn": -1,
    "leaf": -1,
}
STREAMS = {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}


class Key:
    """A key pair."""

    def __init__(self, kind: int) -> None:
        self.seed = nkeys.encode_seed(os.urandom(32), kind).decode()
        self._pair = nkeys.from_seed(bytearray(self.seed.encode()))
        self.public = self._pair.public_key.decode()

    def sign_for(self, subject: str, kind: str, *, expires: int = 0, **claims: Any) -> str:
        """Return a token that says what a public key may do."""
        now = int(time.time())
        content = {"iat": now, "iss": self.public, "name": kind, "sub": subject}
        content["nats"] = {"type": kind, "version": 2, **claims}
        if expires:
            content["exp"] = expires
        content["jti"] = base64.b32encode(hashlib.sha256(_json(content)).digest()).decode().rstrip("=")
        text = f"{_base64(_json({'typ': 'JWT', 'alg': 'ed25519-nkey'}))}.{_base64(_json(content))}"
        return f"{text}.{_base64(self._pair.sign(text.encode()))}"


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


class Operator:
    """An operator with one account for streams."""

    def __init__(self) -> None:
        self._key = Key(nkeys.PREFIX_BYTE_OPERATOR)
        self._account = Key(nkeys.PREFIX_BYTE_ACCOUNT)
        self._system = Key(nkeys.PREFIX_BYTE_ACCOUNT)

    def write_rules(self, path: Path) -> None:
        """Write the server's configuration."""
        sign, account, system = self._key.sign_for, self._account.public, self._system.public
        path.write_text(
            f"operator: {sign(self._key.public, 'operator', system_account=system)}\n"
            f"system_account: {system}\n"
            "resolver: MEMORY\n"
            "resolver_preload: {\n"
            f"  {account}: {sign(account, 'account', limits=LIMITS | STREAMS)}\n"
            f"  {system}: {sign(system, 'account', limits=LIMITS)}\n"
            "}\n"
        )

    def write_user(self, path: Path, *, signer: "Operator | None" = None, expires: int = 0) -> None:
        """Write the credentials of a new user of the account; another operator's account may have signed for it."""
        user = Key(nkeys.PREFIX_BYTE_USER)
        account = (signer or self)._account
        jwt = account.sign_for(user.public, "user", expires=expires, subs=-1, data=-1, payload=-1)
        path.write_text(
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n"
        )
