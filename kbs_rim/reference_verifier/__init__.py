"""A small platform verifier that speaks Veraison's API."""
