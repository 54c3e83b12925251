#!/bin/bash
# The pair, as standby.md says, with a consumer through all of it; the test compares what that got with the truth.
# Runs behind single.sh.
. /source/tests/deploy/machine.sh

one=feedhandler-pair@1
two=feedhandler-pair@2
socket=/run/feedhandler/pair/feed.sock

follow() { section "$1" standby.md; }
ready() { status_says 'standby, ready$' "$1"; }
leads() { # UNIT [STANDBY]: whether that one is the active daemon, and whole, and what it says of its standby
    status_says "^2/2 feeds live, 4/4 lines up, [0-9]* consumers*, 0 gaps, ${2:-standby ready}\$" "$1" \
        && [ "$(holder)" = "$(shown MainPID "$1")" ]
}
holder() { # who has the lock
    awk -v inode="$(stat --format %i $socket.lock)" '{ split($6, file, ":") } $2 == "FLOCK" && file[3] == inode { print $5 }' /proc/locks
}
times() { journalctl --output cat --unit "$2" | grep --count "\"$1\""; }
takeovers() { times took_over "$1"; }
events() { grep --count '"type":"event"' /out/heard.jsonl; }
flows() { local before; before=$(events); within 15 eval "[ \$(events) -gt $((before + 300)) ]"; }
versions() { journalctl --output cat --unit "$1" | grep "\"$2\"" | tail -1 | grep --quiet --fixed-strings '99.1.0'; }

systemctl disable --now feedhandler@majors feedhandler@minors
mkdir --parents /run/systemd/system/feedhandler-pair@.service.d
printf '[Service]\nWatchdogSec=5\n' > /run/systemd/system/feedhandler-pair@.service.d/sooner.conf
# it begins to play when a market has the active daemon's two lines and the standby's one
check exchange exchange --rate 300 --wait 3 --truth /out/truth.jsonl
systemctl enable --now feedhandler
# this exchange allows more attempts than the default, so that nobody waits for one here
install -D --mode 0644 /dev/stdin /etc/feedhandler/pair/limits.toml <<< $'[limits]\nconnections_per_minute = 60'

check pair follow 'Two instances of one template'
check returned-when-it-was-ready ready $two
check single-is-gone is ActiveState inactive feedhandler
check first-leads within 15 leads $one
check one-user test "$(stat --format %U "/proc/$(shown MainPID $one)" "/proc/$(shown MainPID $two)" | uniq)" = feedhandler-pair
check socket-mode-and-group test "$(stat --format '%a %U %G' $socket)" = '660 feedhandler-pair feedhandler-consumers'
systemd-run --quiet --unit reader --property SupplementaryGroups=feedhandler-consumers --property DynamicUser=yes \
    --property StandardOutput=file:/out/heard.jsonl --property StandardError=journal \
    /opt/feedhandler/bin/python /source/tests/deploy/reader.py $socket
check reader within 15 test -s /out/heard.jsonl
check consumers follow 'Consumers of the pair'
check look follow 'Look at the pair'
check events-flow flows

mkdir /tmp/next
cp --recursive pyproject.toml README.md feedhandler deploy config /tmp/next
sed --in-place 's/^__version__ = .*/__version__ = "99.1.0"/' /tmp/next/feedhandler/__init__.py
next_release() { (cd /tmp/next && follow 'An upgrade without downtime'); }
check upgrade next_release
check returned-when-it-was-ready-again ready $one
check second-leads within 15 leads $two
check new-release-runs runs "$(readlink /opt/feedhandler)" $one
check new-release-leads runs "$(readlink /opt/feedhandler)" $two
check new-version-leads versions $two daemon_started
check new-version-is-followed versions $one following_began
check one-takeover test "$(takeovers $one) $(takeovers $two)" = '0 1'
check events-flow-after-the-upgrade flows

before=$(times following_began $one)
check change follow "Change the pair's configuration"
check status-line-after-the-change within 15 ready $one
check second-leads-on within 15 leads $two
check followed-on-without-another-feed test "$(times following_began $one)" = "$before"

systemctl kill --kill-who main --signal KILL $two
check first-takes-over within 5 eval '[ "$(takeovers $one)" = 1 ]'
check killed-one-comes-back within 20 ready $two
check first-leads-again within 15 leads $one
check events-flow-after-the-kill flows

systemctl kill --kill-who main --signal STOP $one
frozen=$(shown MainPID $one)
sleep 2
check frozen-one-keeps-the-lock test "$(holder)" = "$frozen"
check second-waits eval 'test "$(takeovers $two)" = 1 && ready $two'
CREDENTIALS_DIRECTORY=/etc/feedhandler feedhandler run --config /etc/feedhandler/pair > /tmp/beside 2>&1
check nobody-beside-it test $? = 1
cat /tmp/beside
check it-says-so grep --quiet 'another feedhandler serves this socket' /tmp/beside
check watchdog-kills within 20 eval '[ "$(shown MainPID $one)" != "$frozen" ]'
check second-takes-over within 5 eval '[ "$(takeovers $two)" = 2 ]'
check frozen-one-comes-back within 20 ready $one
check second-leads-again within 15 leads $two
check watchdog-was-it eval 'test "$(journalctl --unit $one --unit $two | grep --count "Watchdog timeout")" -eq 1'
check it-left-a-trace logged 'Fatal Python error: Aborted' $one
check nothing-of-its-memory eval '! journalctl --unit $one | grep "dumped core"'
check restarted-once-each test "$(shown NRestarts $one) $(shown NRestarts $two)" = '1 1'
check events-flow-after-the-watchdog flows

systemctl stop $one
check socket-stays eval 'test -S $socket && flows'
systemctl start $one
check returned-when-it-was-ready-once-more ready $one
feedhandler ctl --socket $socket handover
check handed-over within 5 eval '[ "$(takeovers $one)" = 2 ]'
check old-one-is-the-standby within 20 ready $two
check first-leads-at-the-end within 15 leads $one
check events-flow-at-the-end flows

systemctl stop exchange
check all-arrived within 20 eval '[ "$(events)" = "$(wc --lines < /out/truth.jsonl)" ]'
systemctl stop reader
journalctl --no-pager --output cat --unit reader > /out/reader.log
check exchange-for-one-daemon exchange --rate 50

check back follow 'Back to one daemon'
check single-leads within 15 status_says '^2/2 feeds live, 4/4 lines up' feedhandler
check pair-is-gone test "$(shown ActiveState $one) $(shown ActiveState $two)" = 'inactive inactive'
systemctl start $one
check they-exclude-each-other is ActiveState inactive feedhandler
check its-socket-is-there within 15 leads $one 'NO STANDBY'
systemctl start feedhandler
check the-other-way-round test "$(shown ActiveState feedhandler) $(shown ActiveState $one)" = 'active inactive'
echo done
