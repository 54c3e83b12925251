# What the scripts that run in the machine share; test_machine.py boots it. Each follows a document, then does to the
# services what happens to services, and prints "ok NAME" for each thing that is as it should be, "not ok NAME" for each
# that is not, and "done" at its end.
set -uo pipefail
source=/source
cd $source

unit=feedhandler

check() { # NAME COMMAND...: tell whether the command succeeds, and when that was
    if "${@:2}"; then echo "ok $1"; else echo "not ok $1"; fi
    echo "  at $SECONDS s"
}
within() { # SECONDS COMMAND...: wait until the command succeeds
    local deadline=$((SECONDS + $1))
    until "${@:2}"; do
        [ $SECONDS -lt $deadline ] || return 1
        sleep 0.1
    done
}
shown() { systemctl show --property "$1" --value "${2:-$unit}"; }
status_says() { shown StatusText "${2:-$unit}" | grep --quiet --regexp "$1"; }
is() { [ "$(shown "$1" "${3:-$unit}")" = "$2" ]; }
logged() { journalctl --output cat --unit "${2:-$unit}" | grep --quiet --regexp "$1"; }
listens() { (: < "/dev/tcp/127.0.0.1/$1") 2> /dev/null; }
runs() { tr '\0' ' ' < "/proc/$(shown MainPID "${2:-$unit}")/cmdline" | grep --quiet --fixed-strings --regexp "$1/bin/"; }
transient() { # NAME COMMAND...: run a service that stands in no file, in place of the one before
    systemctl stop "$1" 2> /dev/null
    systemctl reset-failed "$1" 2> /dev/null
    systemd-run --quiet --unit "$@"
}
exchange() { # OPTION...: run an exchange of its own in place of the one before
    transient exchange feedhandler simulate --port 8765 --market BTC-USD --market ETH-USD "$@"
    within 20 listens 8765
}
run_as_service() { systemd-run --quiet --pipe --wait --property DynamicUser=yes "$@"; }
section() { # NAME [DOCUMENT]: run the commands of a section
    local commands
    commands=$(sed -n "/^## $1\$/,/^## /p" "$source/deploy/${2:-install.md}" | sed -n '/^```sh$/,/^```$/p' | grep -v '^```')
    [ -n "$commands" ] || return 1
    # the exchange and the NATS of this machine instead of real ones
    commands=${commands//wss:\/\/ws.trade.rails.xyz/ws://127.0.0.1:8765}
    commands=${commands//https:\/\/api-auth.trade.rails.xyz/http://127.0.0.1:8765}
    commands=${commands//10.0.0.5:4222/127.0.0.1:4222}
    bash -euo pipefail -c "$commands"
}
