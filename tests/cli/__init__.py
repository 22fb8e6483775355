"""`backup-cli` as a person uses it: exit codes, sentences, and what is on the disk afterwards."""
