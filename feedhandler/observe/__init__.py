"""What operators see: notes become metrics and log lines here, and nowhere else.

    notes ──▶ logs          one line for each that matters, never a wait for whoever reads them
      └─────▶ counts        one metric for each ◀── catalogue, metrics: every name and what it says

    the running parts (sight) ──▶ collecting, exposition     a scrape
                              ├─▶ telling                    everything as one value (status) ◀── history
                              ├─▶ readiness, liveness        whether the stream can be relied on
                              ├─▶ pair                       which of two daemons this is, and how the standby does
                              └─▶ systemd                    ready, how it is, alive: over manager, as a bridge does

    http ──▶ pages ──▶ all of these, made in slices, so that no picture holds up an event; page: the one for people
    command ──▶ asking ──▶ terminal     `status` and `top`: another process, over HTTP
    bridging                            the same of a bridge, which is a program of its own
    incidents                           files about lines that disagreed
    reference                           every name as tables, for a runbook

Nothing here changes anything of what it looks at.
"""
