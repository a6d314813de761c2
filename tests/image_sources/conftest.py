"""Keys and a repository for tests of signed sources."""

from tests.repository_fixtures import repository, signers

__all__ = ["repository", "signers"]
