"""Where images come from: packages, signed repositories, folders, container layouts. The administrator's side.

Nothing here runs in a broker. The room reads what others made and may have tampered with, so it trusts nothing but the keyring
that the administrator names, unpacks nothing to disk, and gives up at named limits. What it finds it measures with the same code
as everybody else, and it says of each image where it was and who vouches for it.
"""
