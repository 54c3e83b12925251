#!/bin/bash
# The bridge's service with a real NATS, as nats.md says; the test compares the stream with the truth. Runs behind single.sh.
. /source/tests/deploy/machine.sh

unit=feedhandler-bridge-nats
export NATS_PASSWORD=password-of-the-machine

in_stream() { /opt/feedhandler/bin/python /source/tests/deploy/stream.py count; }
grows() { local before; before=$(in_stream); within 15 eval "[ \$(in_stream) -gt $((before + 100)) ]"; }

systemctl stop feedhandler 'feedhandler@*' 'feedhandler-pair@*'
check exchange exchange --rate 200 --wait 2 --truth /out/bridged.jsonl
printf 'listen: "127.0.0.1:4222"\njetstream { store_dir: "/out/nats", max_file: 32G }\nauthorization { user: feed, password: "%s" }\n' \
    $NATS_PASSWORD > /tmp/nats.conf
systemd-run --quiet --unit nats nats-server --config /tmp/nats.conf
check nats within 20 listens 4222

check bridge section 'As a service' nats.md # there is no socket yet: it waits
check it-waits is ActiveState active
systemctl start feedhandler
check stream-is-there within 20 in_stream
check grows grows
check password-is-secret test -z "$(journalctl --output cat | grep --fixed-strings --regexp "$NATS_PASSWORD")"
check its-user-is-dynamic test -z "$(getent passwd $unit | grep --invert-match 'Dynamic User')"

began=$(date +%s%N)
systemctl stop $unit
check drained-in-time test $((($(date +%s%N) - began) / 1000000)) -lt 6000
check ended-well is Result success
check ended-with-0 is ExecMainStatus 0
stood=$(in_stream)
sleep 1
check nothing-comes-any-more test "$(in_stream)" = "$stood"
systemctl start $unit
check goes-on grows

kill -KILL "$(shown MainPID)"
check restarted within 15 is NRestarts 1
check goes-on-after-the-kill grows

systemctl stop nats
systemd-run --quiet --unit nats nats-server --config /tmp/nats.conf
check nats-again within 20 listens 4222
check goes-on-after-the-server grows

echo 'OPTIONS="--server nats://127.0.0.1:4222 --replicas 9"' > /etc/feedhandler/bridge-nats.env.wrong
printf '[Service]\nEnvironmentFile=/etc/feedhandler/bridge-nats.env.wrong\n' | install -D --mode 0644 /dev/stdin \
    /run/systemd/system/$unit.service.d/wrong.conf
systemctl daemon-reload
systemctl restart $unit
check mistake-is-final within 10 is ActiveState failed
check mistake-is-2 is ExecMainStatus 2
rm /run/systemd/system/$unit.service.d/wrong.conf
systemctl daemon-reload
systemctl start $unit
check comes-back grows

systemctl stop exchange
all_there() { [ "$(/opt/feedhandler/bin/python /source/tests/deploy/stream.py events)" = "$(wc --lines < /out/bridged.jsonl)" ]; }
check all-arrived within 30 all_there
/opt/feedhandler/bin/python /source/tests/deploy/stream.py records > /out/stream.jsonl
systemctl disable --now $unit
rm --recursive --force /out/nats
echo done
