"""What changes a daemon that runs: a new configuration, the exchange's list of markets, and `feedhandler ctl`."""
