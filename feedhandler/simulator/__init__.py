"""The simulated exchange: what the feed handler is tried against.

It speaks the exchange's protocol on one port, keeps a book for every market, plays generated traffic or
tapes of real traffic, writes down the truth, and breaks on demand. From the inside out:

    settings    what can be set: `Settings`, `Behaviour`, `Fault`, the faults file
    messages    the exchange's messages as bytes; `frames` their WebSocket frames
    market      one market: its book and its recent trades, folded from the very payloads that were broadcast
    traffic     seeded generated traffic; `tapes` recorded traffic: both are plain iterators of `Step`
    outbox      what one connection still has to send, and what can go wrong with it
    gate        tokens, handshakes, caps, and how well the clients keep to the rules
    requests    the answers to what clients ask
    connection  one WebSocket connection; `wire` the HTTP around it
    exchange    markets, connections, broadcast, truth; `faults` strikes them, `player` plays them
    server      the nursery tree; `command` the command line

**An event is broadcast once, whoever is connected**: it enters the book and the truth, then the outbox of
every subscriber, without an await in between. **A broadcast's frame is built once** and shared by all
connections. **Everything that a fault does happens in one connection's outbox**, so no fault reaches
another line.
"""
