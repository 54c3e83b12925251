#!/bin/bash
# The service, as install.md says.
. /source/tests/deploy/machine.sh

socket=/run/feedhandler/feed.sock

log_waits() { # whether the daemon has log lines that nobody has read
    exec 3<> /dev/tcp/127.0.0.1/9464
    printf 'GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' >&3
    timeout 5 cat <&3 | grep --quiet '^feedhandler_log_lines_waiting [^0]'
}

export API_KEY=key-of-the-machine API_SECRET=secret-of-the-machine
check install section Install
check configure section Configure
cp deploy/feedhandler.service /tmp
mistakes=$(systemd-analyze verify /tmp/feedhandler.service 2>&1)
check no-mistake-in-the-unit test -z "$mistakes"
echo "$mistakes"

check exchange exchange --rate 50

check start section Start
check ready is ActiveState active
check status-line within 15 status_says '^2/2 feeds live, 4/4 lines up, 0 consumers, 0 gaps$'
check socket-mode-and-group test "$(stat --format '%a %G' $socket)" = '660 feedhandler-consumers'
check user-is-dynamic test -z "$(getent passwd feedhandler | grep --invert-match 'Dynamic User')"
check credentials logged token_renewed
check credentials-are-secret test -z "$(journalctl --output cat | grep --fixed-strings --regexp "$API_SECRET")"
check state-folder test -d /var/lib/private/feedhandler

check consumer-in-the-group section Read
check consumer-outside-the-group test -z "$(run_as_service timeout 2 feedhandler tail --socket $socket --count 1 2> /dev/null)"

pid=$(shown MainPID)
check reload section Change
check reloaded within 10 logged config_reloaded
echo 'nonsense = 1' >> /etc/feedhandler/feedhandler.toml
systemctl reload $unit
check refused within 10 status_says 'the new configuration was refused, the old one stays$'
check still-the-same test "$(shown MainPID)" = "$pid"
sed --in-place '/^nonsense/d' /etc/feedhandler/feedhandler.toml
systemctl reload $unit
check accepted within 10 status_says 'gaps$'

before=$(readlink /opt/feedhandler)
check upgrade section Upgrade
check upgraded test "$(readlink /opt/feedhandler)" != "$before"
check new-release-runs runs "$(readlink /opt/feedhandler)"
check whole-after-the-upgrade within 15 status_says '^2/2 feeds live, 4/4 lines up'
check go-back section 'Go back'
check old-release-runs runs "$before"
check whole-after-going-back within 15 status_says '^2/2 feeds live, 4/4 lines up'
pid=$(shown MainPID)

kill -KILL "$pid"
check restarted within 15 is NRestarts 1
check ready-again within 15 is ActiveState active

mkdir --parents /run/systemd/system/$unit.service.d
cat > /run/systemd/system/$unit.service.d/freezing.conf << 'END'
[Service]
WatchdogSec=3
ExecStart=
ExecStart=/opt/feedhandler/bin/python /source/tests/deploy/freezing.py run --config /etc/feedhandler/feedhandler.toml
END
systemctl daemon-reload
systemctl restart $unit
check lives-before-the-fault within 15 status_says '4/4 lines up'
before=$(shown NRestarts)
systemctl kill --kill-who main --signal USR1 $unit # from now on nothing reads; the event loop turns on
check killed-after-the-fault within 30 eval '[ "$(shown NRestarts)" -gt "$before" ]'
check lives-after-the-fault within 20 status_says '4/4 lines up'
check watchdog-was-it eval 'test "$(journalctl --unit $unit | grep --count "Watchdog timeout")" -eq 1'
check it-said-why eval 'logged progress_stopped'
check it-left-a-trace logged 'Fatal Python error: Aborted'
rm /run/systemd/system/$unit.service.d/freezing.conf
systemctl daemon-reload
systemctl restart $unit

cat > /run/systemd/system/$unit.service.d/flooding.conf << 'END'
[Service]
ExecStart=
ExecStart=/bin/bash -c '{ until [ -e /run/flood ]; do sleep 0.1; done; head --bytes 16M /dev/zero | tr "\\0" x | fold --width 4000 >&2; } & exec /opt/feedhandler/bin/feedhandler run --config /etc/feedhandler/feedhandler.toml'
END
systemctl daemon-reload
systemctl restart $unit
check lives-before-the-journal-stops within 15 status_says '4/4 lines up'
pid=$(shown MainPID)
systemctl kill --kill-who main --signal STOP systemd-journald
touch /run/flood # who shares the daemon's standard error fills what the system keeps for a journal that does not read
sleep 2
check commanded-beside-a-standing-journal timeout 5 feedhandler ctl --socket $socket restart BTC-USD a
check log-waits within 5 log_waits
check events-beside-a-standing-journal test "$(run_as_service --property SupplementaryGroups=feedhandler-consumers \
    timeout 10 feedhandler tail --socket $socket --count 100 | wc --lines)" -ge 100
check all-well-beside-a-standing-journal status_says '^2/2 feeds live'
systemctl kill --kill-who main --signal CONT systemd-journald
check log-goes-on within 10 eval '! log_waits'
check what-had-to-wait-was-logged within 10 logged '"event": "command_received"'
check the-same-daemon test "$(shown MainPID)" = "$pid"
rm /run/systemd/system/$unit.service.d/flooding.conf /run/flood
systemctl daemon-reload
systemctl restart $unit

systemd-run --quiet --unit consumer --property SupplementaryGroups=feedhandler-consumers --property DynamicUser=yes \
    feedhandler tail --socket $socket
check consumer-reads within 15 eval 'journalctl --output cat --unit consumer | grep --quiet "\"type\":\"event\""'
began=$(date +%s%N)
systemctl stop $unit
check drained-in-time test $((($(date +%s%N) - began) / 1000000)) -lt 5000
check last-word within 5 eval 'journalctl --output cat --unit consumer | grep --quiet "{\"type\":\"bye\",\"reason\":\"shutdown\"}"'
check ended-well is Result success
check ended-with-0 is ExecMainStatus 0
systemctl stop consumer

echo 'nonsense = 1' >> /etc/feedhandler/feedhandler.toml
systemctl start $unit 2> /dev/null
check mistake-is-final within 5 is ActiveState failed
check mistake-is-2 is ExecMainStatus 2
sed --in-place '/^nonsense/d' /etc/feedhandler/feedhandler.toml

check several section 'More than one core'
check apart test -S /run/feedhandler/majors/feed.sock -a -S /run/feedhandler/minors/feed.sock
kill -KILL "$(shown MainPID feedhandler@majors)"
check fate-of-its-own test "$(shown NRestarts feedhandler@minors)" = 0
check comes-back within 15 eval '[ "$(shown ActiveState feedhandler@majors)" = active ]'
check watch section Watch
check runbook-link grep --quiet 'runbook_url: https://wiki.example.org/feedhandler/RUNBOOK.md#feedhandlergap' \
    /etc/prometheus/rules/feedhandler.rules.yml
echo done
