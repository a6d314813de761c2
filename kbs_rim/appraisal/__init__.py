"""PURE. The judgement: findings, workloads, boot rules, the external verifier's result, the verdict."""
