"""The bridge: the socket's stream in NATS JetStream, once, from however many hosts.

The stream in JetStream is one more merged sequence, and each host with a daemon and a bridge is a line of it. Identical
daemons on several hosts read the same events; each bridge reads the stream, strikes out what stands there, and what it
has that nobody writes it writes itself. So the stream has every event once, as long as one host lives.

- **A message stands behind its predecessor or nowhere.** [merge.py; test_merge.py: test_hosts_write_every_event_once]
- **What a channel's stream has is contiguous by `seq`, whoever wrote it.** [test_nats.py: test_one_host]
- **What could not be proven complete is marked by a gap record.** [test_nats.py: test_a_daemon_that_restarts]
- **The daemon knows nothing of it**: the bridge is a consumer of its socket like any other.

    subjects    channels as subjects, and back
    entries     records on their way, their ids, their bytes
    ledger      what one side has and the other has not
    window      the newest events of a channel in the stream
    channel     one channel: aligned or witness, pending, owed, late
    merge       all channels: who writes, under which condition
    settings    what is wanted of the stream and of the server
    link        a connection to NATS; nothing else imports its library
    source      the daemon's socket
    serving     HTTP for operators; supervised, what systemd hears
    forwarding  the program that runs; command, its options

What a bridge keeps it keeps in memory: the stream itself is its position.
"""
