#!/bin/bash
# The bridge beside a pair: what an ordinary consumer of NATS reads while the daemons take over from each other; the test
# compares that with the truth. Runs behind pair.sh and bridge.sh, with what they have installed.
. /source/tests/deploy/machine.sh

unit=feedhandler-bridge-nats
one=feedhandler-pair@1
two=feedhandler-pair@2
socket=/run/feedhandler/pair/feed.sock
export NATS_PASSWORD=password-of-the-machine

stream() { /opt/feedhandler/bin/python /source/tests/deploy/stream.py "$1"; }
grows() { local before; before=$(stream count); within 15 eval "[ \$(stream count) -gt $((before + 200)) ]"; }
all_arrived() { [ "$(stream events)" = "$(wc --lines < /out/pair-bridged.jsonl)" ]; }
ready() { status_says 'standby, ready$' "$1"; }
leads() { status_says '4/4 lines up, .* 0 gaps, standby ready$' "$1"; }

systemctl stop $unit feedhandler nats
rm --recursive --force /tmp/nats
check server transient nats nats-server --config /tmp/nats.conf
within 20 listens 4222
check exchange exchange --rate 300 --wait 3 --truth /out/pair-bridged.jsonl
systemctl start $one # one after the other, so that it is known who leads
systemctl start $two
check first-leads within 30 leads $one

check beside-a-pair section 'Beside a pair' nats.md
check it-writes within 15 status_says '^stream FEED: writes; 4 channels, at [0-9]*$'
check it-reads-the-pair logged bridge_led
check grows grows

feedhandler ctl --socket $socket handover
check handed-over within 15 leads $two
check old-one-is-the-standby within 20 ready $one
check grows-after-the-handover grows

systemctl kill --kill-who main --signal KILL $two
check taken-over within 15 leads $one
check killed-one-comes-back within 20 ready $two
check grows-after-the-kill grows

before=$(shown NRestarts)
systemctl kill --kill-who main --signal KILL $unit
systemctl kill --kill-who main --signal KILL $one
check taken-over-again within 15 leads $two
check bridge-is-back within 20 eval '[ "$(shown NRestarts)" -gt "$before" ] && [ "$(shown ActiveState)" = active ]'
check grows-after-both-were-killed grows
check it-writes-at-the-end within 15 status_says '^stream FEED: writes; 4 channels, at [0-9]*$'
systemctl stop exchange
check all-arrived within 30 all_arrived
stream records > /out/pair-stream.jsonl
systemctl disable --now $unit
systemctl stop $one $two
echo done
