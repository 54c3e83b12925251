"""An ordinary consumer of NATS, for the machine: says how much is in the stream, or prints it.

    NATS_PASSWORD=… python stream.py count|events|records

The messages are printed as they are, one a line.
"""

import asyncio
import os
import sys

import nats

PATIENCE_S = 10.0


async def main(what: str) -> None:
    """Look at the stream."""
    client = await nats.connect(
        "nats://127.0.0.1:4222", user="feed", password=os.environ["NATS_PASSWORD"], allow_reconnect=False
    )
    try:
        streams = client.jetstream()
        count = (await streams.stream_info("FEED")).state.messages
        if what == "count":
            print(count)  # noqa: T201
            return
        subscription = await streams.subscribe("feed.>", stream="FEED", ordered_consumer=True)
        records = [(await subscription.next_msg(timeout=PATIENCE_S)).data for _ in range(count)]
        if what == "events":
            print(sum(one.startswith(b'{"type":"event"') for one in records))  # noqa: T201
        else:
            sys.stdout.buffer.write(b"".join(one + b"\n" for one in records))
    finally:
        await client.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
