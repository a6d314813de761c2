"""The attester's side: TSM reports, the guest client, the realm simulator."""
