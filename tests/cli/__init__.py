"""`backup-cli` as a person uses it: exit codes, sentences, and what lies on the disk afterwards."""
