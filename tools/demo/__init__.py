"""``make demo``: real realms get their secrets, attacks are refused. Everything runs as separate programs, through CLI and HTTP."""
