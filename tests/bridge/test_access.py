"""Who is let in, and by whom: credentials, certificates and permissions with a real nats-server."""

import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio
import trustme

from tests.bridge.nats import free_port, nats_server
from tests.bridge.operators import Operator
from tests.bridge.running import MARKETS, bridge, check, ended, exchange, sent_more
from tests.support.processes import Child, daemon, finished, until, write_config

COMMAND = ("bridge", "nats", "--socket", "x.sock", "--server")


def last(done: Child) -> str:
    """Return the last line that a bridge has said."""
    return done.errors.lines[-1].removeprefix("feedhandler: ")


# Credentials


async def test_credentials(tmp_path):
    """With a .creds file of the account the stream is the truth, whatever the file's line ends are."""
    operator, credentials = Operator(), tmp_path / "feed.creds"
    operator.write_rules(tmp_path / "nats.conf")
    operator.write_user(credentials)
    arguments = ("--credentials", credentials)
    async with (
        nats_server(tmp_path, "-c", tmp_path / "nats.conf") as server,
        exchange(tmp_path, "--wait", 3, "--rate", 200) as running,
        daemon(write_config(tmp_path, running.url, markets=MARKETS)),
    ):
        server.options = {"user_credentials": str(credentials)}
        async with bridge(server, tmp_path / "feed.sock", *arguments) as forwarding:
            await forwarding.errors.wait_for('"bridge_led"')
            await sent_more(tmp_path, 100)
            assert await forwarding.stop() == 0
            secrets = [line for line in credentials.read_text().splitlines() if line and "-----" not in line]
            assert not any(one in str(forwarding.errors) for one in secrets)
        credentials.write_bytes(credentials.read_bytes().replace(b"\n", b"\r\n"))
        async with bridge(server, tmp_path / "feed.sock", *arguments):
            operator.write_user(tmp_path / "reader.creds")
            server.options = {"user_credentials": str(tmp_path / "reader.creds")}
            sent, found = await ended(tmp_path, running, server)
    check(sent, found)


async def test_credentials_that_are_refused(tmp_path):
    """A user whom another account signed for, and one whose time is over, end the bridge with 1 and one line."""
    operator = Operator()
    operator.write_rules(tmp_path / "nats.conf")
    operator.write_user(tmp_path / "foreign.creds", signer=Operator())
    operator.write_user(tmp_path / "expired.creds", expires=int(time.time()) - 10)
    async with nats_server(tmp_path, "-c", tmp_path / "nats.conf") as server:
        for name in ("foreign.creds", "expired.creds"):
            done = await finished(*COMMAND, server.url, "--credentials", tmp_path / name)
            assert (done.process.returncode, last(done)) == (1, "the server refuses the credentials")


async def test_credentials_that_run_out(tmp_path):
    """A user whose time ends is thrown out, and let in again as soon as the file has a new one."""
    operator, credentials = Operator(), tmp_path / "feed.creds"
    operator.write_rules(tmp_path / "nats.conf")
    operator.write_user(credentials, expires=int(time.time()) + 4)
    async with (
        nats_server(tmp_path, "-c", tmp_path / "nats.conf") as server,
        bridge(server, tmp_path / "x.sock", "--credentials", credentials) as forwarding,
    ):
        await forwarding.errors.wait_for('"bridge_linked"')
        assert "credentials" in await forwarding.errors.wait_for('"bridge_access_refused"')
        operator.write_user(credentials)
        await until(lambda: len(forwarding.notes("bridge_linked")) == 2)


@pytest.mark.parametrize("text", ["", "-----BEGIN NATS USER JWT-----", "SUAMK2FG", "\x00" * 100])
async def test_what_is_no_credentials_file(tmp_path, text):
    """It is a mistake of whoever started the bridge, told before a server is asked; what is in it shows nowhere."""
    path = tmp_path / "feed.creds"
    path.write_text(text)
    done = await finished(*COMMAND, f"nats://127.0.0.1:{free_port()}", "--credentials", path)
    assert done.process.returncode == 2
    assert last(done) == f"--credentials: {path}: expected a user's JWT and its seed, as in a .creds file"


# Certificates


