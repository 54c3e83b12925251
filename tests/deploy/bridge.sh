#!/bin/bash
# The bridge's service with a real NATS, as nats.md says; the test compares the stream with the truth.
# Runs behind single.sh.
. /source/tests/deploy/machine.sh

unit=feedhandler-bridge-nats
export NATS_PASSWORD=password-of-the-machine

stream() { /opt/feedhandler/bin/python /source/tests/deploy/stream.py "$1"; }
grows() { local before; before=$(stream count); within 15 eval "[ \$(stream count) -gt $((before + 100)) ]"; }
server() { transient nats nats-server --config /tmp/nats.conf && within 20 listens 4222; }
all_arrived() { [ "$(stream events)" = "$(wc --lines < /out/bridged.jsonl)" ]; }

systemctl stop feedhandler 'feedhandler@*' 'feedhandler-pair@*'
mkdir --parents /run/systemd/system/$unit.service.d
printf '[Service]\nWatchdogSec=5\n' > /run/systemd/system/$unit.service.d/sooner.conf
check exchange exchange --rate 200 --wait 2 --truth /out/bridged.jsonl
printf 'listen: "127.0.0.1:4222"\njetstream { store_dir: "/tmp/nats", max_file: 32G }\nauthorization { user: feed, password: "%s" }\n' \
    $NATS_PASSWORD > /tmp/nats.conf
check server server

section 'As a service' nats.md & # there is no socket yet
installing=$!
check waits-for-the-socket within 60 is ActiveState activating
check it-says-for-what within 10 status_says "NOT CONNECTED to the daemon's socket"
systemctl start feedhandler
check install wait $installing
check ready is ActiveState active
check it-writes within 10 status_says '^stream FEED: writes; 4 channels, at [0-9]*$'
check grows grows
check password-is-secret test -z "$(journalctl --output cat | grep --fixed-strings --regexp "$NATS_PASSWORD")"
check user-is-dynamic test -z "$(getent passwd $unit | grep --invert-match 'Dynamic User')"

began=$(date +%s%N)
systemctl stop $unit
check drained-in-time test $((($(date +%s%N) - began) / 1000000)) -lt 6000
check ended-well is Result success
check ended-with-0 is ExecMainStatus 0
check last-word logged bridge_stopped
stood=$(stream count)
sleep 1
check nothing-comes-any-more test "$(stream count)" = "$stood"
systemctl start $unit
check goes-on grows

systemctl kill --kill-who main --signal KILL $unit
check restarted within 15 is NRestarts 1
check goes-on-after-the-kill grows

systemctl kill --kill-who main --signal STOP $unit
check watchdog-kills within 20 is NRestarts 2
check watchdog-was-it eval 'test "$(journalctl --unit $unit | grep --count "Watchdog timeout")" -eq 1'
check goes-on-after-the-watchdog grows

check server-again server
check goes-on-after-the-server grows
check without-a-restart is NRestarts 2

cp /etc/feedhandler/bridge-nats.env /tmp
sed --in-place 's/"$/ --max-gib 1"/' /etc/feedhandler/bridge-nats.env
check other-settings-are-refused eval '! systemctl restart $unit'
check mistake-is-final within 5 is ActiveState failed
check mistake-is-2 is ExecMainStatus 2
check it-names-them logged 'stream FEED: max_bytes: expected'
cp /tmp/bridge-nats.env /etc/feedhandler
systemctl start $unit
check comes-back grows

systemctl stop exchange
check all-arrived within 30 all_arrived
stream records > /out/stream.jsonl
systemctl disable --now $unit
echo done