def certify(
    folder: Path, authority: trustme.CA, name: str, not_after: datetime | None = None
) -> list[object]:
    """Write a certificate, and return a server's options with it."""
    certificate = authority.issue_cert(name, not_after=not_after)
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    return ["--tls", "--tlscert", folder / "cert.pem", "--tlskey", folder / "key.pem"]


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("another authority", "unable to get local issuer certificate"),
        ("another host", "IP address mismatch, certificate is not valid for '127.0.0.1'."),
        ("expired", "certificate has expired"),
    ],
)
async def test_a_certificate_that_is_not_accepted(tmp_path, case, said):
    """It ends the bridge with 1 and one line that says what is wrong with it."""
    authority = trustme.CA()
    host = "example.org" if case == "another host" else "127.0.0.1"
    not_after = datetime(2020, 1, 1, tzinfo=UTC) if case == "expired" else None
    options = certify(tmp_path, authority, host, not_after)
    if case == "another authority":
        trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    async with nats_server(tmp_path, *options) as server:
        url = server.url.replace("nats:", "tls:")
        done = await finished(*COMMAND, url, "--tls-ca", tmp_path / "ca.pem")
        assert (done.process.returncode, last(done)) == (
            1,
            f"the server's certificate is not accepted: {said}",
        )


async def test_nothing_is_said_in_the_clear(tmp_path):
    """A server without TLS, where it is asked for, learns no password, and the bridge ends with 1."""
    (tmp_path / "password").write_text("open sesame")
    heard: list[bytes] = []

    async def overhear(stream: trio.SocketStream) -> None:
        await stream.send_all(
            b'INFO {"server_id":"x","version":"2.9.10","auth_required":true,"max_payload":1}\r\n'
        )
        heard.extend([data async for data in stream])

    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener.socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, overhear, [listener])
        arguments = ("--user", "feed", "--password-file", tmp_path / "password")
        for scheme, more in (("tls", ()), ("nats", ("--tls-ca", tmp_path / "ca.pem"))):
            done = await finished(*COMMAND, f"{scheme}://127.0.0.1:{port}", *arguments, *more)
            assert (done.process.returncode, last(done)) == (1, "the server does not offer TLS")
        nursery.cancel_scope.cancel()
    assert b"".join(heard) == b""


# Permissions

PUBLISH = (
    "feed.>",
    "$JS.API.STREAM.INFO.FEED",
    "$JS.API.STREAM.CREATE.FEED",
    "$JS.API.CONSUMER.CREATE.FEED",
    "$JS.FC.>",
)


@pytest.mark.parametrize("missing", [*PUBLISH[:4], "_INBOX.>"])
async def test_a_subject_that_is_forbidden(tmp_path, missing):
    """The log says which one it is, in the server's own word, and the bridge tries on: rules can be mended."""
    publish = ", ".join(f'"{one}"' for one in PUBLISH if one != missing)
    subscribe = "nothing" if missing == "_INBOX.>" else "_INBOX.>"
    rules = tmp_path / "nats.conf"
    user = (
        f'{{user: feed, password: sesame, permissions: {{publish: [{publish}], subscribe: ["{subscribe}"]}}}}'
    )
    rules.write_text(f"authorization {{ users: [{user}] }}\n")
    (tmp_path / "password").write_text("sesame")
    async with (
        nats_server(tmp_path, "-c", rules) as server,
        exchange(tmp_path, "--rate", 100) as running,
        daemon(write_config(tmp_path, running.url, markets=MARKETS)),
        bridge(
            server, tmp_path / "feed.sock", "--user", "feed", "--password-file", tmp_path / "password"
        ) as forwarding,
    ):
        line = await forwarding.errors.wait_for('"bridge_link_lost"')
        assert "permissions violation" in line.lower()
        assert missing.rstrip(">").lower() in line.lower()


async def test_a_server_without_jetstream(tmp_path):
    """The log says that nobody answers for it."""
    async with (
        nats_server(tmp_path, jetstream=False) as server,
        bridge(server, tmp_path / "x.sock") as forwarding,
    ):
        assert "JetStream: nobody answers" in await forwarding.errors.wait_for('"bridge_link_lost"')


async def test_a_server_that_is_not_there(tmp_path):
    """The first attempt says why, at once; of several servers the last word counts."""
    async with nats_server(tmp_path) as server:
        await server.stop()
        for url, reason in (
            (server.url, "connection refused"),
            ("nats://x.invalid:4222", "name is not known"),
        ):
            async with bridge(server, tmp_path / "x.sock", url=url) as forwarding:
                with trio.fail_after(4):
                    assert reason in await forwarding.errors.wait_for('"bridge_link_lost"')
